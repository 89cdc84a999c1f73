package main

import (
	"cmp"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// accessLog writes one JSON line per request, with the field names of Caddy's own log. A line records who asked what of whom,
// and nothing else. User-Agent is the only request header in it, for the owner's sake, so no cookie and no token gets in. Keys,
// slugs and passwords of links travel in the target, which withoutSecrets redacts. Text from a client is truncated, and a
// client that has used up its room in the log gets no more lines (logbounds.go).
//
// A line ends with the verdict. The parts that are the same for a whole connection are built once per connection.
type accessLog struct {
	bits  int // of an IPv6 address, that a ban covers
	names *pseudonyms
	to    *verdictFiles
}

const (
	// verdictVar is the request variable that holds the verdict.
	verdictVar = "immich_exposure_verdict"

	// lineTime is the journal's time format, which people can read.
	lineTime = "2006-01-02T15:04:05.000Z0700"

	// usualLine is larger than most lines, in bytes.
	usualLine = 1 << 10
)

var lineBuffers = sync.Pool{New: func() any { return new(make([]byte, 0, usualLine)) }}

// write writes the line of a finished answer.
func (l *accessLog) write(answer *answered, r *http.Request) { l.writeAt(answer, r, time.Now()) }

func (l *accessLog) writeAt(answer *answered, r *http.Request, now time.Time) {
	if skip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool); ok && skip {
		return
	}
	verdict, _ := caddyhttp.GetVar(r.Context(), verdictVar).(string)
	client := l.clientOf(r)
	held := lineBuffers.Get().(*[]byte)
	defer lineBuffers.Put(held)
	*held = l.line((*held)[:0], answer, client, r, verdict, now)
	if !bounds.mayWrite(client.widest, verdict, answer.status, len(*held), now) {
		return
	}
	if _, err := l.to.Write(*held); err != nil {
		caddy.Log().Named("answers").Error("the access log cannot be written", zap.Error(err))
	}
}

// line appends the line to a buffer.
func (l *accessLog) line(to []byte, answer *answered, client *loggedClient, r *http.Request, verdict string, now time.Time) []byte {
	level := "info"
	if answer.status >= http.StatusInternalServerError {
		level = "error"
	}
	to = append(append(to, `{"level":"`...), level...)
	to = now.AppendFormat(append(to, `","ts":"`...), lineTime)
	to = append(append(to, `","logger":"`+accessLogger+`","msg":"handled request","request":{`...), client.address...)
	to = appendText(append(to, `"proto":`...), r.Proto)
	to = appendText(append(to, `,"method":`...), answer.method)
	to = appendText(append(to, `,"host":`...), answer.host)
	to = appendText(append(to, `,"uri":`...), withoutSecrets(answer.target))
	to = append(to, client.handshake...)
	to = strconv.AppendInt(append(to, `},"bytes_read":`...), answer.body.count, 10)
	to = strconv.AppendFloat(append(to, `,"user_id":"","duration":`...), now.Sub(answer.began).Seconds(), 'f', -1, 64)
	to = strconv.AppendInt(append(to, `,"size":`...), answer.size, 10)
	to = strconv.AppendInt(append(to, `,"status":`...), int64(answer.status), 10)
	to = l.appendDeed(to, answer, client, r, verdict)
	if verdict != "" {
		to = append(append(append(to, `,"verdict":"`...), verdict...), '"')
	}
	return append(to, "}\n"...)
}

// appendDeed appends who made the request, and what a visitor did with a link or which device it was.
func (l *accessLog) appendDeed(to []byte, answer *answered, client *loggedClient, r *http.Request, verdict string) []byte {
	came := frameOf(r)
	if verdict == verdictFrame && came != nil {
		to = appendText(append(to, `,"frame":`...), came.name)
	}
	to = append(appendText(append(to, `,"user_agent":`...), answer.agent), client.network...)
	switch {
	case l.names == nil:
	case verdict == verdictAnon:
		// The request as it arrived: the gate may have removed the query from the one it passes on.
		if first, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
			to = appendDeedOf(to, l.names, answer, first.URL)
		}
	case verdict == verdictDevice && r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		to = appendText(append(to, `,"device":`...), shownOver(connectionOf(r), r.TLS.PeerCertificates[0]).name[:16])
	case verdict == verdictFrame && came != nil:
		to = appendText(append(to, `,"device":`...), filepath.Base(came.file)[:16])
	}
	return to
}

