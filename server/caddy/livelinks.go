package main

import (
	"encoding/binary"
	"hash/maphash"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// liveLinks holds which links Immich has opened for whom within the last span (two at most), as hashes that nobody can
// repeat.
type liveLinks struct {
	span          time.Duration
	mutex         sync.Mutex
	seed          maphash.Seed
	began         time.Time
	recent, older map[uint64]struct{}
}

const (
	liveSpan = time.Hour
	homeSpan = 24 * time.Hour
	mostLive = 50_000
)

// live and homes, the networks from which a device came, without a link, outlive the reload of a configuration.
var (
	live  = &liveLinks{span: liveSpan, seed: maphash.MakeSeed()}
	homes = &liveLinks{span: homeSpan, seed: maphash.MakeSeed()}
)

// opened remembers that Immich has opened a link for a network.
func (l *liveLinks) opened(from network, name string, now time.Time) {
	hash := l.hash(from, name)
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.recent == nil || len(l.recent) >= mostLive || now.Sub(l.began) > l.span {
		l.recent, l.older, l.began = map[uint64]struct{}{}, l.recent, now
	}
	l.recent[hash] = struct{}{}
	l.recent[l.hash(from, "")] = struct{}{}
}

// knows tells whether Immich has opened this link for the network; without a name, any link.
func (l *liveLinks) knows(from network, name string) bool {
	hash := l.hash(from, name)
	l.mutex.Lock()
	defer l.mutex.Unlock()
	_, recent := l.recent[hash]
	_, older := l.older[hash]
	return recent || older && time.Since(l.began) < l.span
}

func (l *liveLinks) hash(from network, name string) uint64 {
	var hash maphash.Hash
	hash.SetSeed(l.seed)
	var bytes [8]byte
	binary.BigEndian.PutUint64(bytes[:], uint64(from))
	hash.Write(bytes[:])
	hash.WriteString(name)
	return hash.Sum64()
}

const (
	// mostNames is more than the gate lets through. Of a request with more only so many are looked at, for what it costs.
	mostNames = 3

	// nobodysLink is none that could be live.
	nobodysLink = "\x00"
)

// linksIn returns the keys and slugs that a request names, in its path and its query, however often, and each as Immich
// reads it: what is counted for a link must not depend on how somebody spells it.
func linksIn(r *http.Request) []string {
	var names []string
	if of, _ := linkOfPage(r.RequestURI); of.name != "" {
		names = append(names, of.asImmichReads())
	}
	for query := r.URL.RawQuery; query != ""; {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		field, value, _ := strings.Cut(pair, "=")
		if strings.Contains(field, "%") {
			field, _ = url.QueryUnescape(field)
		}
		if !strings.EqualFold(field, "key") && !strings.EqualFold(field, "slug") {
			continue
		}
		if plain, err := url.QueryUnescape(value); err == nil {
			value = plain
		}
		names = append(names, link{strings.ToLower(field), value}.asImmichReads())
		if len(names) > mostNames {
			return append(names, nobodysLink)
		}
	}
	return names
}

// opensLinks begin the calls that Immich answers only to who has a link (or more).
var opensLinks = []string{"/api/shared-links/me", "/api/assets/", "/api/timeline/", "/api/albums/", "/api/download/"}

// hasOpened tells whether an answer proves that the link of the request is good.
func hasOpened(r *http.Request, status int) bool {
	if status != http.StatusNotModified && (status < 200 || status > 299) {
		return false
	}
	for _, call := range opensLinks {
		if strings.HasPrefix(r.URL.Path, call) {
			return true
		}
	}
	return false
}

// isLive tells whether a request names links that are live for the network, and no other; or none, as the page's own
// files do, while the network has some live link.
func isLive(from network, names []string) bool {
	if len(names) == 0 {
		return live.knows(from, "")
	}
	for _, name := range names {
		if !live.knows(from, name) {
			return false
		}
	}
	return true
}
