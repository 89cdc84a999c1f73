package main

import (
	"net"
	"slices"
	"time"

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

// WithoutSecrets writes the journal as JSON, and of a request only who asked what of whom:
//
//	format without_secrets
//
// No request header is logged, so no cookie and no token is. Keys, slugs and passwords of links travel in the target, which is
// redacted. Text from a client is truncated, and the number of lines about each network is limited (logbounds.go).
//
// Caddy prepares the context of several lines for each request, and most of them are never written. So encoding it waits until
// a line is written.
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

// UnmarshalCaddyfile reads the format, which takes no arguments.
func (*WithoutSecrets) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return withoutArguments(d) }

// Provision chooses the form of a line: Caddy's own JSON, with a date that people can read.
func (w *WithoutSecrets) Provision(caddy.Context) error {
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.ISO8601TimeEncoder
	w.Encoder = zapcore.NewJSONEncoder(config)
	return nil
}

// Clone returns an encoder with the same context. Clones share the encoder that writes, because it only gets complete lines.
func (w *WithoutSecrets) Clone() zapcore.Encoder {
	return &WithoutSecrets{w.Encoder, slices.Clip(w.held)}
}

// EncodeEntry encodes a line, or nothing if there are too many about the network that sent the request.
func (w *WithoutSecrets) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	written, remote := make([]zapcore.Field, 0, len(w.held)+len(fields)), ""
	for _, part := range [][]zapcore.Field{w.held, fields} {
		for _, field := range part {
			switch value := field.Interface.(type) {
			case caddyhttp.LoggableHTTPHeader:
				continue
			case caddyhttp.LoggableHTTPRequest:
				remote = value.RemoteAddr
				field = zap.Object(field.Key, visit(value))
			}
			written = append(written, field)
		}
	}
	if remote == "" {
		return w.encode(entry, written)
	}
	entry.Message = cut(entry.Message)
	for place, field := range written {
		written[place] = bounded(field)
	}
	line, err := w.encode(entry, written)
	if err == nil && !bounds.maySay(remote, entry.Time) {
		line.Reset()
	}
	return line, err
}

// encode encodes a line. Zap's JSON leaves letters as they are that a reader's terminal obeys.
func (w *WithoutSecrets) encode(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	line, err := w.Encoder.EncodeEntry(entry, fields)
	if err != nil {
		return line, err
	}
	if shown := withoutUnseen(line.Bytes()); len(shown) != line.Len() {
		line.Reset()
		_, _ = line.Write(shown)
	}
	return line, nil
}

func (w *WithoutSecrets) hold(field zapcore.Field) { w.held = append(w.held, field) }

// The methods below hold the fields of a context unencoded.

// AddBinary holds a field.
func (w *WithoutSecrets) AddBinary(key string, value []byte) { w.hold(zap.Binary(key, value)) }

// AddByteString holds a field.
func (w *WithoutSecrets) AddByteString(key string, value []byte) { w.hold(zap.ByteString(key, value)) }

// AddBool holds a field.
func (w *WithoutSecrets) AddBool(key string, value bool) { w.hold(zap.Bool(key, value)) }

// AddComplex128 holds a field.
func (w *WithoutSecrets) AddComplex128(key string, value complex128) {
	w.hold(zap.Complex128(key, value))
}

// AddComplex64 holds a field.
func (w *WithoutSecrets) AddComplex64(key string, value complex64) { w.hold(zap.Complex64(key, value)) }

// AddDuration holds a field.
func (w *WithoutSecrets) AddDuration(key string, value time.Duration) {
	w.hold(zap.Duration(key, value))
}

// AddFloat64 holds a field.
func (w *WithoutSecrets) AddFloat64(key string, value float64) { w.hold(zap.Float64(key, value)) }

// AddFloat32 holds a field.
func (w *WithoutSecrets) AddFloat32(key string, value float32) { w.hold(zap.Float32(key, value)) }

// AddInt holds a field.
func (w *WithoutSecrets) AddInt(key string, value int) { w.hold(zap.Int(key, value)) }

// AddInt64 holds a field.
func (w *WithoutSecrets) AddInt64(key string, value int64) { w.hold(zap.Int64(key, value)) }

// AddInt32 holds a field.
func (w *WithoutSecrets) AddInt32(key string, value int32) { w.hold(zap.Int32(key, value)) }

// AddInt16 holds a field.
func (w *WithoutSecrets) AddInt16(key string, value int16) { w.hold(zap.Int16(key, value)) }

// AddInt8 holds a field.
func (w *WithoutSecrets) AddInt8(key string, value int8) { w.hold(zap.Int8(key, value)) }

// AddString holds a field.
func (w *WithoutSecrets) AddString(key string, value string) { w.hold(zap.String(key, value)) }

// AddTime holds a field.
func (w *WithoutSecrets) AddTime(key string, value time.Time) { w.hold(zap.Time(key, value)) }

// AddUint holds a field.
func (w *WithoutSecrets) AddUint(key string, value uint) { w.hold(zap.Uint(key, value)) }

// AddUint64 holds a field.
func (w *WithoutSecrets) AddUint64(key string, value uint64) { w.hold(zap.Uint64(key, value)) }

// AddUint32 holds a field.
func (w *WithoutSecrets) AddUint32(key string, value uint32) { w.hold(zap.Uint32(key, value)) }

// AddUint16 holds a field.
func (w *WithoutSecrets) AddUint16(key string, value uint16) { w.hold(zap.Uint16(key, value)) }

// AddUint8 holds a field.
func (w *WithoutSecrets) AddUint8(key string, value uint8) { w.hold(zap.Uint8(key, value)) }

// AddUintptr holds a field.
func (w *WithoutSecrets) AddUintptr(key string, value uintptr) { w.hold(zap.Uintptr(key, value)) }

// OpenNamespace holds a field.
func (w *WithoutSecrets) OpenNamespace(key string) { w.hold(zap.Namespace(key)) }

// AddArray holds a field.
func (w *WithoutSecrets) AddArray(key string, value zapcore.ArrayMarshaler) error {
	w.hold(zap.Array(key, value))
	return nil
}

// AddObject holds a field.
func (w *WithoutSecrets) AddObject(key string, value zapcore.ObjectMarshaler) error {
	w.hold(zap.Object(key, value))
	return nil
}

// AddReflected holds a field.
func (w *WithoutSecrets) AddReflected(key string, value any) error {
	w.hold(zap.Reflect(key, value))
	return nil
}

// accessLogger is the name Caddy would give the logger of requests; fail2ban's filters look for it.
const accessLogger = "http.log.access.edge"

// bounded truncates text that may come from a client.
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

// visit is how a log describes a request.
type visit caddyhttp.LoggableHTTPRequest

// MarshalLogObject writes it with the field names of Caddy's own log.
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
	return nil
}

var (
	_ caddy.Provisioner     = (*WithoutSecrets)(nil)
	_ caddyfile.Unmarshaler = (*WithoutSecrets)(nil)
	_ zapcore.Encoder       = (*WithoutSecrets)(nil)
)
