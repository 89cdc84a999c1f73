package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/miekg/dns"
)

// The results of a stranger's look. The guard (server/scripts/guard.sh) acts on these words.
const (
	// healthy: refused where it must be, let in where it may be, with the right certificate.
	healthy = "healthy"
	// ailing: strangers are refused, with the right certificate, but visitors of shared links are not served.
	ailing = "ailing"
	// dead: nothing answers, or public DNS has no address for the name.
	dead = "dead"
	// unsafe: something answers that must not, or a request is answered that must not be.
	unsafe = "unsafe"
	// blind: there is no way to look from here.
	blind = "blind"
)

// publicResolvers are asked instead of the system's resolver, which on a tailnet returns the inner address of the node.
// components/remote/outside_probe.py asks the same ones.
var publicResolvers = []string{"1.1.1.1", "9.9.9.9", "8.8.8.8"}

// privatePaths must be refused. The edge does not count either as an offence (surface.toml: quiet), so that asking every few
// minutes gets nobody banned.
var privatePaths = []string{"/", "/api/users/me"}

// publicPath is what the page behind a shared link asks for first.
const publicPath = "/api/server/config"

// refusal is the edge's answer to everything it refuses (refuse.go).
const refusal = `{"status":403,"message":"Forbidden"}`

// answerTimeout applies to each step of a look; tests shorten it.
var answerTimeout = 5 * time.Second

const (
	mostPerFamily  = 3
	mostOfAnAnswer = 64 << 10
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "stranger",
		Usage: "--name <name> --certificate <file> [--port <port>] [--resolvers <addresses>]",
		Short: "Checks the exposure from outside, as a stranger does",
		Long: `
Asks public DNS for the exposure's name, connects to each address that it gives, and wants what a stranger must meet: the
certificate of --certificate, a refusal at private paths, an answer at a public one, and nothing without TLS.

Prints one line: healthy, ailing, dead, unsafe or blind, and a sentence. It changes nothing.`,
		Flags: func() *flag.FlagSet {
			flags := flag.NewFlagSet("stranger", flag.ExitOnError)
			flags.String("name", "", "the exposure's `name` in DNS")
			flags.Int("port", 443, "the public `port`")
			flags.String("certificate", "", "`file` (PEM) whose first certificate the server must show")
			flags.String("resolvers", strings.Join(publicResolvers, ","), "`addresses` of public resolvers, with commas between")
			return flags
		}(),
		Func: beStranger,
	})
}

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "certificate-end",
		Usage: "--file <file>",
		Short: "Prints when the first certificate of a PEM file ends, in seconds since 1970",
		Flags: func() *flag.FlagSet {
			flags := flag.NewFlagSet("certificate-end", flag.ExitOnError)
			flags.String("file", "", "the PEM `file`")
			return flags
		}(),
		Func: func(flags caddycmd.Flags) (int, error) {
			certificate, err := firstOf(flags.String("file"))
			if err != nil {
				return 1, err
			}
			fmt.Println(certificate.NotAfter.Unix())
			return 0, nil
		},
	})
}

func beStranger(flags caddycmd.Flags) (int, error) {
	certificate, err := firstOf(flags.String("certificate"))
	if err != nil {
		return 1, err
	}
	if flags.String("name") == "" {
		return 1, errors.New("--name is missing; give the exposure's name in DNS")
	}
	s := &stranger{
		name:      strings.TrimSuffix(flags.String("name"), "."),
		port:      flags.Int("port"),
		resolvers: strings.Split(flags.String("resolvers"), ","),
		leaf:      sha256.Sum256(certificate.Raw),
		dial:      (&net.Dialer{Timeout: answerTimeout}).DialContext,
	}
	seen := s.look(context.Background())
	fmt.Println(seen.verdict, seen.sentence)
	return 0, nil
}

