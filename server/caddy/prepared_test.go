package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// passing is a handler that records that a request has passed it.
func passing(name string, ends bool) caddyhttp.MiddlewareHandler {
	return middleware(func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
		w.Header().Add("Been", name)
		if ends {
			return nil
		}
		return next.ServeHTTP(w, r)
	})
}

type middleware func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error

func (m middleware) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return m(w, r, next)
}

type below string

func (b below) MatchWithError(r *http.Request) (bool, error) {
	if r.URL.Path == "/broken" {
		return false, errors.New("nobody knows")
	}
	return strings.HasPrefix(r.URL.Path, string(b)), nil
}

func on(path string, handlers ...caddyhttp.MiddlewareHandler) caddyhttp.Route {
	return caddyhttp.Route{MatcherSets: caddyhttp.MatcherSets{{below(path)}}, Handlers: handlers}
}

func always(handlers ...caddyhttp.MiddlewareHandler) caddyhttp.Route {
	return caddyhttp.Route{Handlers: handlers}
}

func TestPreparedRoutesLeadWhereCaddysDo(t *testing.T) {
	inner := &caddyhttp.Subroute{Routes: caddyhttp.RouteList{on("/a/b", passing("b", false)), on("/a/end", passing("end", true))}}
	routes := &caddyhttp.Subroute{Routes: caddyhttp.RouteList{
		always(passing("first", false)), on("/a", passing("a", false), inner, passing("after", false)), always(passing("last", false)),
	}}
	end := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return errNoAnswer })
	chain, err := chainOf(routes, end)
	if err != nil {
		t.Fatal(err)
	}
	for path, been := range map[string]string{
		"/": "first last", "/a": "first a after last", "/a/b": "first a b after last", "/a/end": "first a end",
	} {
		recorder := httptest.NewRecorder()
		err := chain.ServeHTTP(recorder, httptest.NewRequest("GET", path, nil))
		if seen := strings.Join(recorder.Header()["Been"], " "); seen != been || (err == nil) != (path == "/a/end") {
			t.Errorf("%s has been at %s, %v", path, seen, err)
		}
	}
	recorder := httptest.NewRecorder()
	if err := chain.ServeHTTP(recorder, httptest.NewRequest("GET", "/broken", nil)); err == nil || len(recorder.Header()["Been"]) != 1 {
		t.Errorf("a matcher that cannot say leads on: %v, %v", recorder.Header(), err)
	}
}

func TestPreparedTakesNoRoutesThatItWouldReadOtherwise(t *testing.T) {
	grouped, terminal := always(), always()
	grouped.Group, terminal.Terminal = "g", true
	for name, routes := range map[string]*caddyhttp.Subroute{
		"group": {Routes: caddyhttp.RouteList{grouped}}, "terminal": {Routes: caddyhttp.RouteList{terminal}},
		"errors": {Errors: &caddyhttp.HTTPErrorConfig{}}, "within": {Routes: caddyhttp.RouteList{always(&caddyhttp.Subroute{Routes: caddyhttp.RouteList{grouped}})}},
	} {
		if _, err := chainOf(routes, caddyhttp.HandlerFunc(nil)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
