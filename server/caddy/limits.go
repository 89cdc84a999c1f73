package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(&Limits{})
	caddy.RegisterModule(&DeviceLimit{})
	httpcaddyfile.RegisterHandlerDirective("limits", parseLimits)
	httpcaddyfile.RegisterHandlerDirective("device_limit", parseDeviceLimit)
	httpcaddyfile.RegisterDirectiveOrder("limits", httpcaddyfile.After, "abort")
	httpcaddyfile.RegisterDirectiveOrder("device_limit", httpcaddyfile.Before, "reverse_proxy")
}

// Limits limit what a stranger's network may do:
//
//	limits {
//		visitor  BITS          of an IPv6 address; an IPv4 address is always one visitor
//		requests COUNT WINDOW  a file of the page, or a thumbnail of a live link, counts 1/20
//		at_once  COUNT         requests being answered, except videos; further ones wait
//		pace     COUNT         requests per second of a network, in the long run; further ones wait
//		passwords COUNT WINDOW
//		link_passwords COUNT WINDOW  wrong ones for one link, from all clients
//		bundles  COUNT WINDOW  zip files
//		offences COUNT WINDOW  of each kind, as fail2ban counts them
//	}
//
// A visitor who exceeds them waits or gets a 429; one who goes on regardless loses the connection. An offender is refused as if
// banned, until fail2ban bans it and a little longer. An IPv6 /48 may do ten times as much as one visitor, and offend five
// times as often.
type Limits struct {
	Visitor       int    `json:"visitor"`
	AtOnce        int    `json:"at_once"`
	Pace          int    `json:"pace"`
	Requests      Amount `json:"requests"`
	Passwords     Amount `json:"passwords"`
	LinkPasswords Amount `json:"link_passwords"`
	Bundles       Amount `json:"bundles"`
	Offences      Amount `json:"offences"`
}

// Amount is how much may be done within a time window.
type Amount struct {
	Count  int            `json:"count"`
	Window caddy.Duration `json:"window"`
}

// times returns a rate of the amount, multiplied by count, per window.
func (a Amount) times(count float64) rate {
	return rate{float64(a.Count) * count, time.Duration(a.Window)}
}

const (
	wideRequests = 10
	wideOffences = 5
	wideAtOnce   = 2

	// A first visit is 150 requests, 112 of them for files that never change; a long album has a thousand thumbnails.
	cheap = 1. / 20

	// A request for a link that is not known to be good waits for others of its network to be answered, so that no burst
	// outruns the count of guesses. So do attempts at one link's password.
	guessesAtOnce   = 6
	passwordsAtOnce = 2

	// How many requests may come at once before the pace applies, and how long it may delay a request: enough for the first
	// visits of thirty guests at the same moment.
	paceless     = 300
	pacePatience = 10 * time.Second
)

// tooManyAnswers is how many 429s a visitor gets before connections are ended instead. A client that still asks has not read
// them.
var tooManyAnswers = rate{20, 30 * time.Second}

// givenUp is how many requests a network may cancel before its cancelled requests cost it the connection: browsers cancel
// requests for photos that are scrolled past, several at a time.
var givenUp = rate{100, 10 * time.Second}

// spentOf records what has been used. It survives a configuration reload.
var spentOf struct {
	requests, paces, passwords, linkPasswords, bundles, offences, logins, tooMany, givenUp, frames buckets
}

var open, wideOpen, guessing slots

const mostInside = 8_000

const (
	videosOfOne = 90
	fewVideos   = 8
	manyVideos  = 128
	mostVideos  = 256
)

// videos are the requests for videos of live links that are being answered. A browser keeps the answer open while the video
// plays, and often has two open, so videos take no places from people who look at photos, and all videos together leave them
// most connections to Immich. A network of thirty guests has three for each guest.
var videos = headcount{room: func(own, all int) bool {
	return own < videosOfOne && all < mostVideos && (all < manyVideos || own < fewVideos)
}}

// isVideo reports whether a request is for a video, or a part of one.
func isVideo(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/api/assets/") && strings.Contains(r.URL.Path, "/video/")
}

// inside are the requests of strangers in the edge, waiting or being answered; each takes 25 kB. A network gets at most two
// thirds of what the others leave, so that there is always room for another network.
var inside = headcount{room: func(own, all int) bool { return own < (mostInside-all)*2/3 }}

// CaddyModule returns the Caddy module information.
func (*Limits) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.limits", New: func() caddy.Module { return new(Limits) }}
}