func appendDeedOf(to []byte, names *pseudonyms, answer *answered, asked *url.URL) []byte {
	if deed := names.deed(answer.method, asked, answer.agent, answer.status); deed != "" {
		to = appendText(append(to, `,"deed":`...), deed)
	}
	return to
}

// loggedClient is the part of a line that describes the client, the same for all lines of one connection.
type loggedClient struct {
	remote    string // in net/http's form
	bits      int
	address   []byte // `"remote_ip":` and so on
	handshake []byte // `,"tls":` and so on, or nothing
	network   []byte // `,"network":`: what a ban would cover
	widest    network
}

func (l *accessLog) clientOf(r *http.Request) *loggedClient {
	connection := connectionOf(r)
	if connection != nil {
		if known := connection.logged.Load(); known != nil && known.remote == r.RemoteAddr && known.bits == l.bits {
			return known
		}
	}
	made := l.newClient(r)
	if connection != nil {
		connection.logged.Store(made)
	}
	return made
}

func (l *accessLog) newClient(r *http.Request) *loggedClient {
	made := &loggedClient{remote: r.RemoteAddr, bits: l.bits, widest: widestOf(r.RemoteAddr)}
	address, port, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = r.RemoteAddr
	}
	text := appendText([]byte(`"remote_ip":`), address)
	text = append(appendText(append(text, `,"remote_port":`...), port), ',')
	if client, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok {
		text = append(appendText(append(text, `"client_ip":`...), client), ',')
	}
	made.address = text
	made.network = appendText([]byte(`,"network":`), banned(r.RemoteAddr, l.bits))
	made.handshake = handshakeText(r)
	return made
}

// banned returns the address or network that a ban would cover.
func banned(remote string, bits int) string {
	address, err := addressOf(remote)
	if err != nil {
		return ""
	}
	if bits = cmp.Or(bits, networkBits); address.Is4() {
		bits = 32
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		return ""
	}
	return prefix.String()
}

// handshakeText describes the TLS connection as Caddy's log does, with versions as numbers (RFC 8446). A client may present a
// certificate it made itself.
func handshakeText(r *http.Request) []byte {
	if r.TLS == nil {
		return nil
	}
	text := strconv.AppendBool([]byte(`,"tls":{"resumed":`), r.TLS.DidResume)
	text = strconv.AppendInt(append(text, `,"version":`...), int64(r.TLS.Version), 10)
	text = strconv.AppendInt(append(text, `,"cipher_suite":`...), int64(r.TLS.CipherSuite), 10)
	text = appendText(append(text, `,"proto":`...), r.TLS.NegotiatedProtocol)
	text = appendText(append(text, `,"server_name":`...), r.TLS.ServerName)
	if len(r.TLS.PeerCertificates) > 0 {
		certificate := r.TLS.PeerCertificates[0]
		text = appendText(append(text, `,"client_common_name":`...), certificate.Subject.CommonName)
		// At most 20 bytes (RFC 5280); formatting a longer number is slow.
		if certificate.SerialNumber.BitLen() <= 160 {
			text = appendText(append(text, `,"client_serial":`...), certificate.SerialNumber.String())
		}
	}
	return append(text, '}')
}

// appendText appends a quoted text, truncated to the room it has (cut), with the same escapes as the journal.
func appendText(to []byte, text string) []byte {
	text = cut(text)
	to = append(to, '"')
	start := 0
	for place := 0; place < len(text); {
		letter, width := rune(text[place]), 1
		if letter >= utf8.RuneSelf {
			letter, width = utf8.DecodeRuneInString(text[place:])
		}
		if escaped := escapeOf(letter, width); escaped != "" {
			to = append(append(to, text[start:place]...), escaped...)
			start = place + width
		}
		place += width
	}
	return append(append(to, text[start:]...), '"')
}

// escapeOf returns the escape for a letter that must not be written as it is, or "".
func escapeOf(letter rune, width int) string {
	switch {
	case letter == '"':
		return `\"`
	case letter == '\\':
		return `\\`
	case letter == '\n':
		return `\n`
	case letter == '\r':
		return `\r`
	case letter == '\t':
		return `\t`
	case letter < ' ', isUnseen(letter):
		return escaped(letter)
	case letter == utf8.RuneError && width == 1:
		return `\ufffd`
	}
	return ""
}
