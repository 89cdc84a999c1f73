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

// FewConnections limits the connections that a network (an IPv4 address or a /48) may have open at once, and paces how fast new
// ones begin and how much is read from them. It comes after proxy_protocol, which tells where a connection comes from, and
// before TLS, so that a connection over the limit costs no handshake:
//
//	few_connections
type FewConnections struct{}

const (
	// An idle connection takes 43 kB. The browsers of thirty guests have about 180 connections.
	connectionsOfOne = 300

	// From this many open connections in total, each network has few. The last places are kept for known networks.
	manyConnections = 4_000
	fewConnections  = 12
	mostConnections = 6_000
	keptConnections = 500

	// beginPatience is how long a new connection may wait for its turn.
	beginPatience = 5 * time.Second

	// A connection that had to be cut counts as this many, and delays others of its network no longer than cutPatience.
	// Otherwise a client could carry on over the next connection, a hundred requests at a time.
	cutCounts   = 10
	cutPatience = 2500 * time.Millisecond

	// Strangers' data is not read while this many requests of their network are in the edge.
	crowdedFrom = 500

	// readPatience is longer than 300 connections, each with a full TLS record, have to wait.
	readPatience = 30 * time.Second
)

// A handshake is expensive (a millisecond, several on a small machine), and an HTTP/2 frame is cheap to send. So a network may
// begin 10 connections at once and 50 per second after that, and from its strangers 64 KiB are read at once and 256 KiB/s after
// that. A thousand requests of a page take 100 KiB.
var (
	newConnections = rate{10, 200 * time.Millisecond}
	readBytes      = rate{64 << 10, time.Second / 4}
)

// begun and read survive a configuration reload.
var begun, read buckets

// CaddyModule returns the Caddy module information.
func (FewConnections) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.few_connections", New: func() caddy.Module { return new(FewConnections) }}
}

// UnmarshalCaddyfile reads the wrapper, which takes no arguments.
func (*FewConnections) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// WrapListener wraps the listener of proxy_protocol.
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

// countedConnection is counted from its first read until it is closed. Only the first read waits for the PROXY line; asking for
// the address earlier would delay accepting the next visitor.
type countedConnection struct {
	net.Conn
	mutex   sync.Mutex
	asked   bool
	counted bool
	closed  bool
	from    network
	paced   atomic.Bool   // not a device's, and past its handshake
	trusted atomic.Int32  // above zero: not paced for now
	device  atomic.Bool   // an enrolled device's, at least when it began
	done    chan struct{} // closed with the connection

	shown  atomic.Pointer[shownCertificate]
	logged atomic.Pointer[loggedClient]
	watch  *time.Timer // of endUnless
}

var (
	errManyConnections = errors.New("too many connections at once")
	errMuchSent        = errors.New("too many bytes at once")
	errNoVisitor       = errors.New("the PROXY header names no visitor")
)

// Read reads, unless the connection is over the limit, and returns the data once the network's pace allows it.
func (c *countedConnection) Read(buffer []byte) (int, error) {
	if !c.asked { // only one goroutine reads at a time
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

// restInCrowd waits until fewer requests of the network are in the edge.
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
	remote := c.RemoteAddr()
	from := widestOf(remote.String())
	c.mutex.Lock()
	c.asked = true
	if c.closed {
		c.mutex.Unlock()
		return nil
	}
	if from == nobody || isOwn(c.Conn, remote) {
		c.mutex.Unlock()
		return errNoVisitor
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

// isOwn reports whether an address is the connection's own, because its PROXY header names none (UNKNOWN, or the command LOCAL).
// Its client would otherwise count as 127.0.0.1. A header may name that address as well: the server's own checks do.
func isOwn(connection net.Conn, remote net.Addr) bool {
	behind, ok := connection.(interface{ Raw() net.Conn })
	return ok && behind.Raw().RemoteAddr() == remote
}

// rest waits for as long as the connection is open.
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

// Close closes the connection and frees its place.
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

// endUnless checks at each interval whether the client is still allowed in, and ends the connection and everything on it if
// not. Calling it again does nothing.
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

// cut ends a connection that goes on although limits or a ban forbid it.
func (c *countedConnection) cut() {
	c.mutex.Lock()
	open := !c.closed
	c.mutex.Unlock()
	if open {
		begun.reserve(uint64(c.from), cutCounts, newConnections, cutPatience, time.Now())
	}
	_ = c.Close()
}

// connectionKey is the context key of a request's connection.
type connectionKey struct{}

// rememberConnections makes connectionOf work for the server whose handlers are being provisioned.
func rememberConnections(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return
	}
	var first sync.Once
	server.RegisterConnContext(func(ctx context.Context, connection net.Conn) context.Context {
		first.Do(func() { handleAsterisks(ctx) })
		if ctx.Value(connectionKey{}) != nil {
			return ctx
		}
		return context.WithValue(ctx, connectionKey{}, countedIn(connection))
	})
}

// handleAsterisks makes a server pass "OPTIONS *" to its handlers like any request. Otherwise net/http answers it with a 200, also
// for banned visitors, without limits or a line in the log. Caddy has no setting for it.
func handleAsterisks(ctx context.Context) {
	if server, ok := ctx.Value(http.ServerContextKey).(*http.Server); ok {
		server.DisableGeneralOptionsHandler = true
	}
}

// countedIn returns the counted connection inside a wrapped one, or nil.
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

// connectionOf returns the connection of a request, or nil.
func connectionOf(r *http.Request) *countedConnection {
	found, _ := r.Context().Value(connectionKey{}).(*countedConnection)
	return found
}

// trust stops pacing the connection of a request, if it is known, until noLonger is called.
func trust(r *http.Request) (noLonger func()) {
	connection := connectionOf(r)
	if connection == nil {
		return func() {}
	}
	connection.trusted.Add(1)
	return func() { connection.trusted.Add(-1) }
}

// connections survives a configuration reload, as the connections themselves do.
var connections = openConnections{isKnown: isKnownHere}

var (
	_ caddy.ListenerWrapper = FewConnections{}
	_ caddyfile.Unmarshaler = (*FewConnections)(nil)
)
