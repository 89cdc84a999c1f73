package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	newerPrint = "aa11"
	olderPrint = "bb22"
)

// devicesWith returns a page for a folder with these files.
func devicesWith(t *testing.T, files map[string]string) DevicePage {
	t.Helper()
	folder := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return DevicePage{folder}
}

func until(name string, end time.Time) string {
	return name + "\nuntil " + strconv.FormatInt(end.Unix(), 10) + "\n"
}

func TestWhatADeviceIsTold(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	far, near := now.AddDate(2, 0, 1), now.AddDate(0, 0, 12)
	others := map[string]string{"cc33": until("laptop", far), "dd44": "phone\nframe\n", "ee55": until("phone", now.AddDate(0, 0, -1)), "ff66": "phone\n"}
	for what, c := range map[string]struct {
		files    map[string]string
		notAfter time.Time
		want     standing
	}{
		"all is well":                 {map[string]string{olderPrint: until("phone", far)}, far, standing{Until: "27 November 2028", Left: "2 years"}},
		"its end is near":             {map[string]string{olderPrint: until("phone", near)}, near, standing{Until: "8 December 2026", Left: "12 days", Soon: true}},
		"enrolled without an end":     {map[string]string{olderPrint: "phone\n"}, near, standing{Until: "8 December 2026", Left: "12 days", Soon: true}},
		"it ends before what it says": {map[string]string{olderPrint: until("phone", far)}, near, standing{Until: "8 December 2026", Left: "12 days", Soon: true}},
		"a newer one waits": {
			map[string]string{olderPrint: until("phone", near), newerPrint: until("phone", far)}, far,
			standing{Until: "8 December 2026", Left: "12 days", Soon: true, Newer: true},
		},
		"the one before still counts": {
			map[string]string{olderPrint: until("phone", far), newerPrint: until("phone", near)}, far,
			standing{Until: "27 November 2028", Left: "2 years", Older: "8 December 2026"},
		},
	} {
		for name, text := range others {
			c.files[name] = text
		}
		got, err := devicesWith(t, c.files).standingOf(olderPrint, c.notAfter, now)
		c.want.Name, c.want.Groups = "phone", []string{olderPrint}
		if err != nil || !sameStanding(got, c.want) {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
}

func sameStanding(one, other standing) bool {
	groups := strings.Join(one.Groups, " ") == strings.Join(other.Groups, " ")
	one.Groups, other.Groups = nil, nil
	return groups && one.Name == other.Name && one.Until == other.Until && one.Left == other.Left &&
		one.Soon == other.Soon && one.Newer == other.Newer && one.Older == other.Older
}

func TestTheTimeLeftIsRoundedDown(t *testing.T) {
	for left, want := range map[time.Duration]string{
		-time.Hour: "less than two hours", 119 * time.Minute: "less than two hours", 47 * time.Hour: "47 hours", 49 * time.Hour: "2 days", 3 * 365 * 24 * time.Hour: "3 years",
	} {
		if got := inWords(left); got != want {
			t.Errorf("%s: %q", left, got)
		}
	}
}

func TestThePageIsTheDevicesAlone(t *testing.T) {
	leaf := &x509.Certificate{Raw: []byte("leaf"), NotAfter: time.Now().AddDate(1, 0, 0)}
	seen := fingerprint(leaf)
	page := devicesWith(t, map[string]string{hex.EncodeToString(seen[:]): until("<b>phone</b>", leaf.NotAfter)})
	for _, c := range []struct {
		method, path string
		certificate  bool
		answers      bool
	}{
		{"GET", "/immich-exposure", true, true},
		{"GET", "/immich-exposure/?x", true, true},
		{"HEAD", "/immich-exposure", true, true},
		{"POST", "/immich-exposure", true, false},
		{"GET", "/immich-exposure/x", true, false},
		{"GET", "/", true, false},
		{"GET", "/immich-exposure", false, false},
	} {
		r := httptest.NewRequest(c.method, c.path, nil)
		r.TLS = nil
		if c.certificate {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
		}
		passed := false
		w := httptest.NewRecorder()
		err := page.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { passed = true; return nil }))
		if err != nil || passed == c.answers {
			t.Errorf("%+v: passed on %v, %v", c, passed, err)
		}
		if body := w.Body.String(); strings.Contains(body, "<b>") || c.answers && c.method == "GET" != strings.Contains(body, "&lt;b&gt;phone") {
			t.Errorf("%+v: %s", c, body)
		}
	}
}
