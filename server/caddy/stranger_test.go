package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestMain(m *testing.M) {
	answerTimeout = 500 * time.Millisecond
	os.Exit(m.Run())
}

const theName = "immich.example.ts.net"

// world is what the stranger meets: resolvers and servers by address, in fact all on loopback.
type world struct {
	t       *testing.T
	records map[string][]string         // by resolver: its A and AAAA answers
	codes   map[string]int              // by resolver: its response code
	servers map[string]*httptest.Server // by address
	missing map[string]error            // by address: why it is unreachable
	plain   map[string]func(c net.Conn) // by address: a server without TLS
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, records: map[string][]string{}, codes: map[string]int{},
		servers: map[string]*httptest.Server{}, missing: map[string]error{}, plain: map[string]func(net.Conn){},
	}
}

// edge answers as the Caddyfile does.
func edge(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == publicPath {
		fmt.Fprint(w, "{}")
		return
	}
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprint(w, refusal)
}

func (w *world) serve(address string, handler http.HandlerFunc) *httptest.Server {
	server := httptest.NewTLSServer(handler)
	server.Config.ErrorLog = nil
	w.t.Cleanup(server.Close)
	w.servers[address] = server
	return server
}

func (w *world) dial(ctx context.Context, network, place string) (net.Conn, error) {
	address, port, _ := net.SplitHostPort(place)
	if err := w.missing[address]; err != nil {
		return nil, err
	}
	here, there := net.Pipe()
	switch {
	case port == "53" && (w.records[address] != nil || w.codes[address] != 0):
		here, there = w.packets(network)
		go w.resolve(there, address)
	case w.plain[address] != nil:
		go w.plain[address](there)
	case w.servers[address] != nil:
		return (&net.Dialer{}).DialContext(ctx, "tcp", w.servers[address].Listener.Addr().String())
	default:
		return nil, syscall.ECONNREFUSED
	}
	return here, nil
}

// packets makes a pair of connected sockets. DNS over UDP needs UDP sockets, because the client checks their type.
func (w *world) packets(network string) (net.Conn, net.Conn) {
	if network != "udp" {
		return net.Pipe()
	}
	there, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	here, err := net.Dial("udp", there.LocalAddr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { there.Close() })
	return here, packetConn{there.(*net.UDPConn), here.LocalAddr()}
}

// packetConn writes to the other end, whatever its address.
type packetConn struct {
	*net.UDPConn
	other net.Addr
}

func (p packetConn) Write(data []byte) (int, error) { return p.WriteTo(data, p.other) }

func (w *world) resolve(conn net.Conn, resolver string) {
	at := &dns.Conn{Conn: conn}
	question, err := at.ReadMsg()
	if err != nil {
		return
	}
	reply := new(dns.Msg).SetReply(question)
	reply.Rcode = w.codes[resolver]
	kind := question.Question[0].Qtype
	for _, text := range w.records[resolver] {
		address := netip.MustParseAddr(text)
		head := dns.RR_Header{Name: question.Question[0].Name, Rrtype: kind, Class: dns.ClassINET}
		switch {
		case address.Is4() && kind == dns.TypeA:
			reply.Answer = append(reply.Answer, &dns.A{Hdr: head, A: address.AsSlice()})
		case address.Is6() && kind == dns.TypeAAAA:
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: head, AAAA: address.AsSlice()})
		}
	}
	_ = at.WriteMsg(reply)
}

// look looks with two resolvers, at a server with the certificate of shown.
func (w *world) look(shown *httptest.Server) sight {
	s := &stranger{name: theName, port: 443, resolvers: []string{"1.1.1.1", "9.9.9.9"}, dial: w.dial}
	if shown != nil {
		s.leaf = sha256.Sum256(shown.Certificate().Raw)
	}
	return s.look(context.Background())
}

func wants(t *testing.T, seen sight, verdict string, words ...string) {
	t.Helper()
	if seen.verdict != verdict {
		t.Fatalf("seen %q (%s), want %q", seen.verdict, seen.sentence, verdict)
	}
	for _, word := range words {
		if !strings.Contains(seen.sentence, word) {
			t.Errorf("%q lacks %q", seen.sentence, word)
		}
	}
}

func TestAnExposureAsItShouldBe(t *testing.T) {
	w := newWorld(t)
	server := w.serve("203.0.113.1", edge)
	w.servers["203.0.113.2"], w.servers["2001:db8::1"] = server, server
	w.records["1.1.1.1"] = []string{"203.0.113.1"}
	w.records["9.9.9.9"] = []string{"203.0.113.2", "2001:db8::1"}
	wants(t, w.look(server), healthy, "at 3 of 3 addresses")
}

func TestOneAnswerIsEnough(t *testing.T) {
	w := newWorld(t)
	server := w.serve("203.0.113.1", edge)
	w.records["1.1.1.1"] = []string{"203.0.113.1", "203.0.113.2", "2001:db8::1"}
	w.missing["2001:db8::1"] = syscall.ENETUNREACH
	w.missing["9.9.9.9"] = syscall.ECONNREFUSED
	// A home without IPv6 cannot reach that address, which does not count.
	wants(t, w.look(server), healthy, "at 1 of 2 addresses")
}

