package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
)

// startWindow serves the inherited listening socket of -window-fd. The socket was opened in another network
// namespace, so it accepts there, while everything that this process dials stays in its own: the only way from
// the operator's machine into the lab's internet, and none back.
func startWindow(s *settings, parts *parts) error {
	file := os.NewFile(uintptr(s.windowFD), "window")
	if file == nil {
		return fmt.Errorf("-window-fd %d is not an open file", s.windowFD)
	}
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("-window-fd %d is not a listening socket: %w", s.windowFD, err)
	}
	file.Close() // the listener has a copy of its own
	from := net.ParseIP(s.windowFrom)
	if from == nil {
		return fmt.Errorf("-window-from %q is not an address", s.windowFrom)
	}
	_, port, err := splitPort(s.ingress)
	if err != nil {
		return fmt.Errorf("-ingress: %w", err)
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: dialTimeout}
	target := net.JoinHostPort(s.ingressV4, strconv.Itoa(port))
	parts.run("the window", func() error {
		return acceptAll(listener, func(visitor net.Conn) { relay(dialer, target, visitor) })
	})
	return nil
}

// relay forwards one visitor to target.
func relay(dialer *net.Dialer, target string, visitor net.Conn) {
	defer visitor.Close()
	out, err := dialer.Dial("tcp", target)
	if err != nil {
		log.Printf("window: %v", err)
		return
	}
	defer out.Close()
	splice(visitor, visitor, out, out)
}
