package main

import (
	"errors"
	"maps"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	assetID   = "0a1b2c3d-0000-4000-8000-0123456789ab"
	tablePath = "../surface.toml"
)

var allOn = map[string]bool{
	"albums": true, "passwords": true, "video": true, "originals": true, "download": true, "map": true, "uploads": true,
}

func project(t *testing.T, changes map[string]bool) *surface {
	t.Helper()
	switches := maps.Clone(allOn)
	maps.Copy(switches, changes)
	read, err := readSurface(tablePath, switches, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// The expression that was used before the gate existed: the oracle for readQuery.
var soundQuery = regexp.MustCompile(`^(?:[\w.~-]+(?:=(?:[!$'-:<-Z^-~]|%(?i:[2-6][0-9a-f]|7[0-9a-e]|(?:c[2-9a-f]|d[0-9a-f]|e(?:0%[ab][0-9a-f]|d%[89][0-9a-f]|[1-9abcef]%[89ab][0-9a-f])|f(?:0%[9ab][0-9a-f]|4%8[0-9a-f]|[1-3]%[89ab][0-9a-f])%[89ab][0-9a-f])%[89ab][0-9a-f]))*)?(?:&|$))*$`)

func TestReadQueryAgreesWithTheExpression(t *testing.T) {
	pieces := strings.Split("key slug a = = & & && ; [ ] % %2 %20 %00 %7f %c3%bc %C3 %bc %ed%a0%80 %f4%8f%bf%bf %f5%80%80%80 %e0%80%ae \" # + . ~ - _ / ? @ : , \\ { } | ^ ` < > ' ( ) * ! $ x 0 \x80 \x00 ä", " ")
	chance := rand.New(rand.NewSource(1))
	for range 200_000 {
		var text strings.Builder
		for range chance.Intn(8) {
			text.WriteString(pieces[chance.Intn(len(pieces))])
		}
		query := text.String()
		if _, sound := readQuery(query); sound != soundQuery.MatchString(query) {
			t.Fatalf("%q: sound is %v", query, sound)
		}
	}
}

func TestWhatAQueryHolds(t *testing.T) {
	for raw, want := range map[string]struct{ link, smuggles bool }{
		"":                    {false, false},
		"key=x":               {true, false},
		"slug=x":              {true, false},
		"key=":                {false, false},
		"key":                 {false, false},
		"Key=x":               {false, false},
		"xkey=x":              {false, false},
		"key=x&slug=y":        {true, true},
		"key=x&size=preview":  {true, false},
		"key=x&key=y":         {true, true},
		"key&key=x":           {true, true},
		"slug=x&slug":         {true, true},
		"key=x&apiKey=y":      {true, true},
		"APIKEY&key=x":        {true, true},
		"key=x&sessionkey=":   {true, true},
		"password=x&key=x":    {true, true},
		"key=x&passwords=two": {true, false},
		"key=a_b-C1":          {true, false},
		"key=a%2Db":           {true, false},
		"key=a.b":             {true, true}, // Immich skips such letters
		"key=a=":              {true, true},
		"key=%C5%81b":         {true, true},
		"key=a%20":            {true, true},
		"slug=a.b%20c":        {true, false},
	} {
		found, sound := readQuery(raw)
		if !sound || found.link != want.link || found.smuggles() != want.smuggles {
			t.Errorf("%q: %+v, sound %v", raw, found, sound)
		}
	}
}

// Only what no key contains, with no letter after it, is removed.
func TestAPageOfAKeyWithSomethingGluedToIt(t *testing.T) {
	const page = "/share/aBc_d-1"
	for _, glue := range []string{
		",", ".", ";", ":", "!", ")", "]", "%22", "%3E", "%22%3E", "%20)", "%0D%0A", "%E2%80%A6", "…", "&fbclid=x", "%C2%A0", "..",
	} {
		if got := keyPage(page + glue); got != page {
			t.Errorf("%q: %q", glue, got)
		}
	}
	for _, path := range []string{
		page, page + "/", page + "/photos/x", page + ",x", page + "%41", page + "%2Fphotos", page + "%5C", page + "%zz", page + "%",
		"/share/", "/share/,", "/Share/aBc,", "/s/aBc,", "/share/%2e%2e,", "/share/../x,", "/share//x,", page + "ä", page + "%3C/a%3E",
	} {
		if got := keyPage(path); got != "" {
			t.Errorf("%q leads to %q", path, got)
		}
	}
	gate := &Gate{surface: project(t, nil)}
	r := httptest.NewRequestWithContext(contextWithVars(), "GET", page+",?utm_source=x", nil)
	w := httptest.NewRecorder()
	if err := gate.ServeHTTP(w, r, nil); err != nil || w.Code != http.StatusFound || w.Header().Get("Location") != page {
		t.Errorf("status %d to %q: %v", w.Code, w.Header().Get("Location"), err)
	}
}

func TestReadsOneWay(t *testing.T) {
	for path, want := range map[string]bool{
		"/":                     true,
		"/s/Anna&Ben":           true,
		"/s/100%25":             true,
		"/s/a%2Fb":              true,
		"/s/a%3Bb":              true,
		"/s/%231":               true,
		"/s/Wo%3F":              true,
		"/s/%E5%A4%8F":          true,
		"/s/a..b":               true,
		"/.well-known/immich":   true,
		"/s/..":                 false,
		"/s/.":                  false,
		"/s/../x":               false,
		"/s//x":                 false,
		"//s/x":                 false,
		"/s/%2e%2e":             false,
		"/s/..%2fx":             false,
		"/s/..%2Fx":             false,
		"/s/a%2F..":             false,
		"/s/..;x":               false,
		"/s/..%3Bx%2Fapi":       false,
		"/s/..%23%2Fapi":        false,
		"/s/..%3F%2Fapi":        false,
		"/s/.%20.%2Fapi":        false,
		"/s/.%C2%85.%2Fapi":     false,
		"/s/.%E2%80%8B.%2Fapi":  false,
		"/s/.family":            true,
		"/s/..und%20los":        true,
		"/s/..%5capi":           false,
		`/s/..\api`:             false,
		"/s/%252e%252e%252fapi": false,
		"/s/%25%32%66":          false,
		"/s/%25u002e":           false,
		"/s/a%2F%2Fb":           false,
		"/s/%2Fx":               false,
		"/s/%00":                false,
		"/s/%0d%0a":             false,
		"/s/%7f":                false,
		"/s/%c0%ae":             false,
		"/s/%zz":                false,
		"/s/x%":                 false,
	} {
		if readsOneWay(path) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
}

func TestRows(t *testing.T) {
	read := project(t, map[string]bool{"uploads": false})
	for request, want := range map[string]bool{
		"GET /share/abc_-1":                      true,
		"HEAD /share/abc/":                       true,
		"POST /share/abc":                        false,
		"get /share/abc":                         false,
		"GET /share/":                            false,
		"GET /share/abc,":                        false,
		"GET /share/abc/photos/" + assetID:       true,
		"GET /share/abc/photos/" + assetID + "0": false,
		"GET /s/Anna&Ben":                        true,
		"GET /s/rom,2026":                        true,
		"GET /s/user@home;$1=(x)!*'~":            true,
		"GET /s/[neu]":                           true,
		"GET /s/a|b^c":                           true,
		"GET /s/%22Fest%22":                      true,
		"GET /s/100%25":                          true,
		"GET /s/%3C3":                            true,
		"GET /s/a%2Fb":                           true,
		"GET /s/%7Benv.HOME%7D":                  true,
		"GET /s/{env.HOME}":                      false,
		"GET /s/.hidden":                         true,
		"GET /s/..":                              false,
		"GET /s/a b":                             false,
		"GET /s/a\"b":                            false,
		"GET /s/\xc3\xbc":                        false,
		"GET /s/%61":                             false,
		"GET /s/x/photos/" + assetID + "/":       true,
		"GET /_app/env.js":                       true,
		"GET /_app/immutable/entry/start.B7x_q-1.js": true,
		"GET /_app/immutable/":                       false,
		"GET /_app/immutable/a/../b":                 false,
		"GET /_app/immutable/.env":                   false,
		"GET /favicon-32.png":                        true,
		"GET /favicon/32.png":                        false,
		"GET /dark_skeleton.png":                     true,
		"GET /api/assets/" + assetID + "/thumbnail":  true,
		"GET /api/assets/" + assetID + "/ocr":        false,
		"GET /api/Assets/" + assetID:                 false,
		"GET /api/assets/" + assetID + "/":           false,
		"POST /api/shared-links/login":               true,
		"GET /api/shared-links/login":                false,
		"POST /api/assets":                           false,
		"GET /api/server/config":                     true,
		"GET https://x/share/abc":                    false,
		"OPTIONS *":                                  false,
	} {
		method, path, _ := strings.Cut(request, " ")
		if found := read.find(method, path) != nil; found != want {
			t.Errorf("%s: %v", request, found)
		}
	}
	if project(t, nil).find("POST", "/api/assets").body != 1<<20 {
		t.Error("an upload may be as big as the owner allows")
	}
}

func TestVerdicts(t *testing.T) {
	read := project(t, nil)
	for verdict, targets := range map[string][]string{
		verdictQuiet: {
			"/", "/?a[]=1", "/share", "/share/", "/share/../api/users", "//share/abc", "/Share/abc", "/s/%c0%ae", "/s/%3Cb%3E",
			"/%73hare/x", "/_app/env.mjs", "/api", "/api/", "/api/users/me", "/api/socket.io/?EIO=4", "/login", "/ads.txt",
			"/security.txt", "/maintenance?continue=/share/x", "/admin/users", "/workflows/x", "/photos.", "/.well-known/immich",
			"/apple-touch-icon-120x120-precomposed.png", "/favicon.svg", "/Autodiscover/Autodiscover.xml", "/_vti_bin/owssvr.dll",
			"/sitemap_index.xml", "/photos/" + assetID + "?x=%00",
			"/,", "//", "/%22%3E", "/%E2%80%8B", "/…", "/%0A", "/&fbclid=x", "/%3Ffbclid=x", "*", "/%20share/abc", "/share%20abc", "/s:abc",
			"/share.", "/#/share/abc", "/login%22", "/favicon.ico,", "/.well-known", "/images/logo.png", "/feed.xml", "/fotos", "/home/",
			"//favicon.ico", "//api//server/ping", "/undefined", "/%3Canonymous%20code%3E", "/[object%20Object]", "/data:image/png;base64," + strings.Repeat("iVBO", 200),
			"/javascript:void(0);", "/mailto:anna@example.org", "/installHook.js.map", "/.well-known/x/y.z.json", "/status.php", "/api/.well-known/immich",
		},
		verdictScan: {
			"/wp-login.php", "/.env", "/.git/config", "/admin.php", "/admin/config.php", "/api/v1/pods", "/api/.env", "/%2e%2e/etc/passwd",
			"/api/users/../../etc/passwd", "/photos/..%2f..%2fetc", "/x/share/abc", "/%c0%ae", "http://elsewhere.example/", "/sharer.php",
			"/favicon.php", "/api/users%2Fme%00", "/share.php", "/s.cgi", "/_app.php", "/,wp-login.php", "/wp-login.php,", "/%20/.env", "/..",
			"/%00", "/%2e%2e,", "/images/x.php", "/web/x.jsp", "/home/x", "/fotos.php", "/.well-known/../.env", "/x/y/logo.png", "/&/../x",
			"/.well-known/acme-challenge/x.php", "/.well-known/.env", "/dav/.env", "/principals/x.php", "/api/albums/x.php", "/sitemap.php",
			"//wp-login.php", "//.env", "/api//.env", "/undefined/.env", "/null.php", "/data:/.env", "/tel:/../.env", "/data.php", "/autodiscover/x.php",
		},
	} {
		for _, target := range targets {
			if got := read.quiet.verdictOf(&http.Request{RequestURI: target}); got != verdict {
				t.Errorf("%s: %s", target, got)
			}
		}
	}
}

// Each of these took milliseconds, and HTTP/2 sends the next one in a single byte.
func TestNoTargetIsDear(t *testing.T) {
	read := project(t, nil)
	for _, path := range []string{"/_app/immutable/", "/s/", "/share/"} {
		if read.find("GET", path+strings.Repeat("a", longestPath)) != nil {
			t.Errorf("%s is compared at any length", path)
		}
		if !read.quiet.has(path + strings.Repeat("a", longestPath)) {
			t.Errorf("%s is an offence", path)
		}
	}
	if read.find("GET", "/s/"+strings.Repeat("%F0%9F%98%80", 150)) == nil {
		t.Error("no name of 150 signs opens")
	}
	if read.quiet.has("/"+strings.Repeat("a", longestFile)+".png") || !read.quiet.has("/"+strings.Repeat("a", longestFile/2)+".png") {
		t.Error("names of files are compared at any length")
	}
	r := httptest.NewRequest("GET", "/share/a?"+strings.Repeat("key=a&", 1000)+"slug=guess", nil)
	visitor, _ := networksOf(guest, 64)
	usual(t)
	live.opened(visitor, link{"key", "a"}.asImmichReads(), time.Now())
	if names := linksIn(r); len(names) > mostNames+2 || isLive(visitor, names) {
		t.Errorf("%d names are looked at", len(names))
	}
	if got := withoutSecrets("/share/" + strings.Repeat("secret&", 10_000)); strings.Contains(got, "secret") {
		t.Error(got)
	}
	if got := withoutSecrets("/x?" + strings.Repeat("a=secret&", 10_000)); strings.Contains(got, "secret") || len(got) > 2*mostRead {
		t.Error(got)
	}
}

func TestHeaders(t *testing.T) {
	list := newHeaderList([]string{"accept", "x-immich-hls-*"}, []string{"link"})
	got := list.of(http.Header{
		"Accept": {"a"}, "X-Immich-Hls-Msn": {"1"}, "X-Immich-Checksum": {"x"}, "Authorization": {"x"}, "X-Immich-Hls": {"x"},
		"Cookie": {"session=x; a_link=x; links=x", "b=c;link=first,session=x; link=second"},
	})
	want := http.Header{"Accept": {"a"}, "X-Immich-Hls-Msn": {"1"}, "Cookie": {"link=first"}}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%v", got)
	}
	for _, cookies := range [][]string{nil, {""}, {"link="}, {"link"}, {"session=x"}, {"x=link=y"}, {"Link=x"}} {
		if kept := list.cookiesOf(cookies); kept != "" {
			t.Errorf("%v: %q", cookies, kept)
		}
	}
}

// through returns the request that the gate lets through, or nil and the answer.
func through(t *testing.T, request *http.Request) (*http.Request, *httptest.ResponseRecorder) {
	t.Helper()
	gate := &Gate{surface: project(t, nil), refusal: Refuse{RejectWith: "forbidden"}}
	var passed *http.Request
	answer := httptest.NewRecorder()
	next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error { passed = r; return nil })
	if err := gate.ServeHTTP(answer, request, next); err != nil {
		t.Fatal(err)
	}
	return passed, answer
}

func TestTheGate(t *testing.T) {
	for target, want := range map[string]string{
		"/share/abc":                       "/share/abc",
		"/share/abc?utm_source=a&fbclid=b": "/share/abc?utm_source=a&fbclid=b",
		"/share/abc?a=1&amp;b=2":           "/share/abc",
		"/share/abc?&fbclid=x":             "/share/abc",
		"/share/abc?a[]=1":                 "/share/abc",
		"/share/abc?x=%E4":                 "/share/abc",
		"/share/abc?x=%00":                 "",
		"/share/abc?apiKey=x":              "",
		"/share/abc?password=x":            "",
		"/api/shared-links/me":             "",
		"/api/shared-links/me?key=":        "",
		"/api/shared-links/me?key=a":       "/api/shared-links/me?key=a",
		"/api/shared-links/me?key=a&x[]=1": "",
		"/api/shared-links/me?key=a&&":     "",
		"/api/shared-links/me?key=a&key=b": "",
		"/api/server/config?a=1&&b=2":      "",
		"/favicon.ico?v[]=2":               "/favicon.ico",
		"/wp-login.php":                    "",
	} {
		passed, answer := through(t, httptest.NewRequest(http.MethodGet, target, nil))
		switch {
		case want == "" && (passed != nil || answer.Code != http.StatusForbidden || answer.Body.String() != refusal):
			t.Errorf("%s: not refused (%d)", target, answer.Code)
		case want != "" && (passed == nil || passed.URL.RequestURI() != want || passed.RequestURI != want):
			t.Errorf("%s: %v", target, passed)
		}
	}
}

func TestNothingOfAUsersGetsThrough(t *testing.T) {
	request := httptest.NewRequest(http.MethodGet, "/share/abc", nil)
	request.Header = http.Header{
		"Authorization": {"x"}, "X-Api-Key": {"x"}, "Cookie": {"immich_access_token=x"}, "Upgrade": {"websocket"}, "Accept": {"*/*"},
	}
	request.Trailer = http.Header{"X-Api-Key": {"x"}}
	passed, _ := through(t, request)
	if !maps.EqualFunc(passed.Header, http.Header{"Accept": {"*/*"}}, slices.Equal) || passed.Trailer != nil {
		t.Errorf("%v, %v", passed.Header, passed.Trailer)
	}
}

func TestABodyHasItsBound(t *testing.T) {
	request := httptest.NewRequest(http.MethodPost, "/api/assets?key=a", strings.NewReader(strings.Repeat("x", 1<<20+1)))
	request.ContentLength = -1 // one that states its size is refused before it begins
	passed, _ := through(t, request)
	buffer := make([]byte, 2<<20)
	var err error
	for err == nil {
		_, err = passed.Body.Read(buffer)
	}
	var problem caddyhttp.HandlerError
	if !errors.As(err, &problem) || problem.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%T %v", err, err)
	}
}