// firstOf returns the first certificate in a PEM file.
func firstOf(file string) (*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the certificate that the server must show cannot be read: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s does not begin with a certificate", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

// stranger looks at one name from outside. Tests supply their own dial, which is also used for the resolvers.
type stranger struct {
	name      string
	port      int
	resolvers []string
	leaf      [sha256.Size]byte
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
}

// sight is what was seen: one of the words above, and a sentence without a full stop.
type sight struct{ verdict, sentence string }

// look takes at most half a minute: all resolvers are asked at once, and so are all addresses, each step with a timeout.
func (s *stranger) look(ctx context.Context) sight {
	addresses, answered := s.resolve(ctx)
	if answered == 0 {
		return sight{blind, fmt.Sprintf("none of the public resolvers %s answers from here", strings.Join(s.resolvers, ", "))}
	}
	if len(addresses) == 0 {
		return sight{dead, "public DNS has no address of " + s.name}
	}
	seen := make([]sight, len(addresses))
	var all sync.WaitGroup
	for i, address := range addresses {
		all.Go(func() { seen[i] = s.visit(ctx, address) })
	}
	all.Wait()
	return sum(addresses, seen)
}

// sum combines the results for several addresses. If one is unsafe, the result is unsafe. Otherwise one that is healthy is
// enough, because which of Tailscale's addresses are up is not in our hands.
func sum(addresses []netip.Addr, seen []sight) sight {
	for _, verdict := range []string{unsafe, healthy, ailing, dead} {
		count := 0
		first := -1
		for i, one := range seen {
			if one.verdict == verdict {
				count++
				if first < 0 {
					first = i
				}
			}
		}
		switch {
		case count == 0:
			continue
		case verdict == healthy:
			return sight{healthy, fmt.Sprintf("strangers are refused and shared links answer at %d of %d addresses", count, reachable(seen))}
		default:
			return sight{verdict, fmt.Sprintf("at %s %s", addresses[first], seen[first].sentence)}
		}
	}
	return sight{blind, "there is no way from here to " + strings.Join(texts(addresses), ", ")}
}

// reachable counts the addresses that can be reached from here: a home without IPv6 can reach only half of them.
func reachable(seen []sight) int {
	count := 0
	for _, one := range seen {
		if one.verdict != blind {
			count++
		}
	}
	return count
}

func texts(addresses []netip.Addr) []string {
	var all []string
	for _, address := range addresses {
		all = append(all, address.String())
	}
	return all
}

// resolve asks every resolver for the IPv4 and IPv6 addresses of the name, and returns the public ones of all answers, sorted,
// a few of each family. answered counts the answers, including those that the name does not exist.
func (s *stranger) resolve(ctx context.Context) (addresses []netip.Addr, answered int) {
	var mutex sync.Mutex
	var all sync.WaitGroup
	for _, resolver := range s.resolvers {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
			all.Go(func() {
				found, err := s.ask(ctx, resolver, kind)
				if err != nil {
					return
				}
				mutex.Lock()
				defer mutex.Unlock()
				answered++
				addresses = append(addresses, found...)
			})
		}
	}
	all.Wait()
	slices.SortFunc(addresses, netip.Addr.Compare)
	addresses = slices.Compact(addresses)
	var v4, v6 []netip.Addr
	for _, address := range addresses {
		switch {
		case !isPublic(address):
		case address.Is4():
			v4 = append(v4, address)
		default:
			v6 = append(v6, address)
		}
	}
	return append(v4[:min(len(v4), mostPerFamily)], v6[:min(len(v6), mostPerFamily)]...), answered
}

// ask sends one question to one resolver, twice by UDP and then by TCP. Only a yes or a no is an answer.
func (s *stranger) ask(ctx context.Context, resolver string, kind uint16) ([]netip.Addr, error) {
	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(s.name), kind)
	var reply *dns.Msg
	err := errors.New("not asked")
	for _, network := range []string{"udp", "udp", "tcp"} {
		reply, err = s.exchange(ctx, network, net.JoinHostPort(resolver, "53"), question)
		if err == nil && !reply.Truncated {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if reply.Rcode != dns.RcodeSuccess && reply.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("%s answers %s", resolver, dns.RcodeToString[reply.Rcode])
	}
	var found []netip.Addr
	for _, record := range reply.Answer {
		var bytes net.IP
		switch record := record.(type) {
		case *dns.A:
			bytes = record.A
		case *dns.AAAA:
			bytes = record.AAAA
		}
		if address, ok := netip.AddrFromSlice(bytes); ok {
			found = append(found, address.Unmap())
		}
	}
	return found, nil
}

func (s *stranger) exchange(ctx context.Context, network, resolver string, question *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout/2)
	defer cancel()
	conn, err := s.dial(ctx, network, resolver)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	reply, _, err := (&dns.Client{Net: network, Timeout: answerTimeout / 2}).ExchangeWithConnContext(ctx, question, &dns.Conn{Conn: conn})
	return reply, err
}

// tailnet is the range that Tailscale's nodes have (RFC 6598), which no stranger can reach.
var tailnet = netip.MustParsePrefix("100.64.0.0/10")

