package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"tailscale.com/tsnet"
	"tailscale.com/types/key"
)

// Names of the lab's own members of the tailnet.
const (
	ingressHostname = "funnel-ingress"
	phoneHostname   = "phone"
)

// tailnetNode is a member of the tailnet inside this process.
type tailnetNode struct {
	*tsnet.Server
	key key.NodePublic
}

// joinTailnet logs in a node and waits until it runs, for half a minute at most.
func joinTailnet(ctx context.Context, s *settings, ctl *control, hostname string) (*tailnetNode, error) {
	nodeLog, err := logFile(s.state, hostname+".log")
	if err != nil {
		return nil, err
	}
	node := &tsnet.Server{
		Dir:        filepath.Join(s.state, hostname),
		Hostname:   hostname,
		ControlURL: ctl.server.BaseURL(),
		AuthKey:    "tskey-auth-lab", // every key is accepted here
		Logf:       nodeLog.Printf,
		UserLogf:   nodeLog.Printf,
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	status, err := node.Up(ctx)
	if err != nil {
		node.Close()
		return nil, fmt.Errorf("%s cannot join the tailnet (is an interface with an address up?): %w", hostname, err)
	}
	return &tailnetNode{Server: node, key: status.Self.PublicKey}, nil
}

// startPhone forwards connections to the address of -phone to port 443 of the funnel's node, from inside the tailnet.
func startPhone(s *settings, ctl *control, phone *tailnetNode, parts *parts) error {
	listener, err := net.Listen("tcp", s.phone)
	if err != nil {
		return fmt.Errorf("the phone cannot listen: %w", err)
	}
	parts.run("the phone", func() error {
		return acceptAll(listener, func(visitor net.Conn) { relayPhone(ctl, phone, visitor) })
	})
	return nil
}

func relayPhone(ctl *control, phone *tailnetNode, visitor net.Conn) {
	defer visitor.Close()
	server, ok := serverAddress(ctl.nodes())
	if !ok {
		log.Print("phone: no server in the tailnet")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	out, err := phone.Dial(ctx, "tcp", netip.AddrPortFrom(server, 443).String())
	if err != nil {
		log.Printf("phone: %v", err)
		return
	}
	defer out.Close()
	splice(visitor, visitor, out, out)
}

// serverAddress is the tailnet address of the node that is not one of the lab's own; if there are several, of the one seen last.
func serverAddress(nodes []node) (address netip.Addr, ok bool) {
	var last time.Time
	for _, n := range nodes {
		label, _, _ := strings.Cut(n.Name, ".")
		if label == ingressHostname || label == phoneHostname || len(n.Addresses) == 0 {
			continue
		}
		if !ok || n.LastPoll.After(last) {
			address, last, ok = n.Addresses[0], n.LastPoll, true
		}
	}
	return address, ok
}
