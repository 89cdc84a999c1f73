package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	safari15 = "image/webp,image/avif,video/*;q=0.8,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"
	film     = "AppleCoreMedia/1.0.0.21F90 (iPhone; U; CPU OS 17_5 like Mac OS X; de_de)"
)

// fetched returns the headers that browsers have sent since 2023.
func fetched(site, mode, dest string) http.Header {
	return http.Header{"Sec-Fetch-Site": {site}, "Sec-Fetch-Mode": {mode}, "Sec-Fetch-Dest": {dest}}
}

func TestAnotherSitesPage(t *testing.T) {
	ahead := fetched("cross-site", "navigate", "document")
	ahead.Set("Sec-Purpose", "prefetch;prerender")
	for name, row := range map[string]struct {
		method, target string
		header         http.Header
		from, led      bool
	}{
		"nobody says":                  {"GET", "/share/a", http.Header{}, false, false},
		"the link's own page":          {"GET", "/api/x", fetched("same-origin", "cors", "empty"), false, false},
		"typed":                        {"GET", "/share/a", fetched("none", "navigate", "document"), false, false},
		"a link in a webmail":          {"GET", "/share/a", fetched("cross-site", "navigate", "document"), false, true},
		"a link of a neighbour":        {"GET", "/share/a", fetched("same-site", "navigate", "document"), false, true},
		"a picture":                    {"GET", "/share/a", fetched("cross-site", "no-cors", "image"), true, true},
		"a picture of a neighbour's":   {"GET", "/share/a", fetched("same-site", "no-cors", "image"), false, true},
		"a form of a neighbour's":      {"POST", linkLogin, fetched("same-site", "navigate", "document"), true, true},
		"a frame":                      {"GET", "/share/a", fetched("cross-site", "navigate", "iframe"), true, true},
		"a form":                       {"POST", "/share/a", fetched("cross-site", "navigate", "document"), true, true},
		"a script":                     {"POST", "/share/a", fetched("cross-site", "no-cors", "empty"), true, true},
		"ahead of time":                {"GET", "/share/a", ahead, true, true},
		"a websocket":                  {"GET", "/s/a", http.Header{"Origin": {"https://kittens.example"}}, true, true},
		"a websocket of a sandbox":     {"GET", "/s/a", http.Header{"Origin": {"null"}}, true, true},
		"a script of before 2023":      {"POST", linkLogin, http.Header{"Origin": {"https://kittens.example"}}, true, true},
		"the page's own of before":     {"POST", linkLogin, http.Header{"Origin": {"https://Example.com"}}, false, false},
		"the same without a Referer":   {"POST", linkLogin, http.Header{"Origin": {"null"}}, false, true},
		"a picture of before 2023":     {"GET", "/share/a", http.Header{"Accept": {safari15}}, true, true},
		"the page's picture, before":   {"GET", photo(1), http.Header{"Accept": {safari15}}, false, true},
		"a film's next piece":          {"GET", "/s/a", http.Header{"User-Agent": {film}}, true, true},
		"a video of the page":          {"GET", "/api/assets/x/video/playback", http.Header{"User-Agent": {film}}, false, true},
		"a picture or link in Outlook": {"GET", "/share/a", http.Header{"User-Agent": {"Mozilla/4.0 (compatible; ms-office; MSOffice 16)"}}, false, true},
		"a link opened out of a mail":  {"GET", "/share/a", http.Header{"Accept": {"text/html,image/webp"}}, false, false},
	} {
		request := httptest.NewRequest(row.method, row.target, nil)
		request.Header = row.header
		if fromElsewhere(request) != row.from || ledHere(request) != row.led {
			t.Errorf("%s: from elsewhere %v, led here %v", name, !row.from, fromElsewhere(request))
		}
	}
}

