package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
)

const name = "immich.lab-tailnet.ts.net"

// open is a node whose funnel is open.
func open() node {
	return node{Name: name, PeerAPI: "100.64.0.2:1234", IngressEnabled: true, LastPoll: time.Unix(100, 0)}
}

func TestRoute(t *testing.T) {
	shut, wired, expired, silent := open(), open(), open(), open()
	shut.IngressEnabled = false
	wired.IngressEnabled, wired.WireIngress = false, true
	expired.Expired = true
	silent.PeerAPI = ""
	for _, test := range []struct {
		label   string
		node    node
		asked   string
		granted bool
		refusal string // empty: the visitor gets through
	}{
		{"open", open(), name, true, ""},
		{"other letters", open(), strings.ToUpper(name), true, ""},
		{"wired", wired, name, true, ""},
		{"other name", open(), "x." + name, true, "no node is called"},
		{"attribute lost", open(), name, false, "lost the funnel attribute"},
		{"shut", shut, name, true, "no funnel open"},
		{"expired", expired, name, true, "expired"},
		{"no peer API", silent, name, true, "not told its peer API"},
	} {
		t.Run(test.label, func(t *testing.T) {
			got, err := route([]node{test.node}, test.asked, test.granted)
			if test.refusal == "" {
				if err != nil || got.PeerAPI != "100.64.0.2:1234" {
					t.Fatalf("got %+v, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.refusal) {
				t.Fatalf("got %+v, %v; want a refusal with %q", got, err, test.refusal)
			}
		})
	}
}

func TestTheNodeHeardOfLastStandsForAName(t *testing.T) {
	left, living := open(), open()
	left.LastPoll = time.Unix(50, 0)
	living.PeerAPI = "100.64.0.9:1"
	living.LastPoll = time.Unix(200, 0)
	for _, nodes := range [][]node{{left, living}, {living, left}} {
		if got, err := route(nodes, name, true); err != nil || got.PeerAPI != "100.64.0.9:1" {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

func TestServerAddressLeavesOutTheLabsOwnNodes(t *testing.T) {
	at := func(label, address string) node {
		return node{Name: label + ".lab-tailnet.ts.net", Addresses: []netip.Addr{netip.MustParseAddr(address)}}
	}
	own := []node{at(ingressHostname, "100.64.0.1"), at(phoneHostname, "100.64.0.2")}
	if got, ok := serverAddress(own); ok {
		t.Errorf("got %v without a server", got)
	}
	if got, ok := serverAddress(append(own, at("immich", "100.64.0.3"))); !ok || got.String() != "100.64.0.3" {
		t.Errorf("got %v, %v", got, ok)
	}
}

func TestDescribe(t *testing.T) {
	record := &tailcfg.Node{
		Name:      name + ".",
		Addresses: []netip.Prefix{netip.MustParsePrefix("100.64.0.2/32"), netip.MustParsePrefix("fd7a::2/128")},
		KeyExpiry: time.Now().Add(-time.Second),
		Hostinfo: (&tailcfg.Hostinfo{
			IngressEnabled: true,
			Services:       []tailcfg.Service{{Proto: tailcfg.TCP, Port: 22}, {Proto: tailcfg.PeerAPI4, Port: 4321}},
		}).View(),
	}
	got := describe(record)
	if got.Name != name || got.PeerAPI != "100.64.0.2:4321" || !got.announced() || !got.Expired {
		t.Errorf("got %+v", got)
	}
	record.KeyExpiry = time.Time{}
	record.Hostinfo = tailcfg.HostinfoView{}
	if got := describe(record); got.Expired || got.announced() || got.PeerAPI != "" {
		t.Errorf("a node that has told nothing: got %+v", got)
	}
}

func TestGrantsBecomeCapabilities(t *testing.T) {
	for _, g := range []grants{{}, {HTTPS: true}, {Funnel: true}, {HTTPS: true, Funnel: true}} {
		m := g.capMap()
		if _, https := m[tailcfg.CapabilityHTTPS]; https != g.HTTPS {
			t.Errorf("%+v: https is %v", g, https)
		}
		if _, funnel := m[tailcfg.NodeAttrFunnel]; funnel != g.Funnel {
			t.Errorf("%+v: funnel is %v", g, funnel)
		}
	}
}

// The control server must outlive requests that testcontrol answers with a panic.
func TestUnknownControlPathsAreNotFound(t *testing.T) {
	c := &control{server: &testcontrol.Server{ExplicitBaseURL: "http://127.0.0.1"}, feature: featureText, domain: "lab-tailnet.ts.net"}
	if err := c.guardPaths(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/":                      http.StatusNotFound,
		"/machine/audit-log":     http.StatusNotFound,
		"/machine/feature/query": http.StatusOK,
		"/generate_204":          http.StatusNoContent,
		"/key?v=130":             http.StatusOK,
	} {
		answer := httptest.NewRecorder()
		c.server.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, path, strings.NewReader(`{"Feature":"funnel"}`)))
		if answer.Code != want {
			t.Errorf("%s: %d, want %d", path, answer.Code, want)
		}
	}
}

func TestFeatureQueryModes(t *testing.T) {
	c := &control{domain: "lab-tailnet.ts.net"}
	for mode, want := range map[string]string{featureText: `"URL":"https://login.`, featureWait: `"ShouldWait":true`, featureError: "switched off"} {
		if _, err := c.adminFeature(url.Values{"mode": {mode}}); err != nil {
			t.Fatal(err)
		}
		answer := httptest.NewRecorder()
		c.answerFeatureQuery(answer, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"Feature":"funnel"}`)))
		if !strings.Contains(answer.Body.String(), want) {
			t.Errorf("%s: %s", mode, answer.Body)
		}
		if (answer.Code == http.StatusOK) != (mode != featureError) {
			t.Errorf("%s: status %d", mode, answer.Code)
		}
	}
	if _, err := c.adminFeature(url.Values{"mode": {"perhaps"}}); err == nil {
		t.Error("an unknown mode was taken")
	}
}

func TestPollsAreCounted(t *testing.T) {
	c := &control{server: &testcontrol.Server{}, polls: map[key.NodePublic]*poll{}}
	nodeKey := key.NewNode().Public()
	if done := c.noteMapRequest(&tailcfg.MapRequest{NodeKey: nodeKey}); done != nil {
		t.Error("a single request counts as a long poll")
	}
	first := c.noteMapRequest(&tailcfg.MapRequest{NodeKey: nodeKey, Stream: true})
	second := c.noteMapRequest(&tailcfg.MapRequest{NodeKey: nodeKey, Stream: true})
	first()
	if got := c.polls[nodeKey]; got.streams != 1 || got.last.IsZero() {
		t.Errorf("the second long poll is open, got %+v", got)
	}
	second()
	if got := c.polls[nodeKey].streams; got != 0 {
		t.Errorf("%d long polls after the end of the last", got)
	}
}

func TestTheAdministratorsGrants(t *testing.T) {
	c := &control{server: &testcontrol.Server{}, grants: grants{HTTPS: true}}
	got, err := c.adminCaps(url.Values{"https": {"0"}, "funnel": {"1"}})
	if err != nil || got != (grants{Funnel: true}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := c.adminCaps(url.Values{"https": {"maybe"}}); err == nil {
		t.Error("a wrong value was taken")
	}
	if c.grants != (grants{Funnel: true}) {
		t.Errorf("a wrong value changed the grants to %+v", c.grants)
	}
}

func TestARenamedNodeKeepsItsNewName(t *testing.T) {
	nodeKey := key.NewNode().Public()
	c := &control{
		server: &testcontrol.Server{}, domain: "lab-tailnet.ts.net",
		polls: map[key.NodePublic]*poll{}, labels: map[key.NodePublic]string{nodeKey: "photos"},
	}
	for _, wrong := range []url.Values{{"name": {name}}, {"to": {"photos"}}, {"name": {name}, "to": {"photos.example"}}} {
		if _, err := c.adminRename(wrong); err == nil {
			t.Errorf("%v was taken", wrong)
		}
	}
	// Its certificate's name comes from here.
	info := &tailcfg.Hostinfo{Hostname: "immich"}
	c.noteMapRequest(&tailcfg.MapRequest{NodeKey: nodeKey, Hostinfo: info})
	if info.Hostname != "photos" {
		t.Errorf("it goes on as %s", info.Hostname)
	}
}

func testZone(t *testing.T) *zone {
	t.Helper()
	z, err := newZone("203.0.113.1", "2001:db8::1", "lab-tailnet.ts.net", func(n string) bool { return n == name })
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestZone(t *testing.T) {
	z := testZone(t)
	z.addText("_ACME-challenge."+name, "one")
	for _, test := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string // the only record's data; empty: no record
	}{
		{name + ".", dns.TypeA, dns.RcodeSuccess, "203.0.113.1"},
		{strings.ToUpper(name) + ".", dns.TypeA, dns.RcodeSuccess, "203.0.113.1"},
		{name + ".", dns.TypeAAAA, dns.RcodeSuccess, "2001:db8::1"},
		{name + ".", dns.TypeTXT, dns.RcodeSuccess, ""},
		{"_acme-challenge." + name + ".", dns.TypeTXT, dns.RcodeSuccess, `"one"`},
		{"_acme-challenge." + name + ".", dns.TypeA, dns.RcodeSuccess, ""},
		{"shut.lab-tailnet.ts.net.", dns.TypeA, dns.RcodeNameError, ""},
		{"lab-tailnet.ts.net.", dns.TypeA, dns.RcodeSuccess, ""},
		{"evil-lab-tailnet.ts.net.", dns.TypeA, dns.RcodeRefused, ""},
		{"example.org.", dns.TypeA, dns.RcodeRefused, ""},
	} {
		records, rcode := z.answer(dns.Question{Name: test.name, Qtype: test.qtype, Qclass: dns.ClassINET})
		if rcode != test.rcode {
			t.Errorf("%s %s: %s, want %s", test.name, dns.TypeToString[test.qtype], dns.RcodeToString[rcode], dns.RcodeToString[test.rcode])
		}
		got := ""
		for _, record := range records {
			got += strings.TrimPrefix(record.String(), record.Header().String())
		}
		if got != test.want {
			t.Errorf("%s %s: %q, want %q", test.name, dns.TypeToString[test.qtype], got, test.want)
		}
	}
}

func TestZoneKeepsTheNewestTexts(t *testing.T) {
	z := testZone(t)
	for _, value := range []string{"1", "2", "3", "4", "5"} {
		z.addText("_acme-challenge."+name, value)
	}
	if got := strings.Join(z.texts["_acme-challenge."+name+"."], ""); got != "2345" {
		t.Errorf("kept %q", got)
	}
}

func TestReadHelloKeepsEveryByte(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	sent := make(chan []byte, 1)
	go func() {
		var copyOf bytes.Buffer
		client := tls.Client(&recorder{Conn: far, written: &copyOf}, &tls.Config{ServerName: name})
		_ = client.Handshake() // fails: nobody answers
		sent <- copyOf.Bytes()
	}()
	got, hello, err := readHello(near)
	if err != nil || got != name {
		t.Fatalf("got %q, %v", got, err)
	}
	far.Close()
	if want := <-sent; !bytes.Equal(hello, want) {
		t.Errorf("passed on %d bytes of %d", len(hello), len(want))
	}
}

// recorder notes what is written to a connection.
type recorder struct {
	net.Conn
	written *bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.written.Write(p)
	return r.Conn.Write(p)
}

func TestReadHelloRefusesWhatIsNotTLSOrNamesNobody(t *testing.T) {
	for label, speak := range map[string]func(net.Conn){
		"http":    func(c net.Conn) { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+name+"\r\n\r\n") },
		"no name": func(c net.Conn) { _ = tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake() },
		"nothing": func(c net.Conn) { c.Close() },
	} {
		t.Run(label, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			go speak(far)
			if got, _, err := readHello(near); err == nil {
				t.Errorf("took it as %q", got)
			}
			far.Close()
		})
	}
}

func TestLoopbackVisitorsGetThePublicAddressOfTheIngress(t *testing.T) {
	in := &ingress{v4: netip.MustParseAddr("203.0.113.1"), v6: netip.MustParseAddr("2001:db8::1")}
	for from, want := range map[string]string{
		"203.0.113.7:5":   "203.0.113.7:5",
		"[2001:db8::7]:5": "[2001:db8::7]:5",
		"127.0.0.1:5":     "203.0.113.1:5",
		"[::1]:5":         "[2001:db8::1]:5",
	} {
		addr := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
		if got := in.publicSource(addr); got != want {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}

func TestRequestIngress(t *testing.T) {
	for label, test := range map[string]struct {
		answer string
		wanted bool
	}{
		"taken":  {"HTTP/1.1 101 Switching Protocols\r\n\r\nserver speaks first", true},
		"denied": {"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\ndenied\n", false},
		"silent": {"", false},
	} {
		t.Run(label, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			go func() {
				defer far.Close()
				request, err := http.ReadRequest(bufio.NewReader(far))
				if err != nil || request.Header.Get("Tailscale-Ingress-Src") != "203.0.113.7:9" ||
					request.Header.Get("Tailscale-Ingress-Target") != name+":443" || request.URL.Path != "/v0/ingress" {
					return // the test then sees no answer
				}
				_, _ = io.WriteString(far, test.answer)
			}()
			reader, err := requestIngress(near, "100.64.0.2:1", "203.0.113.7:9", name+":443")
			if (err == nil) != test.wanted {
				t.Fatalf("error %v", err)
			}
			if test.wanted {
				if rest, _ := io.ReadAll(reader); string(rest) != "server speaks first" {
					t.Errorf("lost bytes: %q", rest)
				}
			}
		})
	}
}

// tcpPair is a connected pair: half-closing needs real sockets.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	out, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close(); in.Close() })
	return out.(*net.TCPConn), in.(*net.TCPConn)
}

func TestSplicePassesOnAHalfClose(t *testing.T) {
	visitor, left := tcpPair(t)
	right, server := tcpPair(t)
	done := make(chan struct{})
	go func() { defer close(done); splice(left, left, right, right) }()
	_, _ = io.WriteString(visitor, "question")
	_ = visitor.CloseWrite()
	if got, err := io.ReadAll(server); err != nil || string(got) != "question" {
		t.Fatalf("the server read %q, %v", got, err)
	}
	_, _ = io.WriteString(server, "answer after the end of the question")
	server.Close()
	if got, err := io.ReadAll(visitor); err != nil || string(got) != "answer after the end of the question" {
		t.Fatalf("the visitor read %q, %v", got, err)
	}
	<-done
}

func TestSpliceEndsWhenOneSideBreaks(t *testing.T) {
	visitor, left := tcpPair(t)
	right, server := tcpPair(t)
	done := make(chan struct{})
	go func() { defer close(done); splice(left, left, right, right) }()
	_ = server.SetLinger(0)
	server.Close() // a reset
	if _, err := io.ReadAll(visitor); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	visitor.Close()
	<-done
}

func TestFinalizeAnswersNameTheOrder(t *testing.T) {
	handler := addFinalizeLocation(http.NotFoundHandler())
	for path, want := range map[string]string{"/finalize-order/abc": "https://10.213.1.1:29140/my-order/abc", "/my-order/abc": ""} {
		answer := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodPost, path, nil)
		request.Host = "10.213.1.1:29140"
		handler.ServeHTTP(answer, request)
		if got := answer.Header().Get("Location"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func TestIdentityIsTrustedForItsAddressAlone(t *testing.T) {
	id, err := newIdentity("10.213.1.1")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(id.certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.VerifyHostname("10.213.1.1"); err != nil {
		t.Error(err)
	}
	if err := leaf.VerifyHostname("10.213.1.2"); err == nil {
		t.Error("it stands for another address too")
	}
}

func TestSettings(t *testing.T) {
	s, err := parseSettings([]string{"-state", "run", "-addr", "10.1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	if s.dns != "10.1.2.3:53" || s.acmeCA != filepath.Join("run", "acme-ca.pem") || s.roots != filepath.Join("run", "roots.pem") {
		t.Errorf("defaults: %+v", s)
	}
	for want, args := range map[string][]string{
		"-state is missing":    {},
		"neither a private":    {"-state", "run", "-addr", "203.0.113.1"},
		"too short":            {"-state", "run", "-cert-validity", "1ms"},
		"flag provided but no": {"-state", "run", "-nonsense"},
	} {
		if _, err := parseSettings(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}