func parseLimits(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	limits := new(Limits)
	return limits, limits.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile reads the block.
func (l *Limits) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	amounts := map[string]*Amount{
		"requests": &l.Requests, "passwords": &l.Passwords, "link_passwords": &l.LinkPasswords, "bundles": &l.Bundles,
		"offences": &l.Offences,
	}
	numbers := map[string]*int{"visitor": &l.Visitor, "at_once": &l.AtOnce, "pace": &l.Pace}
	for d.NextBlock(0) {
		name, values := d.Val(), d.RemainingArgs()
		var err error
		switch amount, number := amounts[name], numbers[name]; {
		case amount != nil && len(values) == 2:
			*amount, err = parseAmount(values)
		case number != nil && len(values) == 1:
			*number, err = strconv.Atoi(values[0])
		default:
			return d.ArgErr()
		}
		if err != nil {
			return d.Errf("%s: %v", name, err)
		}
	}
	return nil
}

func parseAmount(values []string) (Amount, error) {
	count, err := strconv.Atoi(values[0])
	if err != nil {
		return Amount{}, err
	}
	window, err := caddy.ParseDuration(values[1])
	return Amount{count, caddy.Duration(window)}, err
}

// Provision puts these limits into force, also for counting offences.
func (l *Limits) Provision(ctx caddy.Context) error {
	rememberConnections(ctx)
	inForce.Store(l)
	return nil
}

// Validate rejects limits that would let nobody in, or everybody.
func (l *Limits) Validate() error {
	for name, amount := range map[string]Amount{
		"requests": l.Requests, "passwords": l.Passwords, "link_passwords": l.LinkPasswords, "bundles": l.Bundles,
		"offences": l.Offences,
	} {
		if err := amount.validate(); err != nil {
			return fmt.Errorf("limits: %s %w", name, err)
		}
	}
	if l.Visitor < wideBits || l.Visitor > 128 || l.AtOnce < 1 || l.Pace < 1 {
		return fmt.Errorf("limits: visitor is %d to 128 bits, and at_once and pace at least 1", wideBits)
	}
	return nil
}

func (a Amount) validate() error {
	if a.Count < 1 || a.Window <= 0 {
		return fmt.Errorf("needs a number from 1 on and a time, like 10 60s, not %d in %v", a.Count, time.Duration(a.Window))
	}
	return nil
}

// inForce are the limits of the configuration that was loaded last.
var inForce atomic.Pointer[Limits]

// ServeHTTP passes on requests within the limits.
func (l *Limits) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	visitor, wide := networksOf(r.RemoteAddr, l.Visitor)
	widest := visitor
	if wide != nobody {
		widest = wide
	}
	if r.Context().Err() != nil && spentOf.givenUp.take(uint64(widest), 1, givenUp, time.Now()) > 0 {
		return HangUp{}.ServeHTTP(w, r, next)
	}
	if !inside.add(widest) {
		return tooMany(w, r, time.Second)
	}
	defer inside.remove(widest)
	names := linksIn(r)
	known := isLive(visitor, names)
	cost := costOf(r, known && len(names) > 0)
	if wait := spendOfBoth(&spentOf.requests, visitor, wide, cost, l.Requests, wideRequests, time.Now()); wait > 0 {
		return tooMany(w, r, wait)
	}
	if wait := l.turnOf(widest); wait > pacePatience {
		return tooMany(w, r, wait)
	} else if !rested(r.Context(), wait) {
		return gaveUp(w, r)
	}
	if isVideo(r) && known && len(names) > 0 {
		if !videos.add(widest) {
			return tooMany(w, r, time.Second)
		}
		defer videos.remove(widest)
	} else {
		leave, err := l.enter(r, visitor, wide)
		if err != nil {
			return gaveUp(w, r)
		}
		defer leave()
	}
	if len(names) > 0 && !known {
		if err := guessing.enter(r.Context(), uint64(widest), guessesAtOnce); err != nil {
			return gaveUp(w, r)
		}
		defer guessing.leave(uint64(widest), guessesAtOnce)
	}
	// After the wait, because others of the network may have offended meanwhile.
	if l.refuses(r, visitor, wide, names) {
		return HangUp{}.ServeHTTP(w, r, next)
	}
	return l.serveDear(w, r, next, visitor, wide, names)
}

// enter takes one of the visitor's places, and one of the /48's, and returns a function that frees them.
func (l *Limits) enter(r *http.Request, visitor, wide network) (leave func(), err error) {
	if err := open.enter(r.Context(), uint64(visitor), l.AtOnce); err != nil {
		return nil, err
	}
	if wide == nobody {
		return func() { open.leave(uint64(visitor), l.AtOnce) }, nil
	}
	if err := wideOpen.enter(r.Context(), uint64(wide), l.AtOnce*wideAtOnce); err != nil {
		open.leave(uint64(visitor), l.AtOnce)
		return nil, err
	}
	return func() {
		wideOpen.leave(uint64(wide), l.AtOnce*wideAtOnce)
		open.leave(uint64(visitor), l.AtOnce)
	}, nil
}