// A script opens one made-up link after another: no ban, few questions to Immich, and everything else goes on.
func TestWhoIsLedToUnknownLinks(t *testing.T) {
	usual(t)
	ledToUnknown.full = nil
	gate := &Gate{surface: project(t, nil), refusal: Refuse{RejectWith: "forbidden"}}
	asked := 0
	ask := func(from, target string, header http.Header, says int) (status int) {
		r := httptest.NewRequestWithContext(contextWithVars(), "GET", target, nil)
		r.RemoteAddr, r.Header = from, header
		w := httptest.NewRecorder()
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			asked++
			w.WriteHeader(says)
			_, err := w.Write([]byte("Invalid share key"))
			return err
		})
		if err := gate.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return KeyGuesses{}.ServeHTTP(w, r, next)
		})); err != nil {
			t.Fatal(err)
		}
		return w.Code
	}
	led := fetched("cross-site", "navigate", "document")
	var statuses [600]int
	for number := range 100 {
		statuses[ask(guest, fmt.Sprintf("/share/nothere%dx", number), led.Clone(), 404)]++
	}
	if statuses[404] != 10 || statuses[403] != 90 {
		t.Errorf("%d were looked up, %d refused", statuses[404], statuses[403])
	}
	if !spentOf.offences.isEmpty() {
		t.Error("somebody else's script has made the visitor an offender")
	}
	for target, header := range map[string]http.Header{
		"/share/typed": fetched("none", "navigate", "document"), "/favicon.ico": fetched("same-origin", "no-cors", "image"), "/custom.css": led,
	} {
		if got := ask(guest, target, header, 200); got != 200 {
			t.Errorf("%s: %d", target, got)
		}
	}
	if got := ask("192.0.2.9:1", "/share/other", led.Clone(), 200); got != 200 {
		t.Errorf("somebody else is refused: %d", got)
	}
	visitor, _ := networksOf(guest, 64)
	live.opened(visitor, link{"key", "good"}.asImmichReads(), time.Now())
	if got := ask(guest, "/share/good", led.Clone(), 200); got != 200 {
		t.Errorf("a live link is refused: %d", got)
	}
	before := asked
	for number := range 600 { // neighbouring /64s
		ask(fmt.Sprintf("[2001:db8:1:%x::1]:1", number), fmt.Sprintf("/share/nothere%dx", number), led.Clone(), 404)
	}
	// Each one that is looked up may be asked for once more, to be sure.
	if more := asked - before; more < 50 || more > 100 {
		t.Errorf("a /48 had %d looked up", more)
	}
}

