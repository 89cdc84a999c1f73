package main

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(HangUp{})
	httpcaddyfile.RegisterHandlerDirective("hang_up", parseHangUp)
	httpcaddyfile.RegisterDirectiveOrder("hang_up", httpcaddyfile.Before, "abort")
}

// HangUp ends the connection of a request, and writes no log line about it:
//
//	hang_up [MATCHER]
//
// With HTTP/2, Caddy's `abort` only ends the stream, and the client continues on the same connection.
type HangUp struct{}

// CaddyModule returns the Caddy module information.
func (HangUp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.hang_up", New: func() caddy.Module { return new(HangUp) }}
}

func parseHangUp(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next()
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	return HangUp{}, nil
}

// ServeHTTP sends no answer. Other requests on the same connection end with it.
func (HangUp) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	if connection := connectionOf(r); connection != nil {
		connection.cut()
	}
	panic(http.ErrAbortHandler)
}

var _ caddyhttp.MiddlewareHandler = HangUp{}
