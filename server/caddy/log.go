package main

import (
	"net"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

func init() {
	caddy.RegisterModule(&WithoutSecrets{})
}

// WithoutSecrets writes a log as JSON, and of a request only who asked what of whom:
//
//	format without_secrets
//
// No header of a request or an answer gets in, so no cookie and no token. Keys, slugs and passwords of links travel
// in the target, which is written without them.
//
// A request is put into words when its line is written, not before: Caddy hands each request to each log several
// times, and most of them never write it.
type WithoutSecrets struct {
	zapcore.Encoder `json:"-"`
	held            []zapcore.Field
}

// CaddyModule returns the Caddy module information.
func (*WithoutSecrets) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID: "caddy.logging.encoders.without_secrets", New: func() caddy.Module { return new(WithoutSecrets) },
	}
}

// UnmarshalCaddyfile reads the format, which takes nothing.
func (w *WithoutSecrets) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// Provision chooses what the rest of a line looks like: as Caddy's own JSON, with a date that people can read.
func (w *WithoutSecrets) Provision(caddy.Context) error {
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.ISO8601TimeEncoder
	w.Encoder = zapcore.NewJSONEncoder(config)
	return nil
}

// Clone returns an encoder with the same context.
func (w *WithoutSecrets) Clone() zapcore.Encoder {
	return &WithoutSecrets{Encoder: w.Encoder.Clone(), held: slices.Clip(w.held)}
}

// AddObject keeps an object of the context until a line is written.
func (w *WithoutSecrets) AddObject(key string, object zapcore.ObjectMarshaler) error {
	w.held = append(w.held, zap.Object(key, object))
	return nil
}

// EncodeEntry writes a line.
func (w *WithoutSecrets) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	written := make([]zapcore.Field, 0, len(w.held)+len(fields))
	for _, part := range [][]zapcore.Field{w.held, fields} {
		for _, field := range part {
			switch value := field.Interface.(type) {
			case caddyhttp.LoggableHTTPHeader:
			case caddyhttp.LoggableHTTPRequest:
				written = append(written, zap.Object(field.Key, visit(value)))
			default:
				written = append(written, field)
			}
		}
	}
	return w.Encoder.EncodeEntry(entry, written)
}

// visit is what a log says of a request.
type visit caddyhttp.LoggableHTTPRequest

// MarshalLogObject writes it in the order and with the names that Caddy's own log has.
func (v visit) MarshalLogObject(line zapcore.ObjectEncoder) error {
	address, port, err := net.SplitHostPort(v.RemoteAddr)
	if err != nil {
		address = v.RemoteAddr
	}
	line.AddString("remote_ip", address)
	line.AddString("remote_port", port)
	if client, ok := caddyhttp.GetVar(v.Context(), caddyhttp.ClientIPVarKey).(string); ok {
		line.AddString("client_ip", client)
	}
	line.AddString("proto", v.Proto)
	line.AddString("method", v.Method)
	line.AddString("host", v.Host)
	line.AddString("uri", withoutSecrets(v.RequestURI))
	if v.TLS == nil {
		return nil
	}
	return line.AddObject("tls", caddyhttp.LoggableTLSConnState(*v.TLS))
}

const redacted = "REDACTED"

// withoutSecrets returns a request's target without what opens a link: the name after /share/ or /s/, and every value
// of the query. It reads the target more broadly than Immich does: in whatever case, with whatever slashes, a link
// within the query, and a query that has lost its mark.
func withoutSecrets(target string) string {
	if start := strings.IndexAny(target, "?&"); start >= 0 {
		target = target[:start] + withoutValues(target[start:])
	}
	return withoutNames(target)
}

func withoutNames(target string) string {
	segments := strings.Split(target, "/")
	link := false
	for number, segment := range segments {
		if segment == "" {
			continue
		}
		if end := strings.IndexByte(segment+"?", '?'); link && end > 0 {
			segments[number] = redacted + segment[end:]
		}
		link = number > 0 && (strings.EqualFold(segment, "share") || strings.EqualFold(segment, "s"))
	}
	return strings.Join(segments, "/")
}

func withoutValues(query string) string {
	pairs := strings.Split(query, "&")
	for number, pair := range pairs {
		if name, value, _ := strings.Cut(pair, "="); value != "" {
			pairs[number] = name + "=" + redacted
		}
	}
	return strings.Join(pairs, "&")
}

var (
	_ caddy.Provisioner     = (*WithoutSecrets)(nil)
	_ caddyfile.Unmarshaler = (*WithoutSecrets)(nil)
	_ zapcore.Encoder       = (*WithoutSecrets)(nil)
)
