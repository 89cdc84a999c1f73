package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

// identity is the self-signed certificate of the lab's own HTTPS endpoints (ACME, DERP).
type identity struct {
	certificate tls.Certificate
	pem         []byte // the certificate alone; also the authority to trust
}

// newIdentity creates a P-256 certificate for an IP address, valid for ten years.
func newIdentity(addr string) (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: "Lab internet"},
		IPAddresses:           []net.IP{net.ParseIP(addr)},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &identity{
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem:         pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

// startACME runs Pebble, writes the two trust files, and validates names through the lab's DNS and ingress.
func startACME(s *settings, identity *identity, parts *parts) error {
	handler, roots, err := newPebble(s)
	if err != nil {
		return err
	}
	if err := writeFile(s.acmeCA, identity.pem); err != nil {
		return fmt.Errorf("the ACME server's authority cannot be written: %w", err)
	}
	if err := writeFile(s.roots, roots); err != nil {
		return fmt.Errorf("the ACME roots cannot be written: %w", err)
	}
	listener, err := tls.Listen("tcp", net.JoinHostPort(s.addr, strconv.Itoa(s.acmePort)),
		&tls.Config{Certificates: []tls.Certificate{identity.certificate}})
	if err != nil {
		return fmt.Errorf("the ACME server cannot listen: %w", err)
	}
	parts.serveHTTP("the ACME server", listener, handler)
	return nil
}

// newPebble builds the ACME server; roots is the PEM of the root its certificates chain to.
func newPebble(s *settings) (handler http.Handler, roots []byte, err error) {
	acmeLog, err := logFile(s.state, "acme.log")
	if err != nil {
		return nil, nil, err
	}
	if err := tamePebble(); err != nil {
		return nil, nil, err
	}
	_, tlsPort, err := splitPort(s.ingress)
	if err != nil {
		return nil, nil, err
	}
	store := db.NewMemoryStore()
	authority := ca.New(acmeLog, store, "", "ecdsa", 0, 1, map[string]ca.Profile{
		"default": {Description: "certificates of the lab", ValidityPeriod: uint64(s.certValidity / time.Second)},
	})
	// The tls-alpn-01 challenge is tried at the ingress, as Let's Encrypt does; tailscaled then falls back to dns-01.
	validator := va.New(acmeLog, 80, tlsPort, false, s.dns, store)
	front := wfe.New(acmeLog, store, validator, authority, []string{"ca." + s.domain}, false, false, 0, 0)
	root := authority.GetRootCert(0)
	if root == nil {
		return nil, nil, errors.New("the ACME server has made no root certificate")
	}
	return addFinalizeLocation(front.Handler()), root.PEM(), nil
}

// tamePebble switches off Pebble's deliberate misbehaviour that Tailscale's ACME client cannot handle:
// re-used authorisations, rejected nonces, random pauses. Pebble reads these from the environment only.
func tamePebble() error {
	for name, value := range map[string]string{
		"PEBBLE_AUTHZREUSE":      "0",
		"PEBBLE_WFE_NONCEREJECT": "0",
		"PEBBLE_VA_NOSLEEP":      "1",
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}

// addFinalizeLocation adds the order's address to the answer of a finalize request. RFC 8555 does not require it,
// Let's Encrypt sends it, Pebble does not, and golang.org/x/crypto/acme cannot continue without it.
func addFinalizeLocation(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if order, ok := strings.CutPrefix(r.URL.Path, "/finalize-order/"); ok {
			w.Header().Set("Location", "https://"+r.Host+"/my-order/"+order)
		}
		next.ServeHTTP(w, r)
	})
}

// splitPort splits host:port, with the port as a number.
func splitPort(hostPort string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(hostPort)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	return host, port, err
}
