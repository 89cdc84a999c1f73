package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A server's links, with what must not appear anywhere else: what opens them.
const (
	canaryKey      = "CanaryKey-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	canarySlug     = "canary-slug"
	canaryPassword = "canary-password"
	canaryAPIKey   = "canary-api-key"
)

func immichLinkOf(id, more string) string {
	return fmt.Sprintf(`{"id":"%s-2222-4333-8444-555555555555","key":%q,"slug":null,"userId":"u","type":"ALBUM",`+
		`"assets":[{"id":"a","people":[1,2]}],"createdAt":"2026-01-01T00:00:00.000Z","expiresAt":"2099-01-01T00:00:00.000Z",`+
		`"allowUpload":false,"allowDownload":true,"showMetadata":false,"password":"x","description":null%s}`, id, canaryKey+id, more)
}

type fakeImmich struct {
	permissions string
	links       string
	status      int
	asked       []string
}

func (f *fakeImmich) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked = append(f.asked, r.URL.Path)
	switch {
	case r.Header.Get("x-api-key") != canaryAPIKey:
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/api/api-keys/me" && f.permissions != "":
		fmt.Fprintf(w, `{"id":"k","name":"n","permissions":%s}`, f.permissions)
	case r.URL.Path == "/api/shared-links" && f.status != 0:
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(f.status)
	case r.URL.Path == "/api/shared-links":
		fmt.Fprint(w, f.links)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func ask(t *testing.T, immich *fakeImmich, key string) linkReport {
	t.Helper()
	server := httptest.NewServer(immich)
	defer server.Close()
	file := filepath.Join(t.TempDir(), "api-key")
	if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return askImmich(strings.TrimPrefix(server.URL, "http://"), file, testPseudonyms(t))
}

func TestTheReportInWords(t *testing.T) {
	immich := &fakeImmich{permissions: `["sharedLink.read"]`, links: "[" + strings.Join([]string{
		immichLinkOf("11111111", `,"expiresAt":null`),
		immichLinkOf("22222222", `,"expiresAt":null,"password":null,"allowUpload":true,"showMetadata":true`),
		immichLinkOf("33333333", `,"password":"","slug":"`+canarySlug+`"`),
		immichLinkOf("44444444", `,"expiresAt":"2020-01-01T00:00:00.000Z","password":null`),
		immichLinkOf("55555555", `,"allowUpload":true`),
	}, ",") + "]"}
	report := ask(t, immich, canaryAPIKey)
	want := "Of 5 shared links, 2 never expire, 1 has no password and allows uploads, 1 has no password, 1 shows metadata " +
		"(where and when photos were taken), 1 has expired and is still there."
	if said := report.words(time.Now()); said != want || report.trouble != "" || report.tooMuch() != "" {
		t.Errorf("%s\n%+v", said, report.trouble)
	}
	if names := testPseudonyms(t); report.links[2].pseudonyms[1] != names.of(link{"slug", canarySlug}) || len(report.links[0].pseudonyms) != 1 {
		t.Errorf("%+v", report.links)
	}
	if text := fmt.Sprintf("%+v", report); strings.Contains(text, "Canary") || strings.Contains(text, canarySlug) {
		t.Error("what opens a link is kept")
	}
	good := ask(t, &fakeImmich{permissions: `["sharedLink.read"]`, links: "[" + immichLinkOf("11111111", "") + "]"}, canaryAPIKey)
	if said := good.words(time.Now()); said != "" {
		t.Errorf("nothing is wrong, and it says %q", said)
	}
	alone := ask(t, &fakeImmich{links: "[" + immichLinkOf("11111111", `,"expiresAt":null`) + "]"}, canaryAPIKey)
	if said := alone.words(time.Now()); said != "Of the one shared link, 1 never expires." {
		t.Error(said)
	}
}

func TestAKeyWithOtherRightsThanItNeedsIsNamed(t *testing.T) {
	for _, row := range []struct {
		what, permissions, key string
		status                 int
		trouble, tooMuch       string
		asks                   int
	}{
		{"just right", `["sharedLink.read"]`, canaryAPIKey, 0, "", "", 2},
		{"an older Immich", "", canaryAPIKey, 0, "", "", 2},
		{"all", `["all"]`, canaryAPIKey, 0, "", "has more permissions than it needs (all)", 2},
		{"more", `["sharedLink.read","asset.delete","album.read"]`, canaryAPIKey, 0, "", "(asset.delete, album.read)", 2},
		{"hostile", `["sharedLink.read","\u001b[2Jx"]`, canaryAPIKey, 0, "", "(?[2Jx)", 2},
		{"less", `["album.read"]`, canaryAPIKey, 0, "lacks the permission sharedLink.read", "", 1},
		{"none", `[]`, canaryAPIKey, 0, "lacks the permission sharedLink.read", "", 1},
		{"forbidden", "", canaryAPIKey, 403, "lacks the permission sharedLink.read", "", 2},
		{"refused", `["all"]`, "another", 0, "refuses the API key", "", 1},
		{"broken", `["sharedLink.read"]`, canaryAPIKey, 500, "answers 500", "", 2},
		{"led elsewhere", `["sharedLink.read"]`, canaryAPIKey, 302, "answers 302", "", 2},
	} {
		immich := &fakeImmich{permissions: row.permissions, links: "[]", status: row.status}
		report := ask(t, immich, row.key)
		if !strings.Contains(report.trouble, row.trouble) || (report.trouble == "") != (row.trouble == "") ||
			!strings.Contains(report.tooMuch(), row.tooMuch) || (report.tooMuch() == "") != (row.tooMuch == "") || len(immich.asked) != row.asks {
			t.Errorf("%s: %q, %q, %v", row.what, report.trouble, report.tooMuch(), immich.asked)
		}
		if strings.Contains(report.trouble, canaryAPIKey) {
			t.Errorf("%s: the key is told", row.what)
		}
	}
}

func TestWhatIsNoListOfLinksIsNoReport(t *testing.T) {
	for _, links := range []string{"", "{}", "[{", `[{"id":5}]`, "<html>"} {
		if report := ask(t, &fakeImmich{links: links}, canaryAPIKey); report.trouble == "" {
			t.Errorf("%q is a report", links)
		}
	}
	if report := askImmich("127.0.0.1:1", "/nowhere", nil); !strings.Contains(report.trouble, "set immichApiKey") {
		t.Error(report.trouble)
	}
}

func TestLinksThatAReportLeavesOutAreNamed(t *testing.T) {
	for count, want := range map[int]bool{mostReported: false, mostReported + 1: true} {
		links := "[" + strings.Repeat(immichLinkOf("11111111", "")+",", count-1) + immichLinkOf("22222222", "") + "]"
		report := ask(t, &fakeImmich{links: links}, canaryAPIKey)
		if said := report.leftOut(); len(report.links) != mostReported || strings.Contains(said, "more than 5000 shared links") != want {
			t.Errorf("%d links: %d reported, %q", count, len(report.links), said)
		}
	}
}
