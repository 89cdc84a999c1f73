// Command lab-internet is the lab's stand-in for the internet. One process holds all that a server with a
// Tailscale funnel needs from outside: Tailscale's control server with a DERP relay and STUN, the funnel
// ingress, a certificate authority that speaks ACME, public DNS for the node's name, and the operator's window
// to the ingress. Run it in a network namespace without any route to the outside.
//
// # Configuration of the server
//
// With the default ports and -addr 10.213.1.1 the daemon on the server runs as
//
//	SSL_CERT_FILE=<the file of -acme-ca> TS_DEBUG_ACME_DIRECTORY_URL=https://10.213.1.1:29140/dir \
//	  tailscaled --statedir=/var/lib/tailscale --state=/var/lib/tailscale/tailscaled.state --port=0 --no-logs-no-support
//
// and joins with any authentication key:
//
//	tailscale up --login-server=http://10.213.1.1:29080 --auth-key=tskey-auth-lab --hostname=immich \
//	  --accept-dns=false --netfilter-mode=off --timeout=30s
//
// Nodes are kept in memory: if this program is restarted, tailscaled's state folder has to be emptied too.
//
// # Requirements of its own namespace
//
// The address of -addr on an interface that is up, and the visitors' networks as local routes, so that visitors
// and the ingress may use any address of them:
//
//	ip route add local 203.0.113.0/24 dev lo
//	ip -6 route add local 2001:db8::/32 dev lo
//	sysctl -w net.ipv6.ip_nonlocal_bind=1
//
// With -die-with-parent the process ends as soon as the thread that started it ends (PR_SET_PDEATHSIG of
// prctl(2) counts threads, not processes): start it from a thread that stays.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"tailscale.com/envknob"
)

// settings is the command line. Ports that a server dials are on addr.
type settings struct {
	addr          string // RFC 1918 address of control, DERP, STUN and ACME
	controlPort   int
	derpPort      int
	stunPort      int
	acmePort      int
	dns           string // host:port, UDP and TCP
	admin         string // host:port
	ingress       string // host:port
	ingressV4     string // what DNS answers for an announced name
	ingressV6     string
	domain        string // the tailnet's DNS name
	state         string // folder
	acmeCA        string // file, PEM: the signer of the ACME server's own certificate
	roots         string // file, PEM: the signer of the certificates it issues
	certValidity  time.Duration
	windowFD      int
	windowFrom    string
	phone         string
	readyFile     string
	dieWithParent bool
}

func main() {
	// PR_SET_PDEATHSIG belongs to a thread; the main thread is the one that Go never ends.
	runtime.LockOSThread()
	log.SetFlags(log.Ldate | log.Ltime | log.Lmicroseconds)
	s, err := parseSettings(os.Args[1:])
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(0)
		}
		log.Print(err)
		os.Exit(2)
	}
	if s.dieWithParent {
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
			log.Fatalf("The kernel refused to tie this process to its parent: %v.", err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, s); err != nil {
		log.Fatal(err)
	}
}

// parseSettings reads the command line into settings and checks what can be checked without a network.
func parseSettings(args []string) (*settings, error) {
	s := &settings{}
	// A separate flag set, because the packages below register test flags in the default one.
	f := flag.NewFlagSet("lab-internet", flag.ContinueOnError)
	f.StringVar(&s.addr, "addr", "10.213.1.1", "`address` of control, DERP, STUN and ACME; must be private or loopback")
	f.IntVar(&s.controlPort, "control-port", 29080, "TCP port of the control server (http)")
	f.IntVar(&s.derpPort, "derp-port", 29443, "TCP port of the DERP relay (https)")
	f.IntVar(&s.stunPort, "stun-port", 3478, "UDP port of STUN")
	f.IntVar(&s.acmePort, "acme-port", 29140, "TCP port of the ACME server (https)")
	f.StringVar(&s.dns, "dns", "", "`host:port` of the DNS server, UDP and TCP (default: the address of -addr, port 53)")
	f.StringVar(&s.admin, "admin", "127.0.0.1:29081", "`host:port` of the admin interface (http)")
	f.StringVar(&s.ingress, "ingress", "[::]:443", "`host:port` of the funnel ingress")
	f.StringVar(&s.ingressV4, "ingress-v4", "203.0.113.1", "public IPv4 `address` of the ingress, for DNS and the window")
	f.StringVar(&s.ingressV6, "ingress-v6", "2001:db8::1", "public IPv6 `address` of the ingress, for DNS")
	f.StringVar(&s.domain, "domain", "lab-tailnet.ts.net", "DNS `name` of the tailnet")
	f.StringVar(&s.state, "state", "", "`folder` for state and logs (required; emptied by the caller)")
	f.StringVar(&s.acmeCA, "acme-ca", "", "`file` to write: PEM of the ACME server's own authority (default: acme-ca.pem in -state)")
	f.StringVar(&s.roots, "roots", "", "`file` to write: PEM of the root that issued certificates chain to (default: roots.pem in -state)")
	f.DurationVar(&s.certValidity, "cert-validity", 2160*time.Hour, "life of an issued certificate")
	f.IntVar(&s.windowFD, "window-fd", -1, "`number` of an inherited listening TCP socket whose visitors are led to the ingress")
	f.StringVar(&s.windowFrom, "window-from", "203.0.113.250", "`address` that visitors through the window come from")
	f.StringVar(&s.phone, "phone", "", "`host:port` whose visitors come to port 443 of the server from inside the tailnet (default: none)")
	f.StringVar(&s.readyFile, "ready-file", "", "`file` to write when everything listens")
	f.BoolVar(&s.dieWithParent, "die-with-parent", false, "end when the thread that started this process ends")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	return s, s.complete()
}

