package main

import (
	"cmp"
	"crypto/tls"
	"encoding/hex"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
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
//	format without_secrets [BITS [on|off FILE]]
//
// Of the headers of a request only User-Agent gets in, for the owner, so no cookie and no token. Whom a ban would concern
// is in it as well: an IPv4 address, or so many bits of an IPv6 one [64]. Keys, slugs and passwords of links travel
// in the target, which is written without them. What a client says is cut (logbounds.go).
//
// With "on", the lines of what visitors did with a link name it by a pseudonym that the key in FILE makes (deeds.go), and
// those of devices begin the fingerprint of their certificate. Where the file cannot be read they do not: the journal says why.
//
// A request is put into words when its line is written, not before: Caddy hands each request to each log several
// times, and most of them never write it.
type WithoutSecrets struct {
	zapcore.Encoder `json:"-"`
	Bits            int    `json:"bits,omitempty"`
	KeyFile         string `json:"key_file,omitempty"`
	held            []zapcore.Field
	names           *pseudonyms
}

// CaddyModule returns the Caddy module information.
func (*WithoutSecrets) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID: "caddy.logging.encoders.without_secrets", New: func() caddy.Module { return new(WithoutSecrets) },
	}
}

// UnmarshalCaddyfile reads the format, the number of bits, and whether links are named by a key.
func (w *WithoutSecrets) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	d.Next()
	bits := "64"
	if d.NextArg() {
		bits = d.Val()
	}
	if w.Bits, err = strconv.Atoi(bits); err != nil || w.Bits < wideBits || w.Bits > 128 {
		return d.Errf("without_secrets takes a number of bits from %d to 128, not %q", wideBits, bits)
	}
	switch rest := d.RemainingArgs(); {
	case len(rest) == 0, len(rest) == 2 && rest[0] == "off":
	case len(rest) == 2 && rest[0] == "on":
		w.KeyFile = rest[1]
	default:
		return d.Errf("without_secrets takes on or off and the file of a key, not %q", rest)
	}
	return nil
}

// Provision chooses what the rest of a line looks like: as Caddy's own JSON, with a date that people can read.
func (w *WithoutSecrets) Provision(caddy.Context) error {
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.ISO8601TimeEncoder
	w.Encoder = zapcore.NewJSONEncoder(config)
	if w.KeyFile == "" {
		return nil
	}
	names, err := readPseudonyms(w.KeyFile)
	if err != nil {
		caddy.Log().Named("who").Warn("nobody is told who opened what", zap.Error(err))
		return nil
	}
	w.names = names
	return nil
}

// Clone returns an encoder with the same context.
func (w *WithoutSecrets) Clone() zapcore.Encoder {
	return &WithoutSecrets{w.Encoder.Clone(), w.Bits, w.KeyFile, slices.Clip(w.held), w.names}
}

// AddObject keeps an object of the context until a line is written.
func (w *WithoutSecrets) AddObject(key string, object zapcore.ObjectMarshaler) error {
	w.held = append(w.held, zap.Object(key, object))
	return nil
}

// EncodeEntry writes a line, or nothing when whoever sent the request has filled the room that the log has for them.
func (w *WithoutSecrets) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	written := make([]zapcore.Field, 0, len(w.held)+len(fields)+2)
	seen, access := asked{}, strings.HasPrefix(entry.LoggerName, accessLogger)
	for _, part := range [][]zapcore.Field{w.held, fields} {
		for _, field := range part {
			switch value := field.Interface.(type) {
			case caddyhttp.LoggableHTTPHeader:
				continue
			case caddyhttp.LoggableHTTPRequest:
				seen.request = value.Request
				field = zap.Object(field.Key, visit(value))
			}
			if field.Key == "verdict" && access && seen.request != nil && seen.verdict == "" {
				written = w.deed(w.who(written, seen.request), seen, field.String)
			}
			seen.note(field)
			written = append(written, field)
		}
	}
	if seen.request == nil {
		return w.Encoder.EncodeEntry(entry, written)
	}
	if access && seen.verdict == "" {
		written = w.who(written, seen.request)
	}
	entry.Message = cut(entry.Message)
	for place, field := range written {
		written[place] = bounded(field)
	}
	line, err := w.Encoder.EncodeEntry(entry, written)
	if err == nil && !seen.isWritten(entry, line.Len()) {
		line.Reset()
	}
	return line, err
}