func TestLinksOfPages(t *testing.T) {
	for target, want := range map[string]struct {
		of    link
		plain bool
	}{
		"/share/abc":           {link{"key", "abc"}, true},
		"/s/Anna&Ben":          {link{"slug", "Anna&Ben"}, true},
		"/s/Anna%26Ben":        {link{"slug", "Anna&Ben"}, false},
		"/share/abc/":          {link{"key", "abc"}, false},
		"/share/abc?at=1":      {link{"key", "abc"}, false},
		"/share/abc/photos/1":  {link{"key", "abc"}, false},
		"/s/a%2Fb":             {link{"slug", "a/b"}, false},
		"/api/shared-links/me": {},
		"/share/":              {},
		"/":                    {},
	} {
		if of, plain := linkOfPage(target); of != want.of || plain != want.plain {
			t.Errorf("%s: %v %v", target, of, plain)
		}
	}
	for name, want := range map[string][]string{
		"abc": nil, "abc,": {"abc"}, "abc).": {"abc"}, "abc_": {"abc"}, "ab_,": {"ab_", "ab"}, "abc&fbclid=x": {"abc"}, "abc>": {"abc"},
		"Anna&Ben": {"Anna"}, "été…": {"été"}, "...": nil, "&x": nil,
	} {
		var got []string
		for _, each := range (link{"slug", name}).withoutGlue() {
			got = append(got, each.name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestATableThatContradictsItselfIsRefused(t *testing.T) {
	text, err := os.ReadFile(tablePath)
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "surface.toml")
	for name, change := range map[string][2]string{
		"unknown pattern": {"{slug}", "{sulg}"},
		"broken pattern":  {"id = '", "id = '("},
		"no size":         {`body = "1MB"`, `body = "1 heap"`},
		"unknown feature": {"[features.map]", "[features.maps]"},
		"nothing quiet":   {"files = [", "filez = ["},
		"no programs":     {"programs = [", "program = ["},
	} {
		if err := os.WriteFile(changed, []byte(strings.ReplaceAll(string(text), change[0], change[1])), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readSurface(changed, allOn, 1); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := readSurface(tablePath, map[string]bool{"albums": true}, 1); err == nil {
		t.Error("features without a switch: taken")
	}
}

func BenchmarkTheGate(b *testing.B) {
	read, err := readSurface(tablePath, allOn, 1)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		path, raw, _ := strings.Cut("/api/assets/"+assetID+"/thumbnail?size=preview&key=k3y_Of-a-Link&c=a%2Fb%3D", "?")
		if read.find(http.MethodGet, path) == nil {
			b.Fatal("no row")
		}
		readQuery(raw)
	}
}