// turnOf returns how long a request waits for its turn, so that no network's requests crowd out another's. If that exceeds
// pacePatience, the request gets no turn.
func (l *Limits) turnOf(widest network) time.Duration {
	pace := rate{paceless, paceless * time.Second / time.Duration(l.Pace)}
	wait, _ := spentOf.paces.reserve(uint64(widest), 1, pace, pacePatience, time.Now())
	return wait
}

// rested waits, and reports whether the visitor still wants the answer.
func rested(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return true
	}
	turn := time.NewTimer(wait)
	defer turn.Stop()
	select {
	case <-turn.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// serveDear passes requests on, after checking those that have a smaller budget.
func (l *Limits) serveDear(
	w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, visitor, wide network, names []string,
) error {
	if r.Method != http.MethodPost {
		return next.ServeHTTP(w, r)
	}
	now := time.Now()
	switch path := strings.TrimSuffix(r.URL.Path, "/"); {
	case strings.EqualFold(path, "/api/download/archive"):
		if wait := spendOfBoth(&spentOf.bundles, visitor, wide, 1, l.Bundles, wideRequests, now); wait > 0 {
			return tooMany(w, r, wait)
		}
	case strings.EqualFold(path, linkLogin):
		if wait := spendOfBoth(&spentOf.passwords, visitor, wide, 1, l.Passwords, wideOffences, now); wait > 0 {
			return tooMany(w, r, wait)
		}
		var err error
		if r, err = withBodyInHand(w, r); err != nil {
			return err
		}
		for _, name := range names[:min(len(names), 1)] {
			link := linkHash(name)
			if err := guessing.enter(r.Context(), link, passwordsAtOnce); err != nil {
				return gaveUp(w, r)
			}
			defer guessing.leave(link, passwordsAtOnce)
			if wait := spentOf.linkPasswords.wait(link, 1, l.LinkPasswords.times(1), time.Now()); wait > 0 {
				return tooMany(w, r, wait)
			}
		}
	}
	return next.ServeHTTP(w, r)
}

// costOf returns how much a request counts against the budget.
func costOf(r *http.Request, liveLink bool) float64 {
	path := r.URL.Path
	if r.Method == http.MethodGet && (strings.HasPrefix(path, "/_app/immutable/") ||
		liveLink && strings.HasPrefix(path, "/api/assets/") && strings.HasSuffix(path, "/thumbnail")) {
		return cheap
	}
	return 1
}

// spendOfBoth takes tokens of the visitor and of the /48, or returns how long until they are there.
func spendOfBoth(b *buckets, visitor, wide network, tokens float64, amount Amount, wider float64, now time.Time) time.Duration {
	if wait := b.take(uint64(visitor), tokens, amount.times(1), now); wait > 0 || wide == nobody {
		return wait
	}
	return b.take(^uint64(wide), tokens, amount.times(wider), now)
}

// kinds are the offences. Each has its own count, as it has its own jail.
var kinds = map[string]uint64{verdictScan: 0x5ca1, verdictGuess: 0x9e55, verdictPassword: 0xa077, verdictSecret: 0xf4a3}

// refuses reports whether the visitor has offended too often to be answered. A network that had a live link before the offences
// can still use that link. A whole /48 is only refused requests that could be guesses.
func (l *Limits) refuses(r *http.Request, visitor, wide network, names []string) bool {
	if spentOf.offences.isEmpty() {
		return false
	}
	now, couldGuess := time.Now(), len(names) > 0
	for verdict, kind := range kinds {
		offended := spentOf.offences.wait(uint64(visitor)^kind, 1, l.Offences.times(1), now) > 0
		if !offended && couldGuess && wide != nobody && verdict != verdictScan {
			offended = spentOf.offences.wait(^uint64(wide)^kind, 1, l.Offences.times(wideOffences), now) > 0
		}
		if offended {
			return !isSpared(r, visitor, names)
		}
	}
	return false
}

// isSpared reports whether a request only views links that are live for the network, and sends no secret.
func isSpared(r *http.Request, visitor network, names []string) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && isLive(visitor, names) && !showsSecret(r)
}

// byHand is the folder of the owner's own bans, which have no exceptions.
const byHand = "manual"

// isSparedFrom reports whether a ban of the network does not apply to this request.
func isSparedFrom(r *http.Request, jail string) bool {
	limits := inForce.Load()
	if jail == byHand || limits == nil {
		return false
	}
	visitor, _ := networksOf(r.RemoteAddr, limits.Visitor)
	return isSpared(r, visitor, linksIn(r))
}

