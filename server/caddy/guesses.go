package main

import (
	"bytes"
	"hash/maphash"
	"net/http"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(KeyGuesses{})
	httpcaddyfile.RegisterHandlerDirective("key_guesses", parseKeyGuesses)
	httpcaddyfile.RegisterDirectiveOrder("key_guesses", httpcaddyfile.Before, "reverse_proxy")
}

// KeyGuesses sets the verdict in the log: "guess" if Immich does not know the key or slug of a link, once for each client and
// key; "password" if it rejects a password; otherwise "anon". So a client that reloads an expired link all day has made one
// guess, and one that tries many keys has made one guess per key. A guess that something elsewhere may have led to is only
// counted here (elsewhere.go). Nothing of a key is ever written down.
type KeyGuesses struct{}

// CaddyModule returns the Caddy module information.
func (KeyGuesses) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.key_guesses", New: func() caddy.Module { return new(KeyGuesses) }}
}

func parseKeyGuesses(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next()
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	return KeyGuesses{}, nil
}

// ServeHTTP passes the request on and looks at the answer. A client that hangs up once it has the status counts as well: the
// reverse proxy panics then, so code after it would never run. A client that reads no further than the status counts soon: a
// refusal must be fetched quickly, because its log line is written afterwards.
func (KeyGuesses) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	seen := &answer{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	defer func() {
		verdict := verdictOn(r, seen, asker{next, r})
		if verdict == verdictGuess && caddyhttp.GetVar(r.Context(), ledVar) != nil {
			noteLed(r, time.Now())
			verdict = verdictAnon
		}
		giveVerdict(r, verdict)
	}()
	err := next.ServeHTTP(seen, r)
	noteAnswer(r, seen.status)
	if seen.isRefusal() {
		seen.fetchUntil(time.Time{}) // the connection also serves the next request
	}
	return err
}

func verdictOn(r *http.Request, seen *answer, immich asker) string {
	if r.URL.Path == linkLogin && seen.status == http.StatusUnauthorized {
		return verdictPassword
	}
	refused, sure := refusedLink(r, seen)
	if refused.name == "" || !sure && immich.knows(refused) {
		return verdictAnon
	}
	// A link that exists, followed by a comma or the like, is not a guess.
	if slices.ContainsFunc(refused.withoutGlue(), immich.knows) {
		return verdictAnon
	}
	address, err := addressOf(r.RemoteAddr)
	if err != nil {
		return verdictAnon
	}
	names := namesOf(address)
	if !guesses.firstTime(names[len(names)-1], refused.name, time.Now()) {
		return verdictAnon
	}
	return verdictGuess
}

// linkLogin is the call that takes the password of a link.
const linkLogin = "/api/shared-links/login"

// answer records the status sent to a client, and the beginning of a refusal.
type answer struct {
	*caddyhttp.ResponseWriterWrapper
	status  int
	refusal []byte
}

// refusalSize is larger than any refusal of Immich's, in bytes.
const refusalSize = 512

// refusalPatience is how long fetching a refusal may take.
const refusalPatience = 5 * time.Second

func (a *answer) WriteHeader(status int) {
	a.status = status
	if a.isRefusal() {
		a.fetchUntil(time.Now().Add(refusalPatience))
	}
	a.ResponseWriterWrapper.WriteHeader(status)
}

func (a *answer) isRefusal() bool {
	return a.status == http.StatusNotFound || a.status == http.StatusUnauthorized
}

func (a *answer) fetchUntil(moment time.Time) {
	if err := http.NewResponseController(a.ResponseWriter).SetWriteDeadline(moment); err != nil {
		caddy.Log().Named("key_guesses").Debug("no deadline", zap.Error(err))
	}
}

func (a *answer) Write(body []byte) (int, error) {
	if a.status == http.StatusUnauthorized && len(a.refusal) < refusalSize {
		a.refusal = append(a.refusal, body[:min(len(body), refusalSize-len(a.refusal))]...)
	}
	return a.ResponseWriterWrapper.Write(body)
}

// refusedLink returns the link that Immich may have refused because it does not know it, or an empty one. `sure` says that this
// was certainly the reason.
//
// The page of a link answers 404 if the link is unknown or expired. It also does so, and works, for any link followed by a
// query, a slash, an escape or a photo. The API answers 401, which can also mean that a password is missing (when a link is
// looked at) or wrong (which has a jail of its own), or that the link takes no uploads. For an upload, Immich states the
// reason: "Invalid share key" or "slug".
func refusedLink(r *http.Request, seen *answer) (refused link, sure bool) {
	switch seen.status {
	case http.StatusNotFound:
		return linkOfPage(r.URL.RequestURI())
	case http.StatusUnauthorized:
		if r.URL.Path == linkLogin ||
			r.URL.Path == "/api/assets" && !bytes.Contains(seen.refusal, []byte("Invalid share ")) ||
			wantsPassword(seen.refusal) {
			return link{}, false
		}
		query := r.URL.Query()
		if key := query.Get("key"); key != "" {
			return link{"key", key}, true
		}
		return link{"slug", query.Get("slug")}, true
	}
	return link{}, false
}

// wantsPassword reports whether Immich's refusal says that it knows the link.
func wantsPassword(refusal []byte) bool {
	return bytes.Contains(refusal, []byte("Password required"))
}

// memory holds which client has tried which key, as hashes that cannot be reproduced elsewhere, and whether something was typed
// after it. Entries older than a day are forgotten, and so are the oldest when there are too many.
type memory struct {
	mutex         sync.Mutex
	seed          maphash.Seed
	began         time.Time
	recent, older map[uint64]bool
}

const (
	memorySpan = 24 * time.Hour
	memorySize = 100_000

	// typedAtOnce is how many letters a person may type between two lookups of a chat program.
	typedAtOnce = 4
)

// guesses survives a configuration reload.
var guesses = &memory{seed: maphash.MakeSeed()}

// firstTime reports whether this client uses this key for the first time, and remembers both. A name that extends one that the
// client has used before does not count as new: chat programs look up an address while a person is typing it. Each name can be
// extended only once, so that a guesser cannot try one letter after another.
func (m *memory) firstTime(client, key string, now time.Time) bool {
	hash := m.hash(client, key)
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.recent == nil || len(m.recent) >= memorySize || now.Sub(m.began) > memorySpan {
		m.recent, m.older, m.began = map[uint64]bool{}, m.recent, now
	}
	known, goneOn := m.look(hash)
	m.recent[hash] = goneOn
	return !known && !m.goesOn(client, key)
}

func (m *memory) goesOn(client, key string) bool {
	for range typedAtOnce {
		_, size := utf8.DecodeLastRuneInString(key)
		key = key[:len(key)-size]
		hash := m.hash(client, key)
		if known, goneOn := m.look(hash); known && !goneOn {
			m.recent[hash] = true
			return true
		}
	}
	return false
}

func (m *memory) look(hash uint64) (known, goneOn bool) {
	recent, isRecent := m.recent[hash]
	older, isOlder := m.older[hash]
	return isRecent || isOlder, recent || older
}

func (m *memory) hash(client, key string) uint64 { return maphash.String(m.seed, client+" "+key) }

var _ caddyhttp.MiddlewareHandler = KeyGuesses{}
