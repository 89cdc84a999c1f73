package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(BoundedHandshakes{})
	caddy.RegisterModule(EarlyHandshakes{})
}

// In a handshake a client may send a quarter of a megabyte of certificates, and Go parses each of them, at the cost of ten
// handshakes. These two wrappers come right before and right after `tls`:
//
//	bounded_handshakes
//	tls
//	early_handshakes
//
// The first limits how much a connection may read. The second performs the handshake itself, because nothing else reports when
// it is over, and then lifts the limit.
type (
	BoundedHandshakes struct{}
	EarlyHandshakes   struct{}
)

const (
	// handshakeBytes is more than a device's certificate, three above it and the rest of a handshake take.
	handshakeBytes = 16 << 10

	// handshakePatience is as long as a visitor may take to send a request's header.
	handshakePatience = 10 * time.Second
)

// CaddyModule returns the Caddy module information.
func (BoundedHandshakes) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.bounded_handshakes", New: func() caddy.Module { return new(BoundedHandshakes) }}
}

// CaddyModule returns the Caddy module information.
func (EarlyHandshakes) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.early_handshakes", New: func() caddy.Module { return new(EarlyHandshakes) }}
}

// UnmarshalCaddyfile reads the wrapper, which takes no arguments.
func (*BoundedHandshakes) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return withoutArguments(d)
}

// UnmarshalCaddyfile reads the wrapper, which takes no arguments.
func (*EarlyHandshakes) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return withoutArguments(d) }

func withoutArguments(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// WrapListener limits what connections may read.
func (BoundedHandshakes) WrapListener(listener net.Listener) net.Listener {
	return boundedListener{listener}
}

// WrapListener performs the handshakes of connections.
func (EarlyHandshakes) WrapListener(listener net.Listener) net.Listener {
	made := &earlyListener{Listener: listener, ready: make(chan net.Conn), done: make(chan struct{})}
	go made.acceptAll()
	return made
}

type boundedListener struct{ net.Listener }

func (l boundedListener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &boundedConnection{Conn: connection, left: handshakeBytes}, nil
}

// boundedConnection reads at most `left` bytes until it is free.
type boundedConnection struct {
	net.Conn
	left int // only one goroutine reads at a time
	free atomic.Bool
}

var errLongHandshake = errors.New("the handshake is too long")

func (c *boundedConnection) Read(buffer []byte) (int, error) {
	if c.free.Load() {
		return c.Conn.Read(buffer)
	}
	if c.left == 0 {
		return 0, errLongHandshake
	}
	count, err := c.Conn.Read(buffer[:min(len(buffer), c.left)])
	c.left -= count
	return count, err
}

// NetConn returns the underlying connection.
func (c *boundedConnection) NetConn() net.Conn { return c.Conn }

// earlyListener returns connections whose handshake is over.
type earlyListener struct {
	net.Listener
	ready  chan net.Conn
	closed sync.Once
	done   chan struct{} // closed when no more connections are accepted
	err    error         // the reason, set before done is closed
}

// acceptAll accepts connections until the listener closes. Like net/http, it waits out temporary errors, such as too many open
// files.
func (l *earlyListener) acceptAll() {
	for {
		connection, err := l.Listener.Accept()
		if err == nil {
			go l.shake(connection)
			continue
		}
		var passing net.Error
		if !errors.As(err, &passing) || !passing.Temporary() { //nolint:staticcheck // net/http does the same check
			l.end(err)
			return
		}
		select {
		case <-time.After(acceptPause):
		case <-l.done:
			return
		}
	}
}

// acceptPause is the wait before the next attempt after a temporary error.
const acceptPause = 50 * time.Millisecond

func (l *earlyListener) end(err error) {
	l.closed.Do(func() {
		l.err = err
		close(l.done)
	})
}

// shake performs the handshake of a connection and hands the connection out, or closes it.
func (l *earlyListener) shake(connection net.Conn) {
	if secured, ok := connection.(*tls.Conn); ok {
		ctx, cancel := context.WithTimeout(context.Background(), handshakePatience)
		defer cancel()
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = connection.Close() // TLS itself has sent any alert
			return
		}
		if bounded, ok := secured.NetConn().(*boundedConnection); ok {
			bounded.free.Store(true)
		}
		if counted := countedIn(secured); counted != nil {
			device := isDevice(secured, counted)
			counted.device.Store(device)
			counted.paced.Store(!device)
			if device {
				homes.opened(counted.from, "", time.Now())
			}
		}
	}
	select {
	case l.ready <- connection:
	case <-l.done:
		_ = connection.Close()
	}
}

// isDevice reports whether a connection is an enrolled device's, which must not be held up by strangers behind the same
// address. Its rights are checked again at each request.
func isDevice(connection *tls.Conn, counted *countedConnection) bool {
	devices := knownDevices.Load()
	if devices == nil {
		return false
	}
	state := connection.ConnectionState()
	enrolled, err := devices.accepts(&state, counted)
	return err == nil && enrolled
}

func (l *earlyListener) Accept() (net.Conn, error) {
	select {
	case connection := <-l.ready:
		return connection, nil
	case <-l.done:
		return nil, l.err
	}
}

func (l *earlyListener) Close() error {
	l.end(net.ErrClosed)
	return l.Listener.Close()
}

var (
	_ caddy.ListenerWrapper = BoundedHandshakes{}
	_ caddy.ListenerWrapper = EarlyHandshakes{}
	_ caddyfile.Unmarshaler = (*BoundedHandshakes)(nil)
	_ caddyfile.Unmarshaler = (*EarlyHandshakes)(nil)
)
