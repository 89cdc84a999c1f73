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

// A client may send a quarter of a megabyte of certificates in a handshake, and Go reads each of them, at the price of ten
// handshakes. These two wrappers stand right before and right after `tls`:
//
//	bounded_handshakes
//	tls
//	early_handshakes
//
// The first gives a connection few bytes to read; the second makes the handshake itself, because nobody else tells when
// it is over, and lifts the bound then.
type (
	BoundedHandshakes struct{}
	EarlyHandshakes   struct{}
)

const (
	// handshakeBytes is more than a device's certificate, three above it and the rest of a handshake take.
	handshakeBytes = 16 << 10

	// handshakePatience is as long as a visitor may take for the head of a request.
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

// UnmarshalCaddyfile reads the wrapper, which takes nothing.
func (*BoundedHandshakes) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return withoutArguments(d)
}

// UnmarshalCaddyfile reads the wrapper, which takes nothing.
func (*EarlyHandshakes) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return withoutArguments(d) }

func withoutArguments(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// WrapListener bounds what connections read.
func (BoundedHandshakes) WrapListener(listener net.Listener) net.Listener {
	return boundedListener{listener}
}

// WrapListener makes the handshakes of connections.
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

// boundedConnection reads no more than is left, until it is free.
type boundedConnection struct {
	net.Conn
	left int // one goroutine reads at a time
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

// NetConn returns what it reads from.
func (c *boundedConnection) NetConn() net.Conn { return c.Conn }

// earlyListener hands out connections whose handshake is over.
type earlyListener struct {
	net.Listener
	ready  chan net.Conn
	closed sync.Once
	done   chan struct{} // closed when nobody accepts any more
	err    error         // why, set before
}

// acceptAll takes connections as long as there is a listener. As net/http does, it waits for what passes, such as too
// many open files.
func (l *earlyListener) acceptAll() {
	for {
		connection, err := l.Listener.Accept()
		if err == nil {
			go l.shake(connection)
			continue
		}
		var passing net.Error
		if !errors.As(err, &passing) || !passing.Temporary() { //nolint:staticcheck // net/http asks the same
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

// acceptPause is how long to wait before the next connection when none could be had.
const acceptPause = 50 * time.Millisecond

func (l *earlyListener) end(err error) {
	l.closed.Do(func() {
		l.err = err
		close(l.done)
	})
}

// shake makes the handshake of a connection and hands it out, or closes it.
func (l *earlyListener) shake(connection net.Conn) {
	if secured, ok := connection.(*tls.Conn); ok {
		ctx, cancel := context.WithTimeout(context.Background(), handshakePatience)
		defer cancel()
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = connection.Close() // what more could be said is said by TLS itself
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

// isDevice tells whether a connection is an enrolled device's, which strangers behind the same address do not hold up.
// What it may ask is looked at again with each request.
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
