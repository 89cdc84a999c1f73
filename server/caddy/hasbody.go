package main

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(HasBody{})
}

// HasBody matches a request that may send a body, be its length unknown:
//
//	has_body
//
// What bounds a body is put around it for each request, and most have none.
type HasBody struct{}

// CaddyModule returns the Caddy module information.
func (HasBody) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.matchers.has_body", New: func() caddy.Module { return new(HasBody) }}
}

// UnmarshalCaddyfile reads the matcher, which takes nothing.
func (*HasBody) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return withoutArguments(d) }

// MatchWithError tells whether there may be a body.
func (HasBody) MatchWithError(r *http.Request) (bool, error) { return hasBody(r), nil }

// hasBody tells whether there may be a body: net/http says zero only of a request that cannot have one (RFC 9112, 6.3; over
// HTTP/2, one that ended with its headers), and -1 where it does not know.
func hasBody(r *http.Request) bool { return r.ContentLength != 0 }

var (
	_ caddyfile.Unmarshaler             = (*HasBody)(nil)
	_ caddyhttp.RequestMatcherWithError = (*HasBody)(nil)
)
