package main

import (
	"encoding/hex"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

const testKey = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func testPseudonyms(t *testing.T) *pseudonyms {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(testKey+" 1700000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	names, err := readPseudonyms(file)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestOnlyWhatImmichHasAnsweredToIsADeed(t *testing.T) {
	const id = "/api/assets/a55e7001-1111-4222-8333-444444444444"
	for _, row := range []struct {
		method, path string
		status       int
		did          string
	}{
		{"GET", "/api/shared-links/me", 200, deedOpen},
		{"GET", "/api/shared-links/me", 304, deedOpen},
		{"GET", "/api/shared-links/me", 401, ""},
		{"HEAD", "/api/shared-links/me", 200, ""},
		{"POST", "/api/shared-links/login", 201, deedOpen},
		{"POST", "/api/shared-links/login", 401, ""},
		{"GET", "/share/abc", 200, ""}, // programs that make previews ask for that as well
		{"GET", id + "/thumbnail", 200, ""},
		{"GET", id + "/video/playback", 206, ""},
		{"GET", id + "/original", 200, deedDownload},
		{"GET", id + "/original", 206, deedDownload},
		{"GET", id + "/original", 304, ""},
		{"GET", id + "/original", 400, ""},
		{"HEAD", id + "/original", 200, ""},
		{"POST", "/api/download/info", 201, ""},
		{"POST", "/api/download/archive", 200, deedDownload},
		{"POST", "/api/download/archive", 429, ""},
		{"POST", "/api/assets", 201, deedUpload},
		{"POST", "/api/assets", 200, ""},
		{"POST", "/api/assets", 401, ""},
	} {
		if did := deedOf(row.method, row.path, row.status); did != row.did {
			t.Errorf("%s %s %d is %q, not %q", row.method, row.path, row.status, did, row.did)
		}
	}
}

func TestWhatIsNoDeedNamesNoLink(t *testing.T) {
	names := testPseudonyms(t)
	for _, row := range []struct {
		path   string
		status int
		named  bool
	}{
		{"/api/shared-links/me?key=abc", 200, true}, {"/api/shared-links/me?slug=abc", 200, true}, {"/api/shared-links/me?key=abc", 401, false},
		{"/api/assets/a/thumbnail?key=abc", 200, false}, {"/share/abc?key=abc", 200, false}, {"/api/shared-links/me", 200, false},
	} {
		target, err := url.Parse(row.path)
		if err != nil {
			t.Fatal(err)
		}
		if deed := names.deed("GET", target, "", row.status); (deed != "") != row.named {
			t.Errorf("%s %d: %q", row.path, row.status, deed)
		}
	}
}

func TestAPreviewOfAChatProgramIsNoOpen(t *testing.T) {
	names := testPseudonyms(t)
	target := &url.URL{Path: "/api/shared-links/me", RawQuery: "key=abc"}
	for agent, opens := range map[string]bool{
		"Mozilla/5.0 (Linux; Android 14; CUBOT NOTE 50)": true, "WhatsApp/2.23.20.0": false,
		"Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)": false, "": true,
	} {
		if (names.deed("GET", target, agent, 200) != "") != opens {
			t.Errorf("%q opens: %v", agent, !opens)
		}
	}
}

func TestALinkHasOnePseudonymHoweverItsKeyIsSpelt(t *testing.T) {
	names := testPseudonyms(t)
	key := strings.Repeat("AbC_-9", 11) + "A" // 50 bytes
	same := names.of(link{"key", key})
	for _, spelt := range []string{
		key[:5] + "!" + key[5:], key + "=", key + "==more", strings.NewReplacer("-", "+", "_", "/").Replace(key), key + "%",
		hex.EncodeToString(keyBytes(key)), strings.ToUpper(hex.EncodeToString(keyBytes(key))), key[:66] + "B",
	} {
		if names.of(link{"key", spelt}) != same {
			t.Errorf("%q is another link than %q", spelt, key)
		}
	}
	for _, other := range []link{{"key", key[:66]}, {"slug", key}, {"key", "x" + key[1:]}} {
		if names.of(other) == same {
			t.Errorf("%v is the same link", other)
		}
	}
	another := *names
	another.key = []byte(strings.Repeat("k", 32))
	if another.of(link{"key", key}) == same || len(same) != 16 || strings.Contains(key, same) {
		t.Error("the pseudonym does not hang on the key")
	}
}

func TestAKeyThatIsNoneNamesNothing(t *testing.T) {
	for _, text := range []string{"", "abc 1\n", testKey[:62] + " 1\n", testKey + "\n", strings.Repeat("x", 64) + " 1\n"} {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if names, err := readPseudonyms(file); err == nil {
			t.Errorf("%q is a key: %v", text, names)
		}
	}
}

func TestTheLogTakesAKeyOrNone(t *testing.T) {
	for text, file := range map[string]string{
		"": "", "visitor 64": "", "who off /key": "", "who on /key": "/key", "who on": "?", "who yes /key": "?", "who on /key more": "?",
		"visitor 47": "?", "visitor x": "?", "log /elsewhere 0": "?", "log /elsewhere x": "?",
	} {
		handler, err := parseAnswers(httpcaddyfile.Helper{Dispenser: caddyfile.NewTestDispenser("answers {\n log /folder 10\n " + text + "\n}")})
		if answers, ok := handler.(*Answers); (err != nil) != (file == "?") || ok && answers.KeyFile != file {
			t.Errorf("%s: %+v, %v", text, handler, err)
		}
	}
	if _, err := parseAnswers(httpcaddyfile.Helper{Dispenser: caddyfile.NewTestDispenser("answers")}); err == nil {
		t.Error("an edge without a log is taken")
	}
}

func BenchmarkPseudonym(b *testing.B) {
	names := &pseudonyms{key: make([]byte, 32), since: time.Unix(0, 0)}
	target := &url.URL{Path: "/api/shared-links/me", RawQuery: "key=" + strings.Repeat("AbC_-9", 11) + "A"}
	for b.Loop() {
		if names.deed("GET", target, "", 200) == "" {
			b.Fatal("no deed")
		}
	}
}