// who adds what kind of client came, and whom a ban would concern.
func (w *WithoutSecrets) who(fields []zapcore.Field, r *http.Request) []zapcore.Field {
	agent, network := r.Header.Get("User-Agent"), ""
	if address, err := addressOf(r.RemoteAddr); err == nil {
		bits := cmp.Or(w.Bits, networkBits)
		if address.Is4() {
			bits = 32
		}
		if prefix, err := address.Prefix(bits); err == nil {
			network = prefix.String()
		}
	}
	return append(fields, zap.String("user_agent", agent), zap.String("network", network))
}

// deed adds what a visitor did with a link, or which device came.
func (w *WithoutSecrets) deed(fields []zapcore.Field, seen asked, verdict string) []zapcore.Field {
	switch r := seen.request; {
	case w.names == nil:
	case verdict == verdictAnon:
		if deed := w.names.deed(r, seen.status); deed != "" {
			return append(fields, zap.String("deed", deed))
		}
	case verdict == verdictDevice && r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		print := fingerprint(r.TLS.PeerCertificates[0])
		return append(fields, zap.String("device", hex.EncodeToString(print[:8])))
	case verdict == verdictFrame:
		if f, ok := caddyhttp.GetVar(r.Context(), frameVar).(*frame); ok {
			return append(fields, zap.String("device", filepath.Base(f.file)[:16]))
		}
	}
	return fields
}

// asked is what decides whether a line about a request is written.
type asked struct {
	request *http.Request
	verdict string
	status  int
}

// note takes what it needs; a field that comes twice counts as it comes last.
func (a *asked) note(field zapcore.Field) {
	switch {
	case field.Key == "verdict" && field.Type == zapcore.StringType:
		a.verdict = field.String
	case field.Key == "status" && field.Type == zapcore.Int64Type:
		a.status = int(field.Integer)
	}
}

func (a *asked) isWritten(entry zapcore.Entry, size int) bool {
	if !strings.HasPrefix(entry.LoggerName, accessLogger) {
		return bounds.maySay(a.request.RemoteAddr, entry.Time)
	}
	return bounds.mayWrite(a.request.RemoteAddr, a.verdict, a.status, size, entry.Time)
}

// accessLogger is how Caddy names its loggers of requests.
const accessLogger = "http.log.access"

// bounded cuts what a client may have said.
func bounded(field zapcore.Field) zapcore.Field {
	switch field.Type {
	case zapcore.StringType:
		field.String = cut(field.String)
	case zapcore.ErrorType:
		if err, ok := field.Interface.(error); ok {
			return zap.String(field.Key, cut(err.Error()))
		}
	}
	return field
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
	line.AddString("method", cut(v.Method))
	line.AddString("host", cut(v.Host))
	line.AddString("uri", cut(withoutSecrets(v.RequestURI)))
	if v.TLS == nil {
		return nil
	}
	return line.AddObject("tls", handshake(*v.TLS))
}

// handshake is what a log says of TLS, as Caddy names it; a client may show a certificate of its own making.
type handshake tls.ConnectionState

// MarshalLogObject writes versions as numbers (RFC 8446) and names as far as they have room.
func (h handshake) MarshalLogObject(line zapcore.ObjectEncoder) error {
	line.AddBool("resumed", h.DidResume)
	line.AddUint16("version", h.Version)
	line.AddUint16("cipher_suite", h.CipherSuite)
	line.AddString("proto", h.NegotiatedProtocol)
	line.AddString("server_name", cut(h.ServerName))
	if len(h.PeerCertificates) > 0 {
		certificate := h.PeerCertificates[0]
		line.AddString("client_common_name", cut(certificate.Subject.CommonName))
		// At most 20 bytes (RFC 5280); to write a longer number takes long.
		if certificate.SerialNumber.BitLen() <= 160 {
			line.AddString("client_serial", certificate.SerialNumber.String())
		}
	}
	return nil
}

const redacted = "REDACTED"

// mostRead is how much of a target is looked at for a line that has room for less.
const mostRead = 4 * mostWritten

// withoutSecrets returns a request's target without what opens a link: the name after /share/ or /s/, and every value
// of the query. It reads the target more broadly than Immich does: in whatever case, with whatever slashes, a link
// within the query, and a query that has lost its mark.
func withoutSecrets(target string) string {
	target = target[:min(len(target), mostRead)]
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
