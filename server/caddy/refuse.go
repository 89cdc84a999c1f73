package main

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Refuse{})
	httpcaddyfile.RegisterHandlerDirective("refuse", parseRefuse)
	httpcaddyfile.RegisterDirectiveOrder("refuse", httpcaddyfile.Before, "abort")
}

// Refuse gives the same answer for every refusal, so that the answer reveals nothing, or drops the connection, and sets the
// verdict in the log:
//
//	refuse [MATCHER] REJECT_WITH VERDICT
//
// REJECT_WITH is `forbidden` or `drop`, VERDICT `quiet` or `scan`.
type Refuse struct {
	RejectWith string `json:"reject_with"`
	Verdict    string `json:"verdict"`
}

// CaddyModule returns the Caddy module information.
func (Refuse) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.refuse", New: func() caddy.Module { return new(Refuse) }}
}

func parseRefuse(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := Refuse{}
	h.Next()
	if !h.AllArgs(&handler.RejectWith, &handler.Verdict) {
		return nil, h.ArgErr()
	}
	if handler.Verdict != verdictQuiet && handler.Verdict != verdictScan {
		return nil, h.Errf("%q is not a verdict", handler.Verdict)
	}
	return handler, checkRejectWith(handler.RejectWith)
}

func checkRejectWith(way string) error {
	if way != "forbidden" && way != "drop" {
		return fmt.Errorf("requests are rejected with forbidden or drop, not with %q", way)
	}
	return nil
}

// ServeHTTP refuses the request.
func (f Refuse) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return f.refuse(w, r, f.Verdict)
}

func (f Refuse) refuse(w http.ResponseWriter, r *http.Request, verdict string) error {
	giveVerdict(r, verdict)
	if f.RejectWith == "drop" {
		panic(http.ErrAbortHandler)
	}
	return writeRefusal(w)
}

// writeRefusal writes the answer of every refusal.
func writeRefusal(w http.ResponseWriter) error {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(refusal)))
	w.WriteHeader(http.StatusForbidden)
	_, err := w.Write([]byte(refusal))
	return err
}

var _ caddyhttp.MiddlewareHandler = Refuse{}
