package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	kitchenSecret = "ixframe_abcdefghijklmnopqrstuvwxyz234567"
	guessedSecret = "ixframe_bbcdefghijklmnopqrstuvwxyz234567"
)

func TestWhichSecretIsShown(t *testing.T) {
	for name, each := range map[string]struct {
		header http.Header
		secret string
		shown  bool
	}{
		"none":                        {http.Header{}, "", false},
		"Immich's key alone":          {http.Header{keyHeader: {"aKeyOfImmich"}}, "", false},
		"two keys of Immich's":        {http.Header{keyHeader: {"one", "two"}}, "", false},
		"in a cookie":                 {http.Header{"Cookie": {frameHeader + "=" + kitchenSecret}}, "", false},
		"as a bearer":                 {http.Header{"Authorization": {"Bearer " + kitchenSecret}}, "", false},
		"in its header":               {http.Header{frameHeader: {kitchenSecret}}, kitchenSecret, true},
		"with Immich's key":           {http.Header{frameHeader: {kitchenSecret}, keyHeader: {"key"}}, kitchenSecret, true},
		"before Immich's key":         {http.Header{keyHeader: {kitchenSecret + ".key"}}, kitchenSecret, true},
		"before a key with dots":      {http.Header{keyHeader: {kitchenSecret + ".k.e.y"}}, kitchenSecret, true},
		"in place of Immich's key":    {http.Header{keyHeader: {kitchenSecret}}, kitchenSecret, true},
		"an empty header":             {http.Header{frameHeader: {""}}, "", true},
		"twice":                       {http.Header{frameHeader: {kitchenSecret, kitchenSecret}}, "", true},
		"twice in one":                {http.Header{frameHeader: {kitchenSecret + ", " + kitchenSecret}}, "", true},
		"in both places":              {http.Header{frameHeader: {kitchenSecret}, keyHeader: {kitchenSecret + ".key"}}, "", true},
		"before one of two keys":      {http.Header{keyHeader: {"key", kitchenSecret + ".key"}}, "", true},
		"with two keys":               {http.Header{frameHeader: {kitchenSecret}, keyHeader: {"one", "two"}}, "", true},
		"copied with what follows it": {http.Header{frameHeader: {kitchenSecret + " \t"}}, kitchenSecret, true},
		"too short":                   {http.Header{frameHeader: {kitchenSecret[:39]}}, "", true},
		"too long":                    {http.Header{frameHeader: {kitchenSecret + "a"}}, "", true},
		"in capitals":                 {http.Header{frameHeader: {strings.ToUpper(kitchenSecret)}}, "", true},
		"with a letter of no base32":  {http.Header{frameHeader: {strings.Replace(kitchenSecret, "a", "0", 1)}}, "", true},
		"a step to another folder":    {http.Header{frameHeader: {"ixframe_../../../../../../../../../../etc"}}, "", true},
		"with a space inside":         {http.Header{frameHeader: {kitchenSecret[:39] + " "}}, "", true},
		"a key that begins like ours": {http.Header{keyHeader: {"ixframe_x"}}, "", true},
	} {
		if secret, shown := shownSecret(each.header); secret != each.secret || shown != each.shown {
			t.Errorf("%s: %q, shown %v", name, secret, shown)
		}
	}
}

func TestImmichGetsItsOwnKeyAlone(t *testing.T) {
	for before, after := range map[string][]string{
		"key":                    {"key"},
		kitchenSecret + ".key":   {"key"},
		kitchenSecret + ".k.e.y": {"k.e.y"},
		kitchenSecret + ".":      nil,
		kitchenSecret:            nil,
	} {
		header := http.Header{frameHeader: {kitchenSecret}, keyHeader: {before}}
		withoutSecret(header)
		if got := header[keyHeader]; header[frameHeader] != nil || strings.Join(got, " ") != strings.Join(after, " ") {
			t.Errorf("%s: %v", before, header)
		}
	}
}