func TestWhatPublicDNSSays(t *testing.T) {
	for name, c := range map[string]struct {
		records []string
		code    int
		verdict string
		words   string
	}{
		"no such name":       {nil, dns.RcodeNameError, dead, "no address of " + theName},
		"no address":         {[]string{}, dns.RcodeSuccess, dead, "no address of"},
		"inner addresses":    {[]string{"100.64.0.2", "fd7a:115c:a1e0::1", "192.168.1.20", "127.0.0.1"}, 0, dead, "no address of"},
		"resolver is broken": {[]string{}, dns.RcodeServerFailure, blind, "none of the public resolvers 1.1.1.1, 9.9.9.9 answers"},
		"resolver refuses":   {[]string{}, dns.RcodeRefused, blind, "none of the public resolvers"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.records["1.1.1.1"], w.codes["1.1.1.1"] = c.records, c.code
			if c.records == nil {
				w.records["1.1.1.1"] = []string{}
			}
			wants(t, w.look(nil), c.verdict, c.words)
		})
	}
}

func TestWithoutAWayOutNothingIsSeen(t *testing.T) {
	w := newWorld(t)
	w.missing["1.1.1.1"], w.missing["9.9.9.9"] = syscall.ENETUNREACH, syscall.ENETUNREACH
	wants(t, w.look(nil), blind, "none of the public resolvers")

	w = newWorld(t)
	w.records["1.1.1.1"] = []string{"203.0.113.1"}
	w.missing["203.0.113.1"] = syscall.ENETUNREACH
	wants(t, w.look(nil), blind, "no way from here to 203.0.113.1")
}

func TestNobodyAnswers(t *testing.T) {
	w := newWorld(t)
	w.records["1.1.1.1"] = []string{"203.0.113.1"}
	wants(t, w.look(nil), dead, "at 203.0.113.1 nobody answers")

	// Like Tailscale's ingress when the node is offline: the connection is accepted and ends in the handshake.
	w.plain["203.0.113.1"] = func(c net.Conn) { c.Close() }
	wants(t, w.look(nil), dead, "nobody answers")
}

func TestWhoStallsIsDeadInBoundedTime(t *testing.T) {
	w := newWorld(t)
	w.records["1.1.1.1"] = []string{"203.0.113.1"}
	w.plain["203.0.113.1"] = func(c net.Conn) { time.Sleep(time.Minute) }
	began := time.Now()
	wants(t, w.look(nil), dead, "nobody answers")
	if took := time.Since(began); took > 4*answerTimeout+time.Second {
		t.Errorf("took %v", took)
	}
}

func TestAnotherCertificateIsUnsafe(t *testing.T) {
	w := newWorld(t)
	server := w.serve("203.0.113.1", edge)
	w.records["1.1.1.1"] = []string{"203.0.113.1", "203.0.113.2"}
	// Go's test servers share one certificate; this one has another.
	foreign := httptest.NewUnstartedServer(http.HandlerFunc(edge))
	foreign.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	foreign.StartTLS()
	t.Cleanup(foreign.Close)
	w.servers["203.0.113.2"] = foreign
	wants(t, w.look(server), unsafe, "at 203.0.113.2 another certificate is shown")
}

func TestWhatAPrivatePathMayAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		status  int
		body    string
		verdict string
	}{
		"the refusal":         {403, refusal, healthy},
		"too many requests":   {429, "", healthy},
		"the edge's error":    {503, `{"status":503}`, ailing},
		"the page":            {200, "<html>", unsafe},
		"not logged in":       {401, `{"message":"Authentication required"}`, unsafe},
		"not found":           {404, "", unsafe},
		"elsewhere":           {302, "", unsafe},
		"a refusal, not ours": {403, "Forbidden", unsafe},
	} {
		for _, path := range privatePaths {
			t.Run(name+" at "+path, func(t *testing.T) {
				w := newWorld(t)
				w.records["1.1.1.1"] = []string{"203.0.113.1"}
				server := w.serve("203.0.113.1", func(rw http.ResponseWriter, r *http.Request) {
					if r.URL.Path != path {
						edge(rw, r)
						return
					}
					rw.WriteHeader(c.status)
					fmt.Fprint(rw, c.body)
				})
				wants(t, w.look(server), c.verdict)
			})
		}
	}
}

func TestSilenceIsARefusal(t *testing.T) {
	hangUp := func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }
	w := newWorld(t)
	w.records["1.1.1.1"] = []string{"203.0.113.1"}
	server := w.serve("203.0.113.1", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == publicPath {
			edge(rw, r)
			return
		}
		hangUp(rw, r)
	})
	wants(t, w.look(server), healthy)

	server = w.serve("203.0.113.1", hangUp)
	wants(t, w.look(server), ailing, "may be banned")
}

func TestImmichAwayIsAiling(t *testing.T) {
	w := newWorld(t)
	w.records["1.1.1.1"] = []string{"203.0.113.1"}
	server := w.serve("203.0.113.1", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == publicPath {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		edge(rw, r)
	})
	wants(t, w.look(server), ailing, "answers 502")
}

func TestAnAnswerWithoutTLSIsUnsafe(t *testing.T) {
	w := newWorld(t)
	w.records["1.1.1.1"] = []string{"203.0.113.1"}
	plain := httptest.NewServer(http.HandlerFunc(edge))
	t.Cleanup(plain.Close)
	w.servers["203.0.113.1"] = plain
	wants(t, w.look(nil), unsafe, "without TLS")
}

func TestTheCertificateOfAFile(t *testing.T) {
	file := t.TempDir() + "/server.crt"
	if _, err := firstOf(file); err == nil {
		t.Error("a missing file must be an error")
	}
	if err := os.WriteFile(file, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := firstOf(file); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Error("a file without a certificate must be an error")
	}
	made := selfSigned(t)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made.Certificate[0]})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := firstOf(file); err != nil || !bytes.Equal(found.Raw, made.Certificate[0]) {
		t.Errorf("found %v, %v", found, err)
	}
}

// selfSigned makes a certificate that no other server has.
func selfSigned(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{theName}, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}