// complete fills defaults that depend on other settings and refuses what cannot work.
func (s *settings) complete() error {
	if s.state == "" {
		return errors.New("-state is missing: name a folder for state and logs, for example -state run/internet")
	}
	ip := net.ParseIP(s.addr)
	if ip == nil || !(ip.IsPrivate() || ip.IsLoopback()) {
		// Tailscale's client insists on HTTPS at port 443 for any other control server.
		return fmt.Errorf("-addr %q is neither a private nor a loopback address: tailscaled would not talk to it without TLS; take one of 10.0.0.0/8", s.addr)
	}
	if s.certValidity < time.Second {
		return fmt.Errorf("-cert-validity %v is too short: one second is the least", s.certValidity)
	}
	if s.dns == "" {
		s.dns = net.JoinHostPort(s.addr, "53")
	}
	if s.acmeCA == "" {
		s.acmeCA = filepath.Join(s.state, "acme-ca.pem")
	}
	if s.roots == "" {
		s.roots = filepath.Join(s.state, "roots.pem")
	}
	return nil
}

// run starts every part and stays until ctx ends (nil) or a part fails (its error).
func run(ctx context.Context, s *settings) error {
	// Before anything of Tailscale runs: nothing may try to upload logs.
	envknob.SetNoLogsNoSupport()
	if err := os.MkdirAll(s.state, 0o700); err != nil {
		return fmt.Errorf("the state folder cannot be made: %w", err)
	}
	parts := newParts()
	lab, err := start(ctx, s, parts)
	if err != nil {
		return err
	}
	defer lab.close()
	if err := announceReady(s.readyFile); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		log.Print("asked to end")
		return nil
	case err := <-parts.failed:
		return err
	}
}

// internet holds what has to be shut down in order.
type internet struct{ nodes []*tailnetNode }

// start brings up the parts in dependency order.
func start(ctx context.Context, s *settings, parts *parts) (*internet, error) {
	identity, err := newIdentity(s.addr)
	if err != nil {
		return nil, err
	}
	derpMap, err := startDERP(s, identity, parts)
	if err != nil {
		return nil, err
	}
	ctl, err := startControl(s, derpMap, parts)
	if err != nil {
		return nil, err
	}
	if err := startDNS(s, ctl.zone, parts); err != nil {
		return nil, err
	}
	if err := startACME(s, identity, parts); err != nil {
		return nil, err
	}
	lab := &internet{}
	if err := lab.startVisitors(ctx, s, ctl, parts); err != nil {
		lab.close()
		return nil, err
	}
	return lab, startAdmin(s, ctl, parts)
}

// startVisitors opens the entrances: the ingress, the operator's window, the phone.
func (lab *internet) startVisitors(ctx context.Context, s *settings, ctl *control, parts *parts) error {
	node, err := joinTailnet(ctx, s, ctl, ingressHostname)
	if err != nil {
		return err
	}
	lab.nodes = append(lab.nodes, node)
	// Other nodes see it as they see Tailscale's own ingress nodes: it may reach their peer API and nothing else.
	ctl.server.SetUnsignedPeerAPIOnly(node.key, true)
	if err := startIngress(s, ctl, node, parts); err != nil {
		return err
	}
	if s.windowFD >= 0 {
		if err := startWindow(s, parts); err != nil {
			return err
		}
	}
	if s.phone == "" {
		return nil
	}
	phone, err := joinTailnet(ctx, s, ctl, phoneHostname)
	if err != nil {
		return err
	}
	lab.nodes = append(lab.nodes, phone)
	return startPhone(s, ctl, phone, parts)
}

// close leaves the tailnet, within two seconds at most, because the process that ends this one is waiting.
func (lab *internet) close() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, node := range lab.nodes {
			node.Close()
		}
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		log.Print("a tailnet node did not end within two seconds")
	}
}

// parts collects the first failure of the servers that run concurrently.
type parts struct{ failed chan error }

func newParts() *parts { return &parts{failed: make(chan error, 1)} }

// run starts serve in the background. A server of the lab never ends on its own, so any return is a failure.
func (p *parts) run(name string, serve func() error) {
	go func() {
		err := fmt.Errorf("%s has ended: %w", name, serve())
		select {
		case p.failed <- err:
		default:
		}
	}()
}

// serveHTTP runs an HTTP server on an open listener.
func (p *parts) serveHTTP(name string, listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	p.run(name, func() error { return server.Serve(listener) })
}

// announceReady prints the line "ready" and, if a file is named, writes it there.
func announceReady(file string) error {
	if file != "" {
		if err := writeFile(file, []byte("ready\n")); err != nil {
			return err
		}
	}
	_, err := fmt.Println("ready")
	return err
}

// writeFile writes data atomically (temporary file, then rename), world-readable.
func writeFile(path string, data []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// logFile opens a separate log in the state folder for a verbose part.
func logFile(state, name string) (*log.Logger, error) {
	file, err := os.OpenFile(filepath.Join(state, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return log.New(file, "", log.Ldate|log.Ltime|log.Lmicroseconds), nil
}
