package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// authority reads certificates from a file and checks client certificates against them. It reads the file again when it has
// changed, so an authority that was added or removed takes effect from the next request on.
//
// The handshake does not check certificates: it would verify any chain that a stranger makes up, at a cost of hundreds of
// milliseconds, and it would refuse clients with an expired certificate, who may still open shared links. Only certificates
// that are enrolled, and whose key the client holds, get this far.
type authority struct {
	path string

	mutex   sync.Mutex
	seen    syscall.Stat_t
	roots   *x509.CertPool
	checked map[[sha256.Size]byte]bool
}

// maxIntermediates is how many of the certificates that a client sends along may form the chain to the authority.
const maxIntermediates = 3

// accepts reports whether the authority has issued the certificate for clients and the certificate is valid now. `chain` is
// what the client presented, its own certificate first; `name` is the fingerprint of that one. An authority that cannot be read
// is an error (503), because then nobody can tell who is a device.
func (a *authority) accepts(chain []*x509.Certificate, name [sha256.Size]byte, now time.Time) (bool, error) {
	leaf := chain[0]
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return false, nil
	}
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if err := a.refresh(); err != nil {
		return false, caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	if !a.checked[name] && a.leadsTo(chain, now) {
		a.checked[name] = true // valid while the file stays the same; the dates are checked every time
	}
	return a.checked[name], nil
}

func (a *authority) leadsTo(chain []*x509.Certificate, now time.Time) bool {
	options := x509.VerifyOptions{
		Roots:         a.roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, each := range chain[1:min(len(chain), 1+maxIntermediates)] {
		options.Intermediates.AddCert(each)
	}
	_, err := chain[0].Verify(options)
	return err == nil
}

// refresh reads the file if it has changed since it was last read.
func (a *authority) refresh() error {
	var now syscall.Stat_t
	if err := syscall.Stat(a.path, &now); err != nil {
		return fmt.Errorf("%s: %w", a.path, err)
	}
	if a.roots != nil && isSameFile(&a.seen, &now) {
		return nil
	}
	text, err := os.ReadFile(a.path)
	if err != nil {
		return err
	}
	roots, err := certificatesIn(text)
	if err != nil {
		return fmt.Errorf("%s: %w", a.path, err)
	}
	a.seen, a.roots, a.checked = now, roots, map[[sha256.Size]byte]bool{}
	return nil
}

func certificatesIn(text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return pool, nil
		}
		found, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(found)
	}
}