func isPublic(address netip.Addr) bool {
	return address.IsGlobalUnicast() && !address.IsPrivate() && !tailnet.Contains(address)
}

// visit looks at one address.
func (s *stranger) visit(ctx context.Context, address netip.Addr) sight {
	ctx, cancel := context.WithTimeout(ctx, 4*answerTimeout)
	defer cancel()
	place := net.JoinHostPort(address.String(), strconv.Itoa(s.port))
	if s.answersPlainly(ctx, place) {
		return sight{unsafe, "somebody answers without TLS"}
	}
	for _, path := range privatePaths {
		got, err := s.get(ctx, place, path)
		if err != nil {
			return withoutAnswer(err)
		}
		switch {
		case got.silent || got.status == http.StatusTooManyRequests:
		case got.status >= 500:
			return sight{ailing, fmt.Sprintf("%s answers %d", path, got.status)}
		case got.status != http.StatusForbidden || strings.TrimSpace(got.body) != refusal:
			return sight{unsafe, fmt.Sprintf("the private path %s answers %d", path, got.status)}
		}
	}
	got, err := s.get(ctx, place, publicPath)
	switch {
	case err != nil:
		return withoutAnswer(err)
	case got.silent:
		return sight{ailing, "strangers meet the right certificate and silence; this home's own address may be banned"}
	case got.status != http.StatusOK && got.status != http.StatusTooManyRequests:
		return sight{ailing, fmt.Sprintf("strangers are refused, but the public path %s answers %d", publicPath, got.status)}
	}
	return sight{verdict: healthy}
}

// errForeign: TLS ended at a server with another certificate than ours.
var errForeign = errors.New("another certificate is shown than the one of this server")

func withoutAnswer(err error) sight {
	switch {
	case errors.Is(err, errForeign):
		return sight{unsafe, errForeign.Error()}
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return sight{blind, "there is no way there from here"}
	default:
		return sight{dead, "nobody answers: " + err.Error()}
	}
}

// heard is the answer to one request; silent means that the other side took the request and hung up.
type heard struct {
	silent bool
	status int
	body   string
}

// get asks for one path, on a new connection. It trusts exactly one certificate, so no authority is involved.
func (s *stranger) get(ctx context.Context, place, path string) (heard, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	plain, err := s.dial(ctx, "tcp", place)
	if err != nil {
		return heard{}, err
	}
	defer plain.Close()
	if err := plain.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return heard{}, err
	}
	// VerifyConnection below checks more than a name: the handshake proves that the other side has this very certificate's key.
	conn := tls.Client(plain, &tls.Config{ServerName: s.name, InsecureSkipVerify: true, VerifyConnection: s.isOurs})
	if err := conn.HandshakeContext(ctx); err != nil {
		return heard{}, err
	}
	request, err := http.NewRequest(http.MethodGet, "https://"+s.name+path, nil)
	if err != nil {
		return heard{}, err
	}
	if s.port != 443 {
		request.Host = net.JoinHostPort(s.name, strconv.Itoa(s.port))
	}
	request.Header.Set("User-Agent", "immich-exposure-guard")
	request.Close = true
	if err := request.Write(conn); err != nil {
		return heard{}, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		// A timeout is not a hang-up.
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return heard{silent: true}, nil
		}
		return heard{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, mostOfAnAnswer))
	if err != nil && response.StatusCode == http.StatusForbidden {
		return heard{}, err
	}
	return heard{status: response.StatusCode, body: string(body)}, nil
}

// isOurs is a VerifyConnection function for tls.Config.
func (s *stranger) isOurs(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 || fingerprint(state.PeerCertificates[0]) != s.leaf {
		return errForeign
	}
	return nil
}

// tlsOnly is what Go's own server, and so Caddy, answers to a request without TLS.
var tlsOnly = []byte("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.")

// answersPlainly reports whether a request without TLS gets any answer other than that refusal.
func (s *stranger) answersPlainly(ctx context.Context, place string) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	conn, err := s.dial(ctx, "tcp", place)
	if err != nil {
		return false
	}
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(answerTimeout)) != nil {
		return false
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", privatePaths[1], s.name); err != nil {
		return false
	}
	start := make([]byte, len(tlsOnly))
	count, _ := io.ReadFull(conn, start)
	return bytes.HasPrefix(start[:count], []byte("HTTP/")) && !bytes.Equal(start[:count], tlsOnly)
}
