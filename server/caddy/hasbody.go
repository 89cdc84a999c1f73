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

// HasBody matches a request that may have a body, even one of unknown length:
//
//	has_body
//
// Limits on a body are set up per request, and most requests have no body.
type HasBody struct{}

// CaddyModule returns the Caddy module information.
func (HasBody) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.matchers.has_body", New: func() caddy.Module { return new(HasBody) }}
}

// UnmarshalCaddyfile reads the matcher, which takes no arguments.
func (*HasBody) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return withoutArguments(d) }

// MatchWithError reports whether there may be a body.
func (HasBody) MatchWithError(r *http.Request) (bool, error) { return hasBody(r), nil }

// hasBody reports whether there may be a body. In net/http, zero means a request that cannot have one (RFC 9112, 6.3; over
// HTTP/2, one that ended with its headers), and -1 an unknown length.
func hasBody(r *http.Request) bool { return r.ContentLength != 0 }

var (
	_ caddyfile.Unmarshaler             = (*HasBody)(nil)
	_ caddyhttp.RequestMatcherWithError = (*HasBody)(nil)
)