// enrolledFrame returns a folder of devices with a frame in it, and the matcher for it.
func enrolledFrame(t *testing.T, text string) (place string, matcher Frame) {
	t.Helper()
	folder := t.TempDir()
	place = filepath.Join(folder, secretHash(kitchenSecret))
	if err := os.WriteFile(place, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return place, Frame{folder}
}

func asFrame(secret, method, target string) *http.Request {
	r := httptest.NewRequest(method, target, nil).WithContext(contextWithVars())
	r.RemoteAddr = "192.0.2.1:1000"
	if secret != "" {
		r.Header[frameHeader] = []string{secret}
	}
	return r
}

func TestWhoIsAFrame(t *testing.T) {
	place, matcher := enrolledFrame(t, "kitchen\nframe\n")
	for secret, want := range map[string]bool{"": false, kitchenSecret: true, guessedSecret: false, "ixframe_x": false} {
		r := asFrame(secret, "GET", "/api/albums")
		if is, err := matcher.MatchWithError(r); is != want || err != nil {
			t.Errorf("%q: %v, %v", secret, is, err)
		}
		if found := frameOf(r); (found != nil) != want || want && found.name != "kitchen" {
			t.Errorf("%q: %+v", secret, found)
		}
	}
	for what, text := range map[string]string{
		"a certificate": "phone\nuntil 4102444800\n", "a name alone": "phone\n", "nothing": "", "another kind": "kitchen\nframes\n",
		"much": "kitchen\nframe\n" + strings.Repeat("x", enrolmentSize),
	} {
		if err := os.WriteFile(place, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if is, err := matcher.MatchWithError(asFrame(kitchenSecret, "GET", "/api/albums")); is || err != nil {
			t.Errorf("a file with %s makes a frame: %v, %v", what, is, err)
		}
	}
	if err := os.Remove(place); err != nil {
		t.Fatal(err)
	}
	if is, err := matcher.MatchWithError(asFrame(kitchenSecret, "GET", "/api/albums")); is || err != nil {
		t.Errorf("one that was revoked: %v, %v", is, err)
	}
	if _, err := (Frame{filepath.Join(matcher.Devices, "gone")}).MatchWithError(asFrame(kitchenSecret, "GET", "/")); err == nil {
		t.Error("without the folder nobody knows, and a frame counts as one that guesses")
	}
}

func TestTheSecretOfTheCheckFromOutsideIsNobodys(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, secretHash(nobodysSecret)), []byte("check\nframe\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if secret, shown := shownSecret(http.Header{frameHeader: {nobodysSecret}}); secret != nobodysSecret || !shown {
		t.Error("it has not the form of a secret, so it proves nothing")
	}
	if is, err := (Frame{folder}).MatchWithError(asFrame(nobodysSecret, "GET", "/api/albums")); is || err != nil {
		t.Errorf("a file lets it in: %v, %v", is, err)
	}
}

func TestWhatAFrameMayAsk(t *testing.T) {
	table, err := readFrameSurface(tablePath)
	if err != nil {
		t.Fatal(err)
	}
	rights := &FrameRights{surface: table, Requests: Amount{1000, caddy.Duration(time.Minute)}, AtOnce: 4, LookAgain: caddy.Duration(time.Second)}
	_, matcher := enrolledFrame(t, "kitchen\nframe\n")
	for target, want := range map[string]string{
		"/api/albums":                                     "/api/albums",
		"/api/albums?assetId=" + assetID:                  "/api/albums?assetId=" + assetID,
		"/api/assets/" + assetID + "/original?apiKey=key": "/api/assets/" + assetID + "/original",
		"/api/albums?ApiKey=a&shared=true&apikey=b":       "/api/albums?shared=true",
		"/api/albums/":                                    "",
		"/api//albums":                                    "",
		"/api/albums/%2e%2e/users":                        "",
		"/api/albums?key=abc":                             "",
		"/api/albums?slug=abc":                            "",
		"/api/albums?sessionKey=abc":                      "",
		"/api/albums?password=abc":                        "",
		"/api/albums?a[]=b":                               "",
		"/api/users":                                      "",
		"/share/abc":                                      "",
		"/":                                               "",
	} {
		r := asFrame(kitchenSecret, "GET", target)
		r.Header.Set(keyHeader, "key")
		r.Header.Set("Cookie", "immich_access_token=x")
		r.Header.Set("Authorization", "Bearer x")
		r.Header.Set("X-Forwarded-For", "127.0.0.1")
		if is, err := matcher.MatchWithError(r); !is || err != nil {
			t.Fatal(is, err)
		}
		passed := ""
		w := httptest.NewRecorder()
		err := rights.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
			passed = r.URL.RequestURI()
			if len(r.Header) != 1 || r.Header.Get(keyHeader) != "key" {
				t.Errorf("%s: Immich gets %v", target, r.Header)
			}
			return nil
		}))
		if err != nil || passed != want || want == "" && (w.Code != http.StatusForbidden || strings.TrimSpace(w.Body.String()) != refusal) {
			t.Errorf("%s: passed on as %q, %d, %v", target, passed, w.Code, err)
		}
	}
	w := httptest.NewRecorder()
	if err := rights.ServeHTTP(w, asFrame(kitchenSecret, "GET", "/api/albums"), nil); err != nil || w.Code != http.StatusForbidden {
		t.Errorf("whoever has not met the matcher: %d, %v", w.Code, err)
	}
}

// A request without a secret must not be slowed down by frames.
func BenchmarkNoFrame(b *testing.B) {
	r := asFrame("", "GET", "/api/albums")
	r.Header.Set("User-Agent", "x")
	matcher := Frame{b.TempDir()}
	for b.Loop() {
		if is, err := matcher.MatchWithError(r); is || err != nil {
			b.Fatal(is, err)
		}
	}
}
