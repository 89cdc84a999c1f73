package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// keptTexts is how many TXT values a name keeps: all of them must fit into one UDP answer of 512 bytes.
const keptTexts = 4

// zone is the public DNS of the lab: the tailnet's domain and nothing else.
type zone struct {
	v4, v6    netip.Addr // of the ingress
	domain    string     // lower case, with the last dot
	announced func(name string) bool

	mu    sync.Mutex
	texts map[string][]string // by lower-case name with the last dot
}

// newZone creates the zone of domain. announced says whether a name (without the last dot) leads to the ingress.
func newZone(v4, v6, domain string, announced func(name string) bool) (*zone, error) {
	z := &zone{domain: dns.CanonicalName(domain), announced: announced, texts: map[string][]string{}}
	var err error
	if z.v4, err = netip.ParseAddr(v4); err != nil {
		return nil, fmt.Errorf("-ingress-v4: %w", err)
	}
	if z.v6, err = netip.ParseAddr(v6); err != nil {
		return nil, fmt.Errorf("-ingress-v6: %w", err)
	}
	return z, nil
}

// startDNS answers for the zone on UDP and TCP.
func startDNS(s *settings, z *zone, parts *parts) error {
	packets, err := net.ListenPacket("udp", s.dns)
	if err != nil {
		return fmt.Errorf("DNS cannot listen: %w", err)
	}
	listener, err := net.Listen("tcp", s.dns)
	if err != nil {
		return fmt.Errorf("DNS cannot listen: %w", err)
	}
	parts.run("DNS over UDP", (&dns.Server{PacketConn: packets, Handler: z}).ActivateAndServe)
	parts.run("DNS over TCP", (&dns.Server{Listener: listener, Handler: z}).ActivateAndServe)
	return nil
}

// addText publishes one more TXT value; if there are too many, the oldest is dropped.
func (z *zone) addText(name, value string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	name = dns.CanonicalName(name)
	values := append(z.texts[name], value)
	z.texts[name] = values[max(0, len(values)-keptTexts):]
}

// ServeDNS implements dns.Handler.
func (z *zone) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg).SetReply(query)
	reply.Authoritative = true
	if len(query.Question) == 1 {
		reply.Answer, reply.Rcode = z.answer(query.Question[0])
	} else {
		reply.Rcode = dns.RcodeFormatError
	}
	// A client repeats its request if the answer is lost.
	_ = w.WriteMsg(reply)
}

// answer returns the records and the result code for one question. A name outside the zone is refused: there is
// no other server to ask in the lab.
func (z *zone) answer(q dns.Question) (records []dns.RR, rcode int) {
	name := dns.CanonicalName(q.Name)
	if !dns.IsSubDomain(z.domain, name) {
		return nil, dns.RcodeRefused
	}
	z.mu.Lock()
	texts := z.texts[name]
	z.mu.Unlock()
	announced := z.announced(strings.TrimSuffix(name, "."))
	if !announced && len(texts) == 0 && name != z.domain {
		return nil, dns.RcodeNameError
	}
	head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 1}
	switch {
	case q.Qtype == dns.TypeA && announced:
		records = append(records, &dns.A{Hdr: head, A: z.v4.AsSlice()})
	case q.Qtype == dns.TypeAAAA && announced:
		records = append(records, &dns.AAAA{Hdr: head, AAAA: z.v6.AsSlice()})
	case q.Qtype == dns.TypeTXT:
		for _, text := range texts {
			records = append(records, &dns.TXT{Hdr: head, Txt: []string{text}})
		}
	}
	return records, dns.RcodeSuccess
}
