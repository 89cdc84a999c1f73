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

// authority knows the certificates of a file and checks others against them. The file is read again when it has changed,
// so that a new authority counts from the next request on, and one that was taken away no more.
//
// The handshake does not check certificates: it would do so for whatever chain a stranger makes up, at the price of
// hundreds of milliseconds (and refuse one whose certificate has ended, who may still open shared links). Here only
// a certificate arrives that is enrolled and whose key the client has.
type authority struct {
	path string

	mutex   sync.Mutex
	seen    syscall.Stat_t
	roots   *x509.CertPool
	checked map[[sha256.Size]byte]bool
}

// maxIntermediates is how many of the certificates that a client sends along may lead up to the authority.
const maxIntermediates = 3

// accepts tells whether the authority has issued a certificate for clients, and it holds now. `chain` is what the client
// has shown, its own first, whose fingerprint `name` is. An authority that cannot be read is an error (503): nobody knows who is a device then.
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
		a.checked[name] = true // as long as the file is the same; the dates are looked at each time
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

// refresh reads the file if it is not the one that was read last.
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
