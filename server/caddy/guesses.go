package main

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"net/http"
	"strings"
	"sync"
	"time"

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

// KeyGuesses writes the verdict into the log: "guess" when Immich does not know the key or slug of a link, once for
// each client and key, else "anon". So who reloads an expired link all day has made one guess, and who tries many keys
// as many as keys. Nothing of a key is ever written down.
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

// ServeHTTP passes the request on and looks at the answer. Who hangs up when the status is there counts as well: then
// the reverse proxy panics, and what would come after it never does. Who reads no further than the status counts soon:
// a refusal has little time to be fetched, because the log is written after it.
func (KeyGuesses) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	seen := &answer{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	defer func() {
		if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Add(zap.String("verdict", verdictOn(r, seen)))
		}
	}()
	err := next.ServeHTTP(seen, r)
	if seen.isRefusal() {
		seen.fetchUntil(time.Time{}) // the connection is the next request's as well
	}
	return err
}

func verdictOn(r *http.Request, seen *answer) string {
	key := refusedKey(r, seen)
	if key == "" {
		return "anon"
	}
	names, err := namesOf(r.RemoteAddr)
	if err != nil || !guesses.firstTime(names[len(names)-1], key, time.Now()) {
		return "anon"
	}
	return "guess"
}

// answer remembers the status that a client gets, and the beginning of a refusal.
type answer struct {
	*caddyhttp.ResponseWriterWrapper
	status  int
	refusal []byte
}

// refusalSize is more than Immich has to say in a refusal.
const refusalSize = 512

// refusalPatience is how long a refusal may take to be fetched.
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

// refusedKey returns the key or slug that Immich refused, or nothing.
//
// The page of a link answers 404 for an unknown or expired one, but so does a photo's page when it is reloaded. The API
// answers 401; there it also means that a password is missing (when a link is looked at), wrong (which has a jail of its
// own) or that the link takes no uploads. To an upload Immich says which it is: "Invalid share key" or "slug".
func refusedKey(r *http.Request, seen *answer) string {
	switch seen.status {
	case http.StatusNotFound:
		for _, folder := range []string{"/share/", "/s/"} {
			if name, found := strings.CutPrefix(strings.TrimSuffix(r.URL.Path, "/"), folder); found && !strings.Contains(name, "/") {
				return name
			}
		}
	case http.StatusUnauthorized:
		if r.URL.Path == "/api/shared-links/login" ||
			r.URL.Path == "/api/assets" && !bytes.Contains(seen.refusal, []byte("Invalid share ")) ||
			bytes.Contains(seen.refusal, []byte("Password required")) {
			return ""
		}
		query := r.URL.Query()
		return cmp.Or(query.Get("key"), query.Get("slug"))
	}
	return ""
}

// memory holds who has tried which key, as hashes that nobody can repeat. What is older than a day is forgotten, and
// so is what is oldest when there is too much.
type memory struct {
	mutex         sync.Mutex
	seed          maphash.Seed
	began         time.Time
	recent, older map[uint64]struct{}
}

const (
	memorySpan = 24 * time.Hour
	memorySize = 100_000
)

// guesses outlives the reload of a configuration.
var guesses = &memory{seed: maphash.MakeSeed()}

// firstTime tells whether this client comes with this key for the first time, and remembers both.
func (m *memory) firstTime(client, key string, now time.Time) bool {
	hash := maphash.String(m.seed, client+" "+key)
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.recent == nil || len(m.recent) >= memorySize || now.Sub(m.began) > memorySpan {
		m.recent, m.older, m.began = map[uint64]struct{}{}, m.recent, now
	}
	_, recent := m.recent[hash]
	_, older := m.older[hash]
	m.recent[hash] = struct{}{}
	return !recent && !older
}

var _ caddyhttp.MiddlewareHandler = KeyGuesses{}
