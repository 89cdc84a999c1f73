package main

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// A page of another site, a mail or a playlist can make a visitor's programs send requests here. None of them may get the
// visitor banned. Pretending to be such a program gains nothing: what is refused before Immich sees it reveals nothing, and
// guesses stay limited.

// fromElsewhere reports whether something elsewhere made a program send this request, for a picture, a script or a form, over a
// websocket or in advance, as opposed to a person who followed a link. Immich never sees such a request.
func fromElsewhere(r *http.Request) bool {
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site":
		opens := r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
		return isAhead(r) || !opens || !reads
	case "same-site": // another node of the tailnet, whose pages may show pictures of a link
		return !reads
	case "":
		// Websockets, browsers from before 2023, and programs that are not browsers.
		if origin := r.Header.Get("Origin"); origin == "null" && !reads {
			return false // the page's own calls say so as well if it sends no Referer
		}
		return hasForeignOrigin(r) || isNoReader(r) && isLinkPage(r)
	}
	return false
}

// ledHere reports whether something elsewhere may have led a program here, if only by opening a page: a script can do that ten
// times per second, each time before the answer arrives.
func ledHere(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return true
	case "":
		return hasForeignOrigin(r) || isNoReader(r) || isAhead(r) || isOffice(r)
	}
	return false
}

// isAhead reports whether a program asks in advance, or only for a preview.
func isAhead(r *http.Request) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		if purpose := r.Header.Get(name); strings.Contains(purpose, "prefetch") || strings.Contains(purpose, "preview") {
			return true
		}
	}
	return false
}

// hasForeignOrigin reports whether another site's script or form asks; a page that hides its origin says "null".
func hasForeignOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	_, host, _ := strings.Cut(origin, "://")
	return !strings.EqualFold(host, strings.TrimSuffix(r.Host, ":443"))
}

// isNoReader reports whether a request is for a picture, a video or a style: nobody opens the page of a link that way.
func isNoReader(r *http.Request) bool {
	for _, kind := range []string{"image/", "video/", "audio/", "text/css"} {
		if strings.HasPrefix(r.Header.Get("Accept"), kind) {
			return true
		}
	}
	return hasAgent(r, []string{"AppleCoreMedia/", "stagefright/", "ExoPlayerLib/"})
}

// isOffice reports whether an office program asks. These programs show the pictures in a mail. They also request a link that a
// person follows before the browser does, and do not open one that is refused.
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

// ledWindow is the time within which a visitor may be led to as many unknown links as may be guessed before a ban. A ban lasts
// at least an hour, so a guesser who pretends to be led here gets no more guesses than others.
const ledWindow = time.Hour

// ledToUnknown counts the unknown links that visitors were led to, here and not in fail2ban; it survives a configuration
// reload.
var ledToUnknown buckets

// ledVar is where the gate records that a visitor was led here, for later handlers, which do not see these headers.
const ledVar = "led"

// noteLed counts an unknown link to which a visitor was led.
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

// isLedTooOften reports whether a visitor was led to so many unknown links that no more are looked up. The visitor's other
// requests go on, and so do links that are live for the network.
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

// led is how many unknown links a visitor may be led to, multiplied by times.
func (l *Limits) led(times float64) rate {
	return rate{float64(l.Offences.Count) * times, max(ledWindow, time.Duration(l.Offences.Window))}
}

// isTyped reports whether a person typed an address casually, or typed one into a chat program that looks it up at each letter.
// `previews` are the user agents of such programs. A path to a file has an extension, which people do not type.
func isTyped(r *http.Request, path string, previews []string) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || namesFile(path) {
		return false
	}
	if r.Header.Get("Sec-Fetch-Site") == "none" {
		return r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
	}
	return hasAgent(r, previews)
}

// ownPath returns the path, in lower case, of a target that contains the name of this very server, as it does if a whole address
// was appended to ours, perhaps with the word or the mark-up in front of it; otherwise "". Only a word, never another path, may
// precede it.
func ownPath(path, host string) string {
	name, _, _ := strings.Cut(strings.ToLower(host), ":")
	for range mostDecoded {
		path = decoded(path)
	}
	before, after, found := strings.Cut(strings.ToLower(path), name)
	before = strings.TrimSuffix(strings.Trim(before, "/"), "www.")
	if name == "" || !found || strings.ContainsAny(strings.TrimRight(before, "/"), "/.") {
		return ""
	}
	rest := strings.TrimLeftFunc(after, func(letter rune) bool { return letter != '/' && isGlue(letter) })
	if port, found := strings.CutPrefix(after, ":"); found {
		rest = strings.TrimLeft(port, "0123456789")
	}
	switch {
	case rest == "":
		return "/"
	case strings.HasPrefix(rest, "/"):
		return rest
	}
	return ""
}
