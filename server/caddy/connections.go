package main

import (
	"errors"
	"net"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(FewConnections{})
}

// FewConnections ends connections of a network (an IPv4 address or a /48) beyond what it may have at once. It stands
// behind proxy_protocol, which says where a connection comes from, and before TLS, so that it costs no handshake:
//
//	few_connections
type FewConnections struct{}

const (
	// An idle connection takes 43 kB. Thirty guests with a browser each have about 180.
	connectionsOfOne = 300

	// When so many are open in all, a network has few.
	manyConnections = 4_000
	fewConnections  = 12
)

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
	return &countedConnection{Conn: connection}, nil
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
}

var errManyConnections = errors.New("too many connections at once")

// Read reads, unless the connection is one too many.
func (c *countedConnection) Read(buffer []byte) (int, error) {
	if !c.asked { // one goroutine reads at a time
		if err := c.count(); err != nil {
			return 0, errors.Join(err, c.Close())
		}
	}
	return c.Conn.Read(buffer)
}

func (c *countedConnection) count() error {
	from := widestOf(c.RemoteAddr().String())
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.asked = true
	if c.closed {
		return nil
	}
	if !connections.add(from) {
		return errManyConnections
	}
	c.from, c.counted = from, true
	return nil
}

// Close closes and gives the place back.
func (c *countedConnection) Close() error {
	c.mutex.Lock()
	if c.counted {
		connections.remove(c.from)
	}
	c.counted, c.closed = false, true
	c.mutex.Unlock()
	return c.Conn.Close()
}

// connections outlives the reload of a configuration, as the connections do.
var connections connectionCount

type connectionCount struct {
	mutex sync.Mutex
	of    map[network]int
	all   int
}

func (c *connectionCount) add(from network) bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.of == nil {
		c.of = map[network]int{}
	}
	if c.of[from] >= connectionsOfOne || c.all >= manyConnections && c.of[from] >= fewConnections {
		return false
	}
	c.of[from]++
	c.all++
	return true
}

func (c *connectionCount) remove(from network) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.all--
	if c.of[from]--; c.of[from] == 0 {
		delete(c.of, from)
	}
}

var (
	_ caddy.ListenerWrapper = FewConnections{}
	_ caddyfile.Unmarshaler = (*FewConnections)(nil)
)
