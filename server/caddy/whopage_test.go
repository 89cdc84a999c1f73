package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const hostile = "<script>alert(1)</script>\u001b]52;c;AAAA\u0007\u202egpj.exe\r\n\"' onload=x 日本 🎄"

// aServer is an exposure with a key of Immich's API, and some links and devices.
func aServer(t *testing.T, links ...string) *whoSays {
	t.Helper()
	w := &whoSays{state: t.TempDir(), logs: t.TempDir(), days: 90, now: logsBegin.Add(time.Hour)}
	for _, folder := range []string{"who", "devices"} {
		if err := os.Mkdir(filepath.Join(w.state, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.key = filepath.Join(w.state, "who", "api-key")
	for path, text := range map[string]string{
		filepath.Join(w.state, "who", "key"): testKey + " 1700000000\n", w.key: canaryAPIKey,
		filepath.Join(w.state, "devices", strings.Repeat("1", 64)): "phone-anna\nuntil 2030-01-01\n",
		filepath.Join(w.state, "devices", strings.Repeat("2", 64)): "laptop\x1b[31m\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	immich := httptest.NewServer(&fakeImmich{permissions: `["sharedLink.read"]`, links: "[" + strings.Join(links, ",") + "]"})
	t.Cleanup(immich.Close)
	w.immich = strings.TrimPrefix(immich.URL, "http://")
	return w
}

func said(t *testing.T, w *whoSays, ask string) string {
	t.Helper()
	var text strings.Builder
	if err := w.say(ask, &text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestOneRowHoweverALinkIsCalled(t *testing.T) {
	names := testPseudonyms(t)
	w := aServer(t, immichLinkOf("11111111", `,"slug":"`+canarySlug+`","password":"`+canaryPassword+`","description":"Summer","album":{"albumName":"x"}`),
		immichLinkOf("22222222", `,"album":{"albumName":"Winter"},"expiresAt":null`))
	key, slug := names.of(link{"key", canaryKey + "11111111"}), names.of(link{"slug", canarySlug})
	write(t, filepath.Join(w.logs, "access.log"), logLine(0, "203.0.113.1/32", deed("open", key))+
		logLine(time.Minute, "203.0.113.1/32", deed("open", slug))+logLine(time.Minute, "203.0.113.1/32", deed("download", slug))+
		logLine(time.Minute, "203.0.113.1/32", deed("open", linkTwo)))
	write(t, filepath.Join(w.logs, "devices.log"), strings.Replace(logLine(0, "2001:db8:1:2:3:4:5:6/128", `,"device":"1111111111111111"`), "/128", "", 1))
	table, page := said(t, w, askTable), said(t, w, askPage)
	for _, row := range []string{"Summer (11111111)                2         1       0", "Winter (22222222)                0         0       0 never",
		linkTwo + "                 1         0       0", "phone-anna             2026-11-01", "laptop?[31m            never"} {
		if !strings.Contains(table, row) {
			t.Errorf("%q is missing:\n%s", row, table)
		}
	}
	for _, line := range strings.Split(table, "\n") {
		if utf8.RuneCountInString(line) > 80 {
			t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
		}
	}
	if _, err := os.Stat(w.summary()); err == nil {
		t.Error("a look has written down what nobody was told")
	}
	sum := said(t, w, askSum)
	kept, _ := os.ReadFile(w.summary())
	for _, text := range []string{table, page, said(t, w, askLinks), said(t, w, askWords), sum, string(kept)} {
		for _, canary := range []string{"CanaryKey", canarySlug, canaryPassword, canaryAPIKey, "203.0.113"} {
			if strings.Contains(text, canary) {
				t.Errorf("%s is in %s", canary, text)
			}
		}
	}
	if info, _ := os.Stat(w.summary()); info.Mode() != 0o600 {
		t.Error("others may read the summary")
	}
}

func TestNamesAreNothingButText(t *testing.T) {
	name, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	w := aServer(t, immichLinkOf("11111111", `,"description":`+string(name)))
	for _, ask := range []string{askTable, askLinks, askPage} {
		text := said(t, w, ask)
		for _, bad := range []string{"\x1b", "\a", "\u202e", "\r", "<script"} {
			if bad == "<script" && ask != askPage {
				continue
			}
			if strings.Contains(text, bad) {
				t.Errorf("%s lets %q through:\n%s", ask, bad, text)
			}
		}
		if !strings.Contains(text, "alert(1)") {
			t.Errorf("%s lacks the name:\n%s", ask, text)
		}
	}
}

func TestThePageNeedsNothingElse(t *testing.T) {
	page := said(t, aServer(t, immichLinkOf("11111111", `,"expiresAt":null,"password":null`)), askPage)
	for _, needed := range []string{"default-src 'none'", "prefers-color-scheme: dark", "width=device-width", "1 never expires"} {
		if !strings.Contains(page, needed) {
			t.Errorf("%s is missing", needed)
		}
	}
	for _, foreign := range []string{"http:", "https:", "src=", "href=", "url(", "<script", "@import"} {
		if strings.Contains(page, foreign) {
			t.Errorf("the page has %s", foreign)
		}
	}
}

func TestEachIsSaidWithoutTheOther(t *testing.T) {
	w := aServer(t, immichLinkOf("11111111", `,"expiresAt":null`))
	if err := os.Remove(filepath.Join(w.state, "who", "key")); err != nil {
		t.Fatal(err)
	}
	if text := said(t, w, askTable); !strings.Contains(text, "never") || strings.Contains(text, "OPENS") {
		t.Error(text)
	}
	if text := said(t, w, askSum); text != "" {
		t.Error(text)
	}
	w = aServer(t)
	w.immich = ""
	if text := said(t, w, askTable); !strings.Contains(text, "Nobody has opened one yet.") || strings.Contains(text, "EXPIRES") {
		t.Error(text)
	}
	if text := said(t, w, askSum); text != "links 0 opens 0\n" {
		t.Error(text)
	}
}

func TestTooManyFirstOpensAreOneMore(t *testing.T) {
	w := aServer(t)
	text := ""
	for number := range mostNews + 5 {
		text += logLine(0, "203.0.113.1/32", deed("open", fmt.Sprintf("%016x", number)))
	}
	write(t, filepath.Join(w.logs, "access.log"), text)
	if sum := said(t, w, askSum); strings.Count(sum, "first ") != mostNews || !strings.Contains(sum, "more 5\nlinks 25 opens 25\n") {
		t.Error(sum)
	}
	if sum := said(t, w, askSum); sum != "links 25 opens 25\n" {
		t.Error(sum)
	}
}

func TestAFieldHasItsWidth(t *testing.T) {
	for text, want := range map[string]string{
		"abc": "abc       ", "日本": "日本      ", "0123456789": "0123456789", "0123456789a": "0123456...", "日本日本日本": "日本日...  ", "e\u0301": "e\u0301         ",
	} {
		if got := padded(text, 10); strings.TrimRight(got, " ") != strings.TrimRight(want, " ") {
			t.Errorf("%q is %q", text, got)
		}
	}
}

func TestWhereVisitorsComeFromIsToldWhereADatabaseKnows(t *testing.T) {
	database, err := filepath.Abs(countryTest)
	if err != nil {
		t.Fatal(err)
	}
	for settings, from := range map[string]string{
		"countries CN\ndatabase " + database + "\ndatabase-days 0\n": "GB 2, JP 1", "": "",
		"countries CN\ndatabase /nowhere\n": "", "countries CN\ndatabase /etc/passwd\n": "", "what\n": "",
	} {
		w := aServer(t)
		if err := os.Mkdir(filepath.Join(w.state, "settings"), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(w.state, "settings", "lists.conf"), settings)
		text := ""
		for _, network := range []string{"81.2.69.142/32", "81.2.69.160/32", "2001:218:1:2::/64", "203.0.113.1/32", "none"} {
			text += logLine(0, network, deed("open", linkOne))
		}
		write(t, filepath.Join(w.logs, "access.log"), text)
		table, page := said(t, w, askTable), said(t, w, askPage)
		shown := strings.Contains(table, "\n  from "+from+"\n") && strings.Contains(page, ">"+from+"\n")
		if shown != (from != "") || strings.Contains(page, "<th>From") != shown || strings.Contains(table, "  from ") != shown {
			t.Errorf("%q: %s", settings, table)
		}
		if !strings.Contains(table, linkOne+"                 5 ") {
			t.Errorf("%q: %s", settings, table)
		}
	}
}