func TestTypedAddresses(t *testing.T) {
	read := project(t, nil)
	typed := fetched("none", "navigate", "document")
	chat := http.Header{"User-Agent": {"WhatsApp/2.23.18.78 A"}}
	for name, row := range map[string]struct {
		method, target string
		header         http.Header
		want           string
	}{
		"a link's name alone":         {"GET", "/hochzeit", typed, verdictQuiet},
		"the same without a browser":  {"GET", "/hochzeit", http.Header{}, verdictScan},
		"letter by letter":            {"GET", "/hoch", chat, verdictQuiet},
		"a file":                      {"GET", "/wp-login.php", typed, verdictScan},
		"a file, in a chat":           {"GET", "/wp-login.php", chat, verdictScan},
		"something hidden":            {"GET", "/.env", typed, verdictScan},
		"a way up":                    {"GET", "/..%2fetc/passwd", typed, verdictScan},
		"not opened, but sent":        {"POST", "/hochzeit", typed, verdictScan},
		"a script of the page itself": {"GET", "/hochzeit", fetched("same-origin", "cors", "empty"), verdictScan},
	} {
		if got := read.quiet.verdictOf(&http.Request{Method: row.method, RequestURI: row.target, Header: row.header}); got != row.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestAWholeAddressBehindOurs(t *testing.T) {
	for path, want := range map[string]string{
		"/https://immich.x.ts.net/share/a":                     "/share/a",
		"/http:/IMMICH.x.ts.net/s/a":                           "/s/a",
		"/https%3A%2F%2Fimmich.x.ts.net%2Fshare%2Fa":           "/share/a",
		"/%22https://immich.x.ts.net:443/share/a":              "/share/a",
		"/immich.x.ts.net/share/a":                             "/share/a",
		"https://immich.x.ts.net/share/a":                      "/share/a",
		"/https%253A%252F%252Fimmich.x.ts.net%252Fshare%252Fa": "/share/a",
		"/https://www.immich.x.ts.net/share/a":                 "/share/a",
		"/www.immich.x.ts.net/share/a":                         "/share/a",
		"/hxxps://immich.x.ts.net/share/a":                     "/share/a",
		"/view-source:https://immich.x.ts.net/share/a":         "/share/a",
		"/Fotos:%20https://immich.x.ts.net/share/a":            "/share/a",
		"/%3Ca%20href=%22https://immich.x.ts.net/share/a":      "/share/a",
		"/https://immich.x.ts.net":                             "/",
		"/immich.x.ts.net,":                                    "/",
		"/https://immich.x.ts.net/.env":                        "/.env",
		"/x/https://immich.x.ts.net/share/a":                   "",
		"/wp-login.php/https://immich.x.ts.net/share/a":        "",
		"/wp-login.php:immich.x.ts.net/share/a":                "",
		"/https://immich.x.ts.net@evil.example/share/a":        "",
		"/https://immich.x.ts.net.evil.example/share/a":        "",
		"/https://evil-immich.x.ts.net.example/share/a":        "",
		"/https://elsewhere.example/share/a":                   "",
		"/immich.x.ts.network/share/a":                         "",
		"/share/a":                                             "",
		"/":                                                    "",
	} {
		if got := ownPath(path, "immich.x.ts.net:8443"); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// WhatsApp looks up what somebody types at each letter: https://7c0h.com/blog/new/whatsapp_server.html
func TestANameThatIsTypedIsOneGuess(t *testing.T) {
	m, now := &memory{seed: guesses.seed}, time.Now()
	count := func(client string, names ...string) (guessed int) {
		for _, name := range names {
			if m.firstTime(client, name, now) {
				guessed++
			}
		}
		return guessed
	}
	for name, row := range map[string]struct {
		names []string
		want  int
	}{
		"letter by letter":       {[]string{"h", "ho", "hoc", "hoch", "hochz", "hochze", "hochzei", "hochzeit"}, 1},
		"fast":                   {[]string{"h", "hoch", "hochzeit"}, 1},
		"in Greek":               {[]string{"γ", "γά", "γάμ", "γάμος"}, 1},
		"with a wrong letter":    {[]string{"h", "ho", "hox", "ho", "hoc", "hoch"}, 2},
		"again":                  {[]string{"h", "ho", "h", "ho", "hoc"}, 1},
		"a letter after another": {[]string{"a", "aa", "ab", "ac", "ad", "ae"}, 5},
		"far ahead":              {[]string{"h", "hochzeit"}, 2},
		"words":                  {[]string{"sommer", "winter", "herbst"}, 3},
		"the other way round":    {[]string{"abc", "ab", "a"}, 3},
	} {
		if got := count(name, row.names...); got != row.want {
			t.Errorf("%s: %d guesses", name, got)
		}
	}
	count("one", "summer")
	if count("other", "summer2") != 1 {
		t.Error("somebody else goes on with it")
	}
	m.recent, m.older = map[uint64]bool{}, m.recent
	if count("one", "summer", "summer26") != 0 || count("one", "summer27") != 1 {
		t.Error("what is older is gone on with as often as somebody likes")
	}
}

// For Immich, one key has many spellings (Node's Buffer.from); it is counted as one.
func TestAKeyIsTheSameInEverySpelling(t *testing.T) {
	const plain = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDE"
	hexed := fmt.Sprintf("%x", link{"key", plain}.asImmichReads())
	for _, same := range []string{plain[:66] + "F", plain[:66] + "G", plain[:66] + "H", hexed, hexed[:90] + "2C2D2E2F30"} {
		if len(same) == 100 && same != hexed {
			continue // another key
		}
		if got := (link{"key", same}).asImmichReads(); got != (link{"key", plain}).asImmichReads() {
			t.Errorf("%s is another link", same)
		}
	}
	for _, other := range []link{{"key", plain[:66] + "I"}, {"key", plain[:66]}, {"slug", plain}} {
		if other.asImmichReads() == (link{"key", plain}).asImmichReads() {
			t.Errorf("%v is the same link", other)
		}
	}
	limits, wrong := usual(t), 0
	spellings := []string{plain, plain[:66] + "F", plain[:66] + "G", plain[:66] + "H", hexed, plain[:10] + "%" + fmt.Sprintf("%x", plain[10]) + plain[11:]}
	for number := range 300 {
		from, name := fmt.Sprintf("[2001:db8:%x::1]:1", number), spellings[number%len(spellings)]
		if goes(t, limits, from, "POST", linkLogin+"?key="+name, 401, verdictPassword) == 401 {
			wrong++
		}
	}
	if wrong != 60 {
		t.Errorf("%d wrong passwords were taken", wrong)
	}
}
