package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(FewConnections{})
}

// FewConnections ends connections of a network (an IPv4 address or a /48) beyond what it may have at once, lets new ones
// begin one after another, and reads no more from them than it is worth reading. It stands behind proxy_protocol, which
// says where a connection comes from, and before TLS, so that it costs no handshake:
//
//	few_connections
type FewConnections struct{}

const (
	// An idle connection takes 43 kB. Thirty guests with a browser each have about 180.
	connectionsOfOne = 300

	// When so many are open in all, a network has few. The last of all places are kept for networks that are known.
	manyConnections = 4_000
	fewConnections  = 12
	mostConnections = 6_000
	keptConnections = 500

	// beginPatience is how long a connection may wait for its turn to begin.
	beginPatience = 5 * time.Second

	// A connection that had to be ended counts for so many, and makes others wait no longer than that: else whoever asks
	// on would do so over the next one, a hundred requests each time.
	cutCounts   = 10
	cutPatience = 2500 * time.Millisecond

	// Strangers are read no further while so many requests of their network are in the edge.
	crowdedFrom = 500

	// readPatience is more than 300 connections with a full record of TLS each have to wait.
	readPatience = 30 * time.Second
)

// A handshake is dear (a millisecond, and several on a small machine), and a frame of HTTP/2 is cheap to send: a network
// begins 10 connections at once and 50 a second after that, and strangers of it are read 64 KiB at once and 256 KiB/s
// after that. A thousand requests of a page take 100 KiB.
var (
	newConnections = rate{10, 200 * time.Millisecond}
	readBytes      = rate{64 << 10, time.Second / 4}
)

// begun and read outlive the reload of a configuration.
var begun, read buckets

// CaddyModule returns the Caddy module information.
func (FewConnections) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.few_connections", New: func() caddy.Module { return new(FewConnections) }}
}

// UnmarshalCaddyfile reads the wrapper, which takes nothing.
func (*FewConnections) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// WrapListener wraps what proxy_protocol has wrapped.
func (FewConnections) WrapListener(listener net.Listener) net.Listener {
	return countingListener{listener}
}

type countingListener struct{ net.Listener }

func (l countingListener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConnection{Conn: connection, done: make(chan struct{})}, nil
}

// countedConnection is counted at its first read and until it is closed. Only that read waits for the PROXY line; asked
// for earlier, the address would keep the next visitor from being accepted.
type countedConnection struct {
	net.Conn
	mutex   sync.Mutex
	asked   bool
	counted bool
	closed  bool
	from    network
	paced   atomic.Bool   // it is no device's, and its handshake is over
	trusted atomic.Int32  // above zero, it is not paced for now
	device  atomic.Bool   // it is an enrolled device's, or was when it began
	done    chan struct{} // closed with the connection

	shown  atomic.Pointer[shownCertificate]
	logged atomic.Pointer[loggedClient]
	watch  *time.Timer // of endUnless
}

var (
	errManyConnections = errors.New("too many connections at once")
	errMuchSent        = errors.New("too many bytes at once")
)

// Read reads, unless the connection is one too many, and hands out what it has read when the network may send so much.
func (c *countedConnection) Read(buffer []byte) (int, error) {
	if !c.asked { // one goroutine reads at a time
		if err := c.begin(); err != nil {
			return 0, errors.Join(err, c.Close())
		}
	}
	count, err := c.Conn.Read(buffer)
	if count > 0 && c.paced.Load() && c.trusted.Load() == 0 {
		wait, ok := read.reserve(uint64(c.from), float64(count), readBytes, readPatience, time.Now())
		if !ok {
			return 0, errors.Join(errMuchSent, c.Close())
		}
		c.rest(wait)
		c.restInCrowd()
	}
	return count, err
}

// restInCrowd waits until the network has fewer requests in the edge.
func (c *countedConnection) restInCrowd() {
	for began := time.Now(); inside.count(c.from) > crowdedFrom && time.Since(began) < readPatience; {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-c.done:
			return
		}
	}
}

// begin counts the connection and waits for its turn.
func (c *countedConnection) begin() error {
	from := widestOf(c.RemoteAddr().String())
	c.mutex.Lock()
	c.asked = true
	if c.closed {
		c.mutex.Unlock()
		return nil
	}
	c.from = from
	wait, ok := begun.reserve(uint64(from), 1, newConnections, beginPatience, time.Now())
	var lost *countedConnection
	if ok {
		c.counted, lost = connections.add(c)
		ok = c.counted
	}
	c.mutex.Unlock()
	if lost != nil {
		_ = lost.Close()
	}
	if !ok {
		return errManyConnections
	}
	c.rest(wait)
	return nil
}

// rest waits, as long as the connection is open.
func (c *countedConnection) rest(wait time.Duration) {
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.done:
	}
}

// Close closes and gives the place back.
func (c *countedConnection) Close() error {
	c.mutex.Lock()
	if c.counted {
		connections.remove(c)
	}
	if !c.closed {
		close(c.done)
	}
	if c.watch != nil {
		c.watch.Stop()
	}
	c.counted, c.closed = false, true
	c.mutex.Unlock()
	return c.Conn.Close()
}

// endUnless looks every so often whether the client is still in, and ends the connection if it is not, with all that goes
// on over it. Asked again, it does nothing.
func (c *countedConnection) endUnless(isIn func() (bool, error), interval time.Duration) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.closed || c.watch != nil {
		return
	}
	c.watch = time.AfterFunc(interval, func() {
		if in, err := isIn(); err != nil || !in {
			_ = c.Close()
			return
		}
		c.mutex.Lock()
		defer c.mutex.Unlock()
		if !c.closed {
			c.watch.Reset(interval)
		}
	})
}

// cut ends the connection of who goes on although limits or a ban forbid it.
func (c *countedConnection) cut() {
	c.mutex.Lock()
	open := !c.closed
	c.mutex.Unlock()
	if open {
		begun.reserve(uint64(c.from), cutCounts, newConnections, cutPatience, time.Now())
	}
	_ = c.Close()
}

// connectionKey is where the context of a request has its connection.
type connectionKey struct{}

// rememberConnections makes connectionOf work for the server whose handlers are being made.
func rememberConnections(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return
	}
	server.RegisterConnContext(func(ctx context.Context, connection net.Conn) context.Context {
		if ctx.Value(connectionKey{}) != nil {
			return ctx
		}
		return context.WithValue(ctx, connectionKey{}, countedIn(connection))
	})
}

// countedIn returns the counted connection that others are wrapped around, or nothing.
func countedIn(connection net.Conn) *countedConnection {
	for connection != nil {
		if found, ok := connection.(*countedConnection); ok {
			return found
		}
		wrapper, ok := connection.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		connection = wrapper.NetConn()
	}
	return nil
}

// connectionOf returns the connection that a request came over, or nothing.
func connectionOf(r *http.Request) *countedConnection {
	found, _ := r.Context().Value(connectionKey{}).(*countedConnection)
	return found
}

// trust lets the connection of a request, if it is known, send as much as it likes, until it is told otherwise.
func trust(r *http.Request) (noLonger func()) {
	connection := connectionOf(r)
	if connection == nil {
		return func() {}
	}
	connection.trusted.Add(1)
	return func() { connection.trusted.Add(-1) }
}

// connections outlives the reload of a configuration, as the connections do.
var connections = openConnections{isKnown: isKnownHere}

var (
	_ caddy.ListenerWrapper = FewConnections{}
	_ caddyfile.Unmarshaler = (*FewConnections)(nil)
)
