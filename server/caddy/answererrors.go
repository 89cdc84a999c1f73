package main

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(AnswerErrors{})
	httpcaddyfile.RegisterHandlerDirective("answer_errors", parseAnswerErrors)
	httpcaddyfile.RegisterDirectiveOrder("answer_errors", httpcaddyfile.Before, "abort")
}

// AnswerErrors answers with the error of a handler that comes after it, such as a limit:
//
//	answer_errors
//
// It is for routes of handle_errors: when one of those fails, Caddy answers with the original error instead.
type AnswerErrors struct{}

// CaddyModule returns the Caddy module information.
func (AnswerErrors) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.answer_errors", New: func() caddy.Module { return new(AnswerErrors) }}
}

func parseAnswerErrors(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next()
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	return AnswerErrors{}, nil
}

// ServeHTTP passes the request on.
func (AnswerErrors) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	err := next.ServeHTTP(w, r)
	var problem caddyhttp.HandlerError
	if !errors.As(err, &problem) || problem.StatusCode == 0 {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(problem.StatusCode)
	return json.NewEncoder(w).Encode(struct {
		Status  int    `json:"status"`
		Message string `json:"message"`
	}{problem.StatusCode, http.StatusText(problem.StatusCode)})
}

var _ caddyhttp.MiddlewareHandler = AnswerErrors{}
