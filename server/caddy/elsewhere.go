package main

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A page of another site, a mail or a list of films can make a visitor's programs ask things here. None of that may get
// the visitor banned, and whoever pretends to be such a program gains nothing by it: what is refused before Immich has
// seen it tells nobody anything, and guesses stay few.

// fromElsewhere tells whether something elsewhere made a program ask this, for a picture, a script, a form, over a
// websocket or ahead of time, and not a person who followed a link there. Immich never sees such a request.
func fromElsewhere(r *http.Request) bool {
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site":
		opens := r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
		return isAhead(r) || !opens || !reads
	case "same-site": // another node of the tailnet, whose pages may show pictures of a link
		return !reads
	case "":
		// Websockets, browsers of before 2023, and programs that are none.
		if origin := r.Header.Get("Origin"); origin == "null" && !reads {
			return false // so said of a page's own calls, too, where it sends no Referer
		}
		return hasForeignOrigin(r) || isNoReader(r) && isLinkPage(r)
	}
	return false
}

// ledHere tells whether something elsewhere may have led a program here, be it only by opening a page: a script can do
// that ten times in a second, each time before the answer is there.
func ledHere(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return true
	case "":
		return hasForeignOrigin(r) || isNoReader(r) || isAhead(r) || isOffice(r)
	}
	return false
}

// isAhead tells whether a program asks before anybody wants it, or to show what is there.
func isAhead(r *http.Request) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		if purpose := r.Header.Get(name); strings.Contains(purpose, "prefetch") || strings.Contains(purpose, "preview") {
			return true
		}
	}
	return false
}

// hasForeignOrigin tells whether another site's script or form asks; a page that hides where it is from says "null".
func hasForeignOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	_, host, _ := strings.Cut(origin, "://")
	return !strings.EqualFold(host, strings.TrimSuffix(r.Host, ":443"))
}

// isNoReader tells whether a request is a picture's, a film's or a style's: nobody opens the page of a link in that way.
func isNoReader(r *http.Request) bool {
	for _, kind := range []string{"image/", "video/", "audio/", "text/css"} {
		if strings.HasPrefix(r.Header.Get("Accept"), kind) {
			return true
		}
	}
	return hasAgent(r, []string{"AppleCoreMedia/", "stagefright/", "ExoPlayerLib/"})
}

// isOffice tells whether an office program asks, which shows the pictures that a mail tells it to. It also looks at a link
// that somebody follows before the browser does, and opens none that is refused.
func isOffice(r *http.Request) bool {
	return hasAgent(r, []string{"ms-office", "Microsoft Outlook"})
}

func hasAgent(r *http.Request, names []string) bool {
	agent := r.Header.Get("User-Agent")
	return slices.ContainsFunc(names, func(name string) bool { return strings.Contains(agent, name) })
}

func isLinkPage(r *http.Request) bool {
	of, _ := linkOfPage(r.RequestURI)
	return of.name != ""
}

// ledWindow is in what time a visitor may be led to as many unknown links as may be guessed before a ban. The ban would
// be an hour's at least: so a guesser who pretends to be led here gets no more guesses than others.
const ledWindow = time.Hour

// ledToUnknown counts unknown links that visitors were led to, in place; it outlives the reload of a configuration.
var ledToUnknown buckets

// ledVar is where the gate keeps for what comes after it, which does not see these headers, that a visitor was led here.
const ledVar = "led"

// noteLed counts an unknown link that a visitor was led to.
func noteLed(r *http.Request, now time.Time) {
	limits := inForce.Load()
	if limits == nil {
		return
	}
	visitor, wide := networksOf(r.RemoteAddr, limits.Visitor)
	ledToUnknown.spend(uint64(visitor), 1, limits.led(1), now)
	if wide != nobody {
		ledToUnknown.spend(^uint64(wide), 1, limits.led(wideOffences), now)
	}
}

// isLedTooOften tells whether a visitor was led to so many unknown links that no others are looked up. Whatever
// the visitor does otherwise goes on, and so do links that are live for the network.
func isLedTooOften(r *http.Request, now time.Time) bool {
	limits := inForce.Load()
	if limits == nil || ledToUnknown.isEmpty() {
		return false
	}
	visitor, wide := networksOf(r.RemoteAddr, limits.Visitor)
	names := linksIn(r)
	if len(names) == 0 || isLive(visitor, names) {
		return false
	}
	return ledToUnknown.wait(uint64(visitor), 1, limits.led(1), now) > 0 ||
		wide != nobody && ledToUnknown.wait(^uint64(wide), 1, limits.led(wideOffences), now) > 0
}

// led is how many unknown links a visitor may be led to, times as many.
func (l *Limits) led(times float64) rate {
	return rate{float64(l.Offences.Count) * times, max(ledWindow, time.Duration(l.Offences.Window))}
}

// isTyped tells whether a person has typed an address without much thought, or typed one into a chat program that looks
// at it with each letter. `previews` are what such programs call themselves. Files have an ending, which nobody types.
func isTyped(r *http.Request, path string, previews []string) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || namesFile(path) {
		return false
	}
	if r.Header.Get("Sec-Fetch-Site") == "none" {
		return r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
	}
	return hasAgent(r, previews)
}

// ownPath returns the path, in lower case, of a target that names this very server in front of it, as a whole address
// does that somebody has put behind ours; or nothing.
func ownPath(path, host string) string {
	if decoded, err := url.PathUnescape(path); err == nil {
		path = decoded
	}
	rest := strings.ToLower(strings.TrimLeftFunc(path, isGlue))
	for _, scheme := range []string{"https:", "http:"} {
		rest = strings.TrimLeft(strings.TrimPrefix(rest, scheme), "/")
	}
	name, _, _ := strings.Cut(strings.ToLower(host), ":")
	first, after, deeper := strings.Cut(rest, "/")
	if first, _, _ = strings.Cut(first, ":"); !deeper || name == "" || strings.TrimRightFunc(first, isGlue) != name {
		return ""
	}
	return "/" + after
}
