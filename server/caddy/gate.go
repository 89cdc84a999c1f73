package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/requestbody"
	"github.com/dustin/go-humanize"
)

func init() {
	caddy.RegisterModule(new(Gate))
	httpcaddyfile.RegisterHandlerDirective("gate", parseGate)
	httpcaddyfile.RegisterDirectiveOrder("gate", httpcaddyfile.Before, "reverse_proxy")
}

// Gate lets through what strangers may ask, and refuses everything else:
//
//	gate {
//		surface     FILE
//		feature     NAME on|off
//		upload_size SIZE
//		reject_with forbidden|drop
//	}
//
// The file is surface.toml, relative to the Caddyfile, the table of what may be asked. Each of its features that can be
// switched must be named.
//
// A request goes on without the headers and cookies that the table does not list, and with a limit on its body.
type Gate struct {
	Surface    string          `json:"surface"`
	Features   map[string]bool `json:"features"`
	UploadSize int64           `json:"upload_size"`
	RejectWith string          `json:"reject_with"`

	surface *surface
	refusal Refuse
}

// CaddyModule returns the Caddy module information.
func (*Gate) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.gate", New: func() caddy.Module { return new(Gate) }}
}

func parseGate(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	gate := &Gate{Features: map[string]bool{}}
	h.Next()
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	for h.NextBlock(0) {
		if err := gate.parseLine(h.Val(), h.RemainingArgs(), filepath.Dir(h.File())); err != nil {
			return nil, h.WrapErr(err)
		}
	}
	return gate, nil
}

// parseLine reads a line of the block. `folder` is where the Caddyfile is.
func (g *Gate) parseLine(field string, values []string, folder string) (err error) {
	switch {
	case field == "surface" && len(values) == 1:
		g.Surface, err = filepath.Abs(filepath.Join(folder, values[0]))
	case field == "feature" && len(values) == 2:
		g.Features[values[0]], err = isOn(values[0], values[1])
	case field == "upload_size" && len(values) == 1:
		var size uint64
		size, err = humanize.ParseBytes(values[0])
		g.UploadSize = int64(size)
	case field == "reject_with" && len(values) == 1:
		g.RejectWith, err = values[0], checkRejectWith(values[0])
	default:
		err = fmt.Errorf("the gate has no line %q with %d values", field, len(values))
	}
	return err
}

func isOn(feature, value string) (bool, error) {
	if value != "on" && value != "off" {
		return false, fmt.Errorf("the feature %s is on or off, not %q", feature, value)
	}
	return value == "on", nil
}

// Provision reads the table; without a valid one there is no gate, and the edge does not start.
func (g *Gate) Provision(caddy.Context) (err error) {
	g.refusal = Refuse{RejectWith: g.RejectWith}
	if g.surface, err = readSurface(g.Surface, g.Features, g.UploadSize); err != nil {
		return fmt.Errorf("what strangers may ask, %s: %w", g.Surface, err)
	}
	return nil
}

// ServeHTTP lets a request through or refuses it.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	led := ledHere(r)
	if fromElsewhere(r) || led && isLedTooOften(r, time.Now()) {
		return g.refusal.refuse(w, r, verdictQuiet)
	}
	if led {
		caddyhttp.SetVar(r.Context(), ledVar, true)
	}
	path, raw, _ := strings.Cut(r.RequestURI, "?")
	row := g.surface.find(r.Method, path)
	if page := keyPage(path); row == nil && page != "" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return sendOn(w, r, page)
	}
	if row == nil {
		return g.refusal.refuse(w, r, g.surface.quiet.verdictOf(r))
	}
	asked, sound := readQuery(raw)
	switch {
	case sound && (asked.smuggles() || row.link && !asked.link), !sound && (row.api || hidesControls(raw)):
		return g.refusal.refuse(w, r, g.surface.quiet.verdictOf(r))
	case !sound:
		// No page needs a query, and trackers and mail programs add odd ones: the page opens without it.
		r.URL.RawQuery, r.URL.ForceQuery, r.RequestURI = "", false, path
	}
	r.Header = g.surface.headers.of(r.Header)
	r.Trailer = nil
	if !hasBody(r) {
		return next.ServeHTTP(w, r)
	}
	return requestbody.RequestBody{MaxSize: row.body}.ServeHTTP(w, r, next)
}

// sendOn redirects a visitor to one of our pages.
func sendOn(w http.ResponseWriter, r *http.Request, page string) error {
	giveVerdict(r, verdictQuiet)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Location", page)
	w.WriteHeader(http.StatusFound)
	return nil
}

var (
	_ caddy.Provisioner           = (*Gate)(nil)
	_ caddyhttp.MiddlewareHandler = (*Gate)(nil)
)