// giveVerdict sets the verdict in the log, for fail2ban, and counts it at once.
func giveVerdict(r *http.Request, verdict string) {
	caddyhttp.SetVar(r.Context(), verdictVar, verdict)
	noteVerdict(r, verdict, time.Now())
}

// noteVerdict counts an offence. A wrong password also counts against its link.
func noteVerdict(r *http.Request, verdict string, now time.Time) {
	limits, kind := inForce.Load(), kinds[verdict]
	if limits == nil || kind == 0 {
		return
	}
	visitor, wide := networksOf(r.RemoteAddr, limits.Visitor)
	// Once a /48 has reached its limit of offences, none of its 65,536 networks is added any more: otherwise a few /48s would
	// fill the memory, and newcomers would share budgets with offenders. They cannot guess any more, and fail2ban carries on.
	if wide == nobody || spentOf.offences.take(^uint64(wide)^kind, 1, limits.Offences.times(wideOffences), now) == 0 {
		spentOf.offences.spend(uint64(visitor)^kind, 1, limits.Offences.times(1), now)
	}
	if names := linksIn(r); verdict == verdictPassword && len(names) > 0 {
		spentOf.linkPasswords.spend(linkHash(names[0]), 1, limits.LinkPasswords.times(1), now)
	}
}

func linkHash(name string) uint64 { return live.hash(nobody, name) }

// noteAnswer remembers the link that Immich has opened. If the request names several, the edge cannot tell which one it was.
func noteAnswer(r *http.Request, status int) {
	limits := inForce.Load()
	if limits == nil || !hasOpened(r, status) {
		return
	}
	if names := linksIn(r); len(names) == 1 {
		visitor, _ := networksOf(r.RemoteAddr, limits.Visitor)
		live.opened(visitor, names[0], time.Now())
	}
}

// tooMany answers with a 429, or ends the connection of a client that has had many of them and does not wait.
func tooMany(w http.ResponseWriter, r *http.Request, wait time.Duration) error {
	if spentOf.tooMany.take(uint64(widestOf(r.RemoteAddr)), 1, tooManyAnswers, time.Now()) > 0 {
		return HangUp{}.ServeHTTP(w, r, nil)
	}
	return answerTooMany(w, wait)
}

// gaveUp answers a request that has waited too long. If the visitor has cancelled it, as browsers do for photos that are
// scrolled past, it does not count as one 429 more.
func gaveUp(w http.ResponseWriter, r *http.Request) error {
	if r.Context().Err() != nil {
		return answerTooMany(w, time.Second)
	}
	return tooMany(w, r, time.Second)
}

func answerTooMany(w http.ResponseWriter, wait time.Duration) error {
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
	return caddyhttp.Error(http.StatusTooManyRequests, errBusy)
}

// DeviceLimit is an enrolled device's budget, counted by its certificate:
//
//	device_limit [MATCHER] COUNT WINDOW
type DeviceLimit struct {
	Amount
}

// CaddyModule returns the Caddy module information.
func (*DeviceLimit) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.device_limit", New: func() caddy.Module { return new(DeviceLimit) }}
}

func parseDeviceLimit(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next()
	values := h.RemainingArgs()
	if len(values) != 2 {
		return nil, h.ArgErr()
	}
	amount, err := parseAmount(values)
	if err != nil {
		return nil, h.Errf("device_limit: %v", err)
	}
	return &DeviceLimit{amount}, nil
}

// Validate rejects a limit that would let nobody in.
func (d *DeviceLimit) Validate() error {
	if err := d.validate(); err != nil {
		return fmt.Errorf("device_limit %w", err)
	}
	return nil
}

// ServeHTTP passes on requests within the budget.
func (d *DeviceLimit) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return caddyhttp.Error(http.StatusForbidden, errBusy)
	}
	name := fingerprint(r.TLS.PeerCertificates[0])
	if wait := spentOf.logins.take(linkHash(string(name[:])), 1, d.times(1), time.Now()); wait > 0 {
		return answerTooMany(w, wait)
	}
	return next.ServeHTTP(w, r)
}

var (
	_ caddyhttp.MiddlewareHandler = (*Limits)(nil)
	_ caddyhttp.MiddlewareHandler = (*DeviceLimit)(nil)
	_ caddy.Provisioner           = (*Limits)(nil)
	_ caddy.Validator             = (*Limits)(nil)
	_ caddy.Validator             = (*DeviceLimit)(nil)
	_ caddyfile.Unmarshaler       = (*Limits)(nil)
)
