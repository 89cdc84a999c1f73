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

// HangUp ends the connection of a request, and writes no line about it:
//
//	hang_up [MATCHER]
//
// Caddy's `abort` ends the stream alone when the connection speaks HTTP/2, and the client asks on over it.
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

// ServeHTTP answers nothing. Requests that came over the same connection end with it.
func (HangUp) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	if connection := connectionOf(r); connection != nil {
		connection.cut()
	}
	panic(http.ErrAbortHandler)
}

var _ caddyhttp.MiddlewareHandler = HangUp{}
