package main

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/requestbody"
)

func init() {
	caddy.RegisterModule(new(FrameRights))
	httpcaddyfile.RegisterHandlerDirective("frame_rights", parseFrameRights)
	httpcaddyfile.RegisterDirectiveOrder("frame_rights", httpcaddyfile.Before, "reverse_proxy")
}

// FrameRights lets through what a frame may ask, which is reading, and refuses everything else:
//
//	frame_rights {
//		surface    FILE
//		look_again INTERVAL
//		requests   COUNT WINDOW
//		at_once    COUNT
//	}
//
// The file is surface.toml, relative to the Caddyfile; its table [frames] lists the requests. A request goes on with only the
// headers in that table, without cookies, with Immich's API key and without the frame's secret. It ends within the interval
// after the frame is revoked. Each frame has a budget of its own, so no stranger behind the same address can use it up.
//
// It comes after the matcher `frame`; a request that did not pass that matcher is refused.
type FrameRights struct {
	Surface   string         `json:"surface"`
	LookAgain caddy.Duration `json:"look_again"`
	Requests  Amount         `json:"requests"`
	AtOnce    int            `json:"at_once"`

	surface *surface
}

// framesOpen and spentOf.frames survive a configuration reload.
var framesOpen slots

// CaddyModule returns the Caddy module information.
func (*FrameRights) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.frame_rights", New: func() caddy.Module { return new(FrameRights) }}
}

func parseFrameRights(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	rights := new(FrameRights)
	h.Next()
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	for h.NextBlock(0) {
		if err := rights.parseLine(h.Val(), h.RemainingArgs(), filepath.Dir(h.File())); err != nil {
			return nil, h.WrapErr(err)
		}
	}
	return rights, nil
}

// parseLine reads a line of the block. `folder` is where the Caddyfile is.
func (f *FrameRights) parseLine(field string, values []string, folder string) (err error) {
	switch {
	case field == "surface" && len(values) == 1:
		f.Surface, err = filepath.Abs(filepath.Join(folder, values[0]))
	case field == "look_again" && len(values) == 1:
		var interval time.Duration
		interval, err = caddy.ParseDuration(values[0])
		f.LookAgain = caddy.Duration(interval)
	case field == "requests" && len(values) == 2:
		f.Requests, err = parseAmount(values)
	case field == "at_once" && len(values) == 1:
		f.AtOnce, err = strconv.Atoi(values[0])
	default:
		err = fmt.Errorf("frame_rights has no line %q with %d values", field, len(values))
	}
	return err
}

// Provision reads the table; without a valid one the edge does not start.
func (f *FrameRights) Provision(caddy.Context) (err error) {
	if f.surface, err = readFrameSurface(f.Surface); err != nil {
		return fmt.Errorf("what frames may ask, %s: %w", f.Surface, err)
	}
	return nil
}

// Validate rejects a budget that would let no frame in, and an interval that is not positive.
func (f *FrameRights) Validate() error {
	if err := f.Requests.validate(); err != nil {
		return fmt.Errorf("frame_rights: requests %w", err)
	}
	if f.AtOnce < 1 || f.LookAgain <= 0 {
		return errors.New("frame_rights: at_once is at least 1, and look_again a time like 2s")
	}
	return nil
}

// ServeHTTP lets a frame's request through or refuses it. A refusal is never an offence, because the frame belongs to the
// owner.
func (f *FrameRights) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	who := frameOf(r)
	if who == nil {
		return writeRefusal(w)
	}
	giveVerdict(r, verdictFrame)
	key := linkHash(who.file)
	if wait := spentOf.frames.take(key, 1, f.Requests.times(1), time.Now()); wait > 0 {
		return answerTooMany(w, wait)
	}
	row := f.ask(r)
	if row == nil {
		return writeRefusal(w)
	}
	if err := framesOpen.enter(r.Context(), key, f.AtOnce); err != nil {
		return answerTooMany(w, time.Second)
	}
	defer framesOpen.leave(key, f.AtOnce)
	withoutSecret(r.Header)
	r.Header = f.surface.headers.of(r.Header)
	r.Trailer = nil
	bounded := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return requestbody.RequestBody{MaxSize: row.body}.ServeHTTP(w, r, next)
	})
	return passOnWhile(who.isIn, time.Duration(f.LookAgain), w, r, bounded)
}

// ask returns the row that matches a request, or nil, and removes API keys from its query: credentials come in headers alone,
// and some programs send them twice.
func (f *FrameRights) ask(r *http.Request) *row {
	path, raw, _ := strings.Cut(r.RequestURI, "?")
	found := f.surface.find(r.Method, path)
	raw = withoutKeys(raw)
	asked, sound := readQuery(raw)
	if found == nil || !sound || asked.credentials || asked.keys+asked.slugs > 0 {
		return nil
	}
	r.URL.RawQuery, r.URL.ForceQuery, r.RequestURI = raw, false, path
	if raw != "" {
		r.RequestURI += "?" + raw
	}
	return found
}

func withoutKeys(raw string) string {
	if !strings.Contains(strings.ToLower(raw), "apikey") {
		return raw
	}
	var kept []string
	for pair := range strings.SplitSeq(raw, "&") {
		if name, _, _ := strings.Cut(pair, "="); !strings.EqualFold(name, "apikey") {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

var (
	_ caddy.Provisioner           = (*FrameRights)(nil)
	_ caddy.Validator             = (*FrameRights)(nil)
	_ caddyhttp.MiddlewareHandler = (*FrameRights)(nil)
)
