package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// link is the key or slug of a shared link; `field` says which, in the terms of Immich's API.
type link struct {
	field, name string
}

var linkPages = map[string]string{"share": "key", "s": "slug"}

// linkOfPage returns the link that a page's target names, as Immich gets it. `plain` says that it is spelled as Immich stores
// it, with nothing around it: only then does Immich look up the link itself before it sends the page.
func linkOfPage(target string) (of link, plain bool) {
	path, _, query := strings.Cut(target, "?")
	folder, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	raw, _, deeper := strings.Cut(rest, "/")
	field, found := linkPages[folder]
	name, err := url.PathUnescape(raw)
	if !found || err != nil || name == "" {
		return link{}, false
	}
	return link{field, name}, !query && !deeper && name == raw
}

// asImmichReads returns the slug, or the bytes of the key, since Immich tries the one as the other.
func (l link) asImmichReads() string {
	if l.field != "key" {
		return l.name
	}
	return string(keyBytes(l.name))
}

// keyBytes decodes a key as Immich does (auth.service.ts): 100 letters are hexadecimal; otherwise Node decodes base64 in either
// alphabet, stops at the first "=" and skips foreign letters. So one link cannot be made to look like many.
func keyBytes(key string) []byte {
	if len(key) == hexKey {
		if bytes, err := hex.DecodeString(key); err == nil {
			return bytes
		}
	}
	key, _, _ = strings.Cut(key, "=")
	plain := strings.Map(func(letter rune) rune {
		switch {
		case letter == '+':
			return '-'
		case letter == '/':
			return '_'
		case letter == '-' || letter < 128 && isWord(byte(letter)):
			return letter
		}
		return -1
	}, key)
	if len(plain)%4 == 1 { // six bits do not make a byte
		plain = plain[:len(plain)-1]
	}
	bytes, err := base64.RawURLEncoding.DecodeString(plain)
	if err != nil {
		return []byte(plain)
	}
	return bytes
}

// hexKey is the length of a key in hex.
const hexKey = 100

// withoutGlue returns the candidates for what the link was before a chat or mail program glued something to the end of its
// address: the name without trailing characters that are neither letters nor digits, except those that a key may end in, and
// the name without those as well.
func (l link) withoutGlue() []link {
	name := l.name
	if end := strings.IndexAny(name, "&?#<>\"'"); end > 0 {
		name = name[:end]
	}
	var found []link
	for _, kept := range []string{"-_", ""} {
		trimmed := strings.TrimRightFunc(name, func(letter rune) bool {
			return !strings.ContainsRune(kept, letter) && !unicode.IsLetter(letter) && !unicode.IsNumber(letter)
		})
		if made := (link{l.field, trimmed}); made != l && trimmed != "" && !slices.Contains(found, made) {
			found = append(found, made)
		}
	}
	return found
}

// keyPage returns the page of a link's key without what a program has glued to its end, or "". A sentence never continues with
// the letters of a key, so the end of a key is unambiguous.
func keyPage(path string) string {
	rest, found := strings.CutPrefix(path[:min(len(path), longestPath)], "/share/")
	end := strings.IndexFunc(rest, func(letter rune) bool {
		return letter != '-' && (letter >= utf8.RuneSelf || !isWord(byte(letter)))
	})
	if !found || end <= 0 {
		return ""
	}
	glue, err := url.PathUnescape(rest[end:])
	if err != nil || glue[0] != '&' && strings.ContainsFunc(glue, func(letter rune) bool {
		return strings.ContainsRune(`/\`, letter) || unicode.IsLetter(letter) || unicode.IsNumber(letter)
	}) {
		return ""
	}
	return "/share/" + rest[:end]
}

// asker sends requests of the edge's own to Immich, separate from the visitor's.
type asker struct {
	next    caddyhttp.Handler
	request *http.Request
}

// askPatience is how long Immich may take to say whether it knows a link.
const askPatience = 5 * time.Second

// knows reports whether Immich knows the link; it asks what the link's page asks when it opens. Without an answer, it returns
// true.
func (a asker) knows(l link) (known bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.request.Context()), askPatience)
	defer cancel()
	defer func() {
		if problem := recover(); problem != nil { // the proxy's way of reporting a truncated answer
			caddy.Log().Named("key_guesses").Debug("no answer", zap.Any("problem", problem))
			known = true
		}
	}()
	said := &discarded{header: http.Header{}}
	if err := a.next.ServeHTTP(said, questionAbout(l, a.request.Clone(ctx))); err != nil {
		return true
	}
	return said.status != http.StatusUnauthorized || said.wantsPassword()
}

// questionAbout turns the visitor's request into one for the link's data. Of the visitor, it keeps only the address.
func questionAbout(l link, r *http.Request) *http.Request {
	r.Method, r.Body, r.ContentLength, r.Trailer, r.TransferEncoding = http.MethodGet, http.NoBody, 0, nil, nil
	r.URL = &url.URL{Path: "/api/shared-links/me", RawQuery: url.Values{l.field: {l.name}}.Encode()}
	r.RequestURI = r.URL.RequestURI()
	r.Header = http.Header{"Accept": {"application/json"}}
	return r
}

// discarded is an answer that is not sent to anybody; its status and beginning are kept.
type discarded struct {
	header http.Header
	status int
	said   []byte
}

func (d *discarded) Header() http.Header    { return d.header }
func (d *discarded) WriteHeader(status int) { d.status = status }
func (d *discarded) wantsPassword() bool    { return wantsPassword(d.said) }

func (d *discarded) Write(body []byte) (int, error) {
	if len(d.said) < refusalSize {
		d.said = append(d.said, body[:min(len(body), refusalSize-len(d.said))]...)
	}
	return len(body), nil
}
