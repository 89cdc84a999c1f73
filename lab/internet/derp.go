package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// startDERP runs the lab's only relay and its STUN responder, and returns the map that names them.
func startDERP(s *settings, identity *identity, parts *parts) (*tailcfg.DERPMap, error) {
	derpLog, err := logFile(s.state, "derp.log")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(s.addr, strconv.Itoa(s.derpPort)))
	if err != nil {
		return nil, fmt.Errorf("the DERP relay cannot listen: %w", err)
	}
	relay := derpserver.New(key.NewNode(), derpLog.Printf)
	server := &http.Server{
		Handler:           derpserver.Handler(relay),
		ErrorLog:          derpLog,
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{identity.certificate}},
		// A relay connection is an HTTP/1.1 upgrade: never let it become HTTP/2.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	parts.run("the DERP relay", func() error { return server.ServeTLS(listener, "", "") })
	if err := startSTUN(s, parts); err != nil {
		return nil, err
	}
	return derpMap(s), nil
}

// derpMap describes one region with one node. OmitDefaultRegions says that there is nothing else.
func derpMap(s *settings) *tailcfg.DERPMap {
	relay := &tailcfg.DERPNode{
		Name: "lab1", RegionID: 1, HostName: s.addr, IPv4: s.addr, IPv6: "none",
		DERPPort: s.derpPort, STUNPort: s.stunPort, STUNTestIP: s.addr,
		InsecureForTests: true, // its certificate is self-signed
	}
	return &tailcfg.DERPMap{
		OmitDefaultRegions: true,
		Regions: map[int]*tailcfg.DERPRegion{
			1: {RegionID: 1, RegionCode: "lab", RegionName: "Lab", Nodes: []*tailcfg.DERPNode{relay}},
		},
	}
}

// startSTUN tells clients the address they are seen from (RFC 8489 binding requests).
func startSTUN(s *settings, parts *parts) error {
	conn, err := net.ListenPacket("udp", net.JoinHostPort(s.addr, strconv.Itoa(s.stunPort)))
	if err != nil {
		return fmt.Errorf("STUN cannot listen: %w", err)
	}
	parts.run("STUN", func() error { return answerSTUN(conn.(*net.UDPConn)) })
	return nil
}

func answerSTUN(conn *net.UDPConn) error {
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return err
		}
		id, err := stun.ParseBindingRequest(buffer[:n])
		if err != nil {
			continue // not STUN
		}
		seen := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		// A client repeats its request if the answer is lost.
		_, _ = conn.WriteToUDPAddrPort(stun.Response(id, seen), from)
	}
}
