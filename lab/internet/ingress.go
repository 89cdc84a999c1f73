package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	helloTimeout = 10 * time.Second // for the visitor's first TLS message
	dialTimeout  = 10 * time.Second // for reaching a node or the ingress
	awayTimeout  = time.Second      // for reaching a node that holds no long poll: it may be about to come back
)

// ingress is Tailscale's funnel relay: it reads the name that a visitor requests and forwards the connection,
// still encrypted, to the peer API of the node that announced the name.
type ingress struct {
	control *control
	node    *tailnetNode
	v4, v6  netip.Addr // its own public addresses
	port    int
}

// startIngress accepts visitors on the address of -ingress.
func startIngress(s *settings, ctl *control, node *tailnetNode, parts *parts) error {
	_, port, err := splitPort(s.ingress)
	if err != nil {
		return fmt.Errorf("-ingress: %w", err)
	}
	listener, err := net.Listen("tcp", s.ingress)
	if err != nil {
		return fmt.Errorf("the ingress cannot listen: %w", err)
	}
	in := &ingress{control: ctl, node: node, v4: ctl.zone.v4, v6: ctl.zone.v6, port: port}
	parts.run("the ingress", func() error { return acceptAll(listener, in.serve) })
	return nil
}

// acceptAll passes every connection to serve, each in its own goroutine, until the listener fails.
func acceptAll(listener net.Listener, serve func(net.Conn)) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go serve(conn)
	}
}

// serve forwards one visitor to a node, or hangs up if no node accepts the visitor.
func (in *ingress) serve(visitor net.Conn) {
	defer visitor.Close()
	source := in.publicSource(visitor.RemoteAddr())
	name, hello, err := readHello(visitor)
	if err != nil {
		log.Printf("ingress: %s refused: %v", source, err)
		return
	}
	out, reader, err := in.connect(name, source)
	if err != nil {
		log.Printf("ingress: %s refused: %v", source, err)
		return
	}
	defer out.Close()
	log.Printf("ingress: %s led to %s", source, name)
	splice(visitor, io.MultiReader(bytes.NewReader(hello), visitor), out, reader)
}

// publicSource is the ip:port that the node hears of. The kernel gives a loopback address to a visitor of this
// namespace that names no address of its own (Pebble's tls-alpn-01 is one); on the internet nobody has such an
// address, and filters on the server might trust it, so it becomes the ingress's own.
func (in *ingress) publicSource(from net.Addr) string {
	source, err := netip.ParseAddrPort(from.String())
	if err != nil || !source.Addr().IsLoopback() {
		return from.String()
	}
	if source.Addr().Unmap().Is4() {
		return netip.AddrPortFrom(in.v4, source.Port()).String()
	}
	return netip.AddrPortFrom(in.v6, source.Port()).String()
}

// connect opens a connection to the node that announced name. reader holds what the node sends after accepting.
func (in *ingress) connect(name, source string) (out net.Conn, reader io.Reader, err error) {
	to, err := in.control.routeIngress(name)
	if err != nil {
		return nil, nil, err
	}
	timeout := dialTimeout
	if !to.Online {
		timeout = awayTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	out, err = in.node.Dial(ctx, "tcp", to.PeerAPI)
	if err != nil {
		return nil, nil, fmt.Errorf("%s cannot be reached: %w", name, err)
	}
	target := net.JoinHostPort(name, strconv.Itoa(in.port))
	reader, err = requestIngress(out, to.PeerAPI, source, target)
	if err != nil {
		out.Close()
		return nil, nil, err
	}
	return out, reader, nil
}

// requestIngress asks a node's peer API to accept a visitor. source is the visitor's ip:port, target the name and
// port asked for. See handleServeIngress in tailscale.com/ipn/ipnlocal for the other side.
func requestIngress(out net.Conn, peerAPI, source, target string) (io.Reader, error) {
	request, err := http.NewRequest(http.MethodPost, "http://"+peerAPI+"/v0/ingress", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Tailscale-Ingress-Src", source)
	request.Header.Set("Tailscale-Ingress-Target", target)
	if err := out.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	if err := request.Write(out); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(out)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, fmt.Errorf("the node gave no answer for %s: %w", target, err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the node does not serve %s: %s", target, response.Status)
	}
	return reader, out.SetDeadline(time.Time{})
}

// errHelloRead ends the handshake of readHello where its work is done.
var errHelloRead = errors.New("client hello read")

// readHello reads the first TLS message of a visitor: the name asked for, and the bytes to pass on.
func readHello(visitor net.Conn) (name string, hello []byte, err error) {
	if err := visitor.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return "", nil, err
	}
	var seen bytes.Buffer
	config := &tls.Config{GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		name = info.ServerName
		return nil, errHelloRead
	}}
	err = tls.Server(&listenOnly{Conn: visitor, reader: io.TeeReader(visitor, &seen)}, config).Handshake()
	if !errors.Is(err, errHelloRead) {
		return "", nil, fmt.Errorf("no TLS client hello: %w", err)
	}
	if name == "" {
		return "", nil, errors.New("the client hello names no server")
	}
	return name, seen.Bytes(), visitor.SetReadDeadline(time.Time{})
}

// listenOnly lets crypto/tls read a connection but keeps its alerts from the visitor.
type listenOnly struct {
	net.Conn
	reader io.Reader
}

func (c *listenOnly) Read(p []byte) (int, error)  { return c.reader.Read(p) }
func (c *listenOnly) Write(p []byte) (int, error) { return len(p), nil }

// splice copies both ways until both sides have finished. Each direction has its own reader, which
// may hold bytes that were read earlier.
func splice(a net.Conn, fromA io.Reader, b net.Conn, fromB io.Reader) {
	var both sync.WaitGroup
	both.Go(func() { copyThenClose(b, fromA) })
	both.Go(func() { copyThenClose(a, fromB) })
	both.Wait()
}

// copyThenClose also passes on the end of a stream, so that half-closed connections stay half open. After an error
// (the other side has gone) the whole connection is closed, or the opposite copy would wait for ever.
func copyThenClose(to net.Conn, from io.Reader) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err == nil && ok && half.CloseWrite() == nil {
		return
	}
	to.Close()
}
