package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// loggedLine is the part of an access log line that tests look at.
type loggedLine struct {
	Level, Logger, Msg, Network, Verdict string
	Agent                                string `json:"user_agent"`
	Read                                 int    `json:"bytes_read"`
	Size, Status                         int
	Duration                             float64
	Request                              struct {
		Method, Host, URI, Proto string
		IP                       string `json:"remote_ip"`
		Port                     string `json:"remote_port"`
		Client                   string `json:"client_ip"`
	}
}

// linesOf returns the lines of a request that a handler answers or, if that fails, the error routes, as in Caddy.
func linesOf(t *testing.T, r *http.Request, handler caddyhttp.HandlerFunc) []loggedLine {
	t.Helper()
	written := writtenOf(t, func(log *accessLog) {
		answers := &Answers{log: *log}
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.7")
		defer func() { _ = recover() }()
		if err := answers.ServeHTTP(httptest.NewRecorder(), r, handler); err != nil {
			failed := r.WithContext(context.WithValue(r.Context(), caddyhttp.ErrorCtxKey, err))
			_ = answers.ServeHTTP(httptest.NewRecorder(), failed,
				caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
					w.WriteHeader(http.StatusBadGateway)
					_, err := io.WriteString(w, "later")
					return err
				}))
		}
	})
	lines := make([]loggedLine, len(written))
	for place, text := range written {
		if err := json.Unmarshal([]byte(text), &lines[place]); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return lines
}

func newAsked(method, target, body string) *http.Request {
	r := httptest.NewRequestWithContext(contextWithVars(), method, target, strings.NewReader(body))
	r.RemoteAddr, r.TLS = "192.0.2.7:4321", nil
	r.Header.Set("User-Agent", "Visitor/1.0")
	return r
}

func TestEachAnswerHasALine(t *testing.T) {
	for name, row := range map[string]struct {
		handler      caddyhttp.HandlerFunc
		lines        int
		status, size int
		level        string
	}{
		"written": {func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.WriteString(w, "hello")
			return err
		}, 1, 200, 5, "info"},
		"empty": {func(http.ResponseWriter, *http.Request) error { return nil }, 1, 0, 0, "info"},
		"early hints": {func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNotFound)
			return nil
		}, 1, 404, 0, "info"},
		"failed": {func(http.ResponseWriter, *http.Request) error { return errors.New("broken") }, 1, 502, 5, "error"},
		"cut":    {func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) }, 1, 0, 0, "info"},
		"skipped": {func(w http.ResponseWriter, r *http.Request) error {
			caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
			panic(http.ErrAbortHandler)
		}, 0, 0, 0, ""},
	} {
		bounds = lineBounds{}
		lines := linesOf(t, newAsked("GET", "/share/secret?key=secret", ""), func(w http.ResponseWriter, r *http.Request) error {
			giveVerdict(r, verdictAnon)
			r.RequestURI, r.Header = "/other", http.Header{} // as the gate does
			return row.handler(w, r)
		})
		if len(lines) != row.lines {
			t.Fatalf("%s: %d lines", name, len(lines))
		}
		for _, line := range lines {
			if line.Status != row.status || line.Size != row.size || line.Level != row.level || line.Verdict != verdictAnon ||
				line.Logger != accessLogger || line.Msg != "handled request" || line.Agent != "Visitor/1.0" || line.Network != "192.0.2.7/32" {
				t.Errorf("%s: %+v", name, line)
			}
			asked := line.Request
			if asked.URI != "/share/REDACTED?key=REDACTED" || asked.Method != "GET" || asked.IP != "192.0.2.7" || asked.Port != "4321" ||
				asked.Client != "192.0.2.7" || asked.Proto != "HTTP/1.1" || asked.Host != "example.com" {
				t.Errorf("%s: %+v", name, asked)
			}
		}
	}
	bounds = lineBounds{}
}

func TestALineCountsWhatWasRead(t *testing.T) {
	lines := linesOf(t, newAsked("POST", "/api/assets", "12345678"), func(w http.ResponseWriter, r *http.Request) error {
		time.Sleep(10 * time.Millisecond)
		_, err := io.ReadAll(r.Body)
		return err
	})
	if len(lines) != 1 || lines[0].Read != 8 || lines[0].Duration < .01 || lines[0].Duration > 10 {
		t.Errorf("%+v", lines)
	}
}

func TestALineOfAConnectionIsAnothersAsSoonAsTheAddressIs(t *testing.T) {
	log, connection := &accessLog{bits: networkBits}, &countedConnection{done: make(chan struct{})}
	r := &http.Request{URL: new(url.URL)}
	r = r.WithContext(contextOver(connection))
	for _, remote := range []string{"192.0.2.1:1", "192.0.2.1:1", "[2001:db8::1]:2"} {
		r.RemoteAddr = remote
		if client := log.clientOf(r); !strings.Contains(string(client.network), banned(remote, networkBits)) {
			t.Errorf("%s: %s", remote, client.network)
		}
	}
	log = &accessLog{bits: 56}
	if client := log.clientOf(r); !strings.Contains(string(client.network), "2001:db8::/56") {
		t.Errorf("after a reload: %s", client.network)
	}
}

func TestEveryAnswerHasTheHeadersOfAll(t *testing.T) {
	recorder := httptest.NewRecorder()
	recorder.Header().Set("Server", "Caddy")
	recorder.Header().Set("Referrer-Policy", "unsafe-url")
	made := newAnswered(recorder, newAsked("GET", "/", ""))
	made.Header().Set("Content-Security-Policy", "default-src 'self'")
	made.WriteHeader(http.StatusOK)
	header := recorder.Header()
	if header.Get("Server") != "" || header.Get("Referrer-Policy") != "no-referrer" || strings.Join(header["Content-Security-Policy"], "; ") != "default-src 'self'; "+noFrames {
		t.Errorf("%v", header)
	}
}
