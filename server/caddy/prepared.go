package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(Prepared))
	httpcaddyfile.RegisterHandlerDirective("prepared", parsePrepared)
	httpcaddyfile.RegisterDirectiveOrder("prepared", httpcaddyfile.Before, "route")
}

// Prepared passes a request through its routes as Caddy does, but builds their chain once, when the configuration is loaded.
// Caddy builds it for each request, route by route, whether the request gets there or not:
//
//	prepared {
//		route {
//			...
//		}
//	}
//
// It is always last: a request that reaches the end of its routes is an error. It does not support what Caddy's routes decide
// per request (groups of `handle`, error routes of their own).
type Prepared struct {
	caddyhttp.Subroute

	chain caddyhttp.Handler
}

var errNoAnswer = errors.New("the request has met no handler that answers it")

// CaddyModule returns the Caddy module information.
func (*Prepared) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.prepared", New: func() caddy.Module { return new(Prepared) }}
}

func parsePrepared(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	parsed, err := httpcaddyfile.ParseSegmentAsSubroute(h)
	if err != nil {
		return nil, err
	}
	routes, ok := parsed.(*caddyhttp.Subroute)
	if !ok {
		return nil, fmt.Errorf("prepared holds routes, not %T", parsed)
	}
	return &Prepared{Subroute: *routes}, nil
}

// Provision provisions the routes and builds their chain.
func (p *Prepared) Provision(ctx caddy.Context) (err error) {
	if err = p.Subroute.Provision(ctx); err != nil {
		return err
	}
	end := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		return caddyhttp.Error(http.StatusInternalServerError, errNoAnswer)
	})
	p.chain, err = chainOf(&p.Subroute, end)
	return err
}

// ServeHTTP passes the request through the routes.
func (p *Prepared) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return p.chain.ServeHTTP(w, r)
}

// chainOf returns the routes as one handler, followed by `next`.
func chainOf(routes *caddyhttp.Subroute, next caddyhttp.Handler) (caddyhttp.Handler, error) {
	if routes.Errors != nil {
		return nil, errors.New("prepared takes no routes for errors")
	}
	for _, route := range slices.Backward(routes.Routes) {
		if route.Group != "" || route.Terminal {
			return nil, errors.New("prepared takes one handle in each block, and no terminal routes; use route instead")
		}
		inner := next
		for _, handler := range slices.Backward(route.Handlers) {
			nested, ok := handler.(*caddyhttp.Subroute)
			if !ok {
				inner = stage{handler, inner}
				continue
			}
			var err error
			if inner, err = chainOf(nested, inner); err != nil {
				return nil, err
			}
		}
		if len(route.MatcherSets) > 0 {
			inner = fork{route.MatcherSets, inner, next}
		}
		next = inner
	}
	return next, nil
}

// stage is one handler and what follows it.
type stage struct {
	handler caddyhttp.MiddlewareHandler
	next    caddyhttp.Handler
}

// ServeHTTP runs the handler.
func (s stage) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	return s.handler.ServeHTTP(w, r, s.next)
}

// fork leads requests that match into a route, and others past it.
type fork struct {
	matchers    caddyhttp.MatcherSets
	route, past caddyhttp.Handler
}

// ServeHTTP asks the matchers; a matcher that fails is an error.
func (f fork) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	matches, err := f.matchers.AnyMatchWithError(r)
	switch {
	case err != nil:
		return err
	case matches:
		return f.route.ServeHTTP(w, r)
	}
	return f.past.ServeHTTP(w, r)
}

var (
	_ caddy.Provisioner           = (*Prepared)(nil)
	_ caddyhttp.MiddlewareHandler = (*Prepared)(nil)
)
