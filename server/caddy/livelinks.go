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

// liveLinks records which links Immich has opened for which network within the last span (at most two), as hashes that cannot
// be reproduced elsewhere.
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

// live and homes survive a configuration reload. homes are the networks that a device came from, without a link.
var (
	live  = &liveLinks{span: liveSpan, seed: maphash.MakeSeed()}
	homes = &liveLinks{span: homeSpan, seed: maphash.MakeSeed()}
)

// opened records that Immich has opened a link for a network.
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

// knows reports whether Immich has opened this link for the network; without a name, any link.
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
	// mostNames is more than the gate lets through. If a request has more, the rest is ignored to bound the cost.
	mostNames = 3

	// nobodysLink is a name that can never be live.
	nobodysLink = "\x00"
)

// linksIn returns all keys and slugs in a request's path and query, each as Immich reads it: what is counted for a link must
// not depend on its spelling.
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

// opensLinks are prefixes of calls that Immich answers only for a client that has a link (or more).
var opensLinks = []string{"/api/shared-links/me", "/api/assets/", "/api/timeline/", "/api/albums/", "/api/download/"}

// hasOpened reports whether an answer proves that the request's link is good.
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

// isLive reports whether a request names only links that are live for the network. A request that names none, as for the page's
// own files, is live if the network has any live link.
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
