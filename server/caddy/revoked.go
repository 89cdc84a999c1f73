package main

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(WhileEnrolled{})
	httpcaddyfile.RegisterHandlerDirective("while_enrolled", parseWhileEnrolled)
	httpcaddyfile.RegisterDirectiveOrder("while_enrolled", httpcaddyfile.Before, "reverse_proxy")
}

// WhileEnrolled passes a request on for as long as the client is an enrolled device, and checks again at each interval:
//
//	while_enrolled INTERVAL FOLDER AUTHORITY
//
// (A folder as the first argument would be taken for a path matcher.)
//
// When a device is revoked, its websockets and long downloads end together with their connection, and nobody else's do. This
// handler also gives the verdict.
type WhileEnrolled struct {
	Enrolled
	Interval caddy.Duration `json:"interval"`
}

var errRevoked = errors.New("the device was revoked")

// CaddyModule returns the Caddy module information.
func (WhileEnrolled) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.while_enrolled", New: func() caddy.Module { return new(WhileEnrolled) }}
}

func parseWhileEnrolled(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler, interval := new(WhileEnrolled), ""
	h.Next()
	if !h.AllArgs(&interval, &handler.Folder, &handler.Authority) {
		return nil, h.ArgErr()
	}
	parsed, err := caddy.ParseDuration(interval)
	if err != nil || parsed <= 0 {
		return nil, h.Errf("the interval must be a duration like 2s, not %q", interval)
	}
	handler.Interval = caddy.Duration(parsed)
	return handler, nil
}

// ServeHTTP passes the request on.
func (w *WhileEnrolled) ServeHTTP(answer http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	giveVerdict(r, verdictDevice)
	withoutForwarded(r.Header)
	connection := connectionOf(r)
	if connection == nil {
		return passOnWhile(w.MatchWithError, time.Duration(w.Interval), answer, r, next)
	}
	state := r.TLS // not the request, which the watch would keep alive
	connection.endUnless(func() (bool, error) { return w.accepts(state, connection) }, time.Duration(w.Interval))
	return next.ServeHTTP(answer, r)
}

// passOnWhile passes a request on for as long as its client is allowed in, and checks again at each interval. Otherwise it
// cancels the request's context, and with it whatever the reverse proxy is doing, even a tunnel.
func passOnWhile(
	isIn func(*http.Request) (bool, error), interval time.Duration,
	answer http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer watch(cancel, isIn, interval, r)()
	err := next.ServeHTTP(answer, r.WithContext(ctx))
	if err != nil && errors.Is(context.Cause(ctx), errRevoked) {
		return caddyhttp.Error(http.StatusForbidden, errRevoked)
	}
	return err
}

// watch cancels the request when its client is no longer allowed in, until stop is called.
func watch(
	cancel context.CancelCauseFunc, isIn func(*http.Request) (bool, error), interval time.Duration, r *http.Request,
) (stop func()) {
	var mutex sync.Mutex
	var next *time.Timer
	over := false
	look := func() {
		if enrolled, err := isIn(r); err != nil || !enrolled {
			cancel(errRevoked)
			return
		}
		mutex.Lock()
		defer mutex.Unlock()
		if !over {
			next.Reset(interval)
		}
	}
	mutex.Lock()
	defer mutex.Unlock()
	next = time.AfterFunc(interval, look)
	return func() {
		mutex.Lock()
		defer mutex.Unlock()
		over = true
		next.Stop()
	}
}

var _ caddyhttp.MiddlewareHandler = (*WhileEnrolled)(nil)
