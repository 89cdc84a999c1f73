package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func contextOver(connection *countedConnection) context.Context {
	return context.WithValue(contextWithVars(), connectionKey{}, connection)
}

// issued returns a self-signed client certificate.
func issued(t *testing.T, subject pkix.Name) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// enrolledFor returns a matcher whose authority has issued the certificate, and the path of the certificate's file, which is
// enrolled.
func enrolledFor(t *testing.T, leaf *x509.Certificate) (*Enrolled, string) {
	t.Helper()
	folder := t.TempDir()
	file := filepath.Join(folder, shownOver(nil, leaf).name)
	authorityFile := filepath.Join(t.TempDir(), "ca.crt")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	if err := os.WriteFile(authorityFile, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("phone\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	devices := &Enrolled{Folder: folder, authority: &authority{path: authorityFile}}
	return devices, file
}

func TestADeviceIsOutAtItsNextRequestOverTheSameConnection(t *testing.T) {
	leaf := issued(t, pkix.Name{CommonName: "phone"})
	devices, file := enrolledFor(t, leaf)
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	over := &countedConnection{done: make(chan struct{})}
	is := func(what string, wanted bool) {
		t.Helper()
		for range 2 {
			if enrolled, err := devices.accepts(state, over); err != nil || enrolled != wanted {
				t.Errorf("%s: %v, %v", what, enrolled, err)
			}
		}
	}
	is("enrolled", true)
	_ = os.Remove(file)
	is("revoked", false)
	_ = os.WriteFile(file, []byte("phone\n"), 0o644)
	is("enrolled again", true)
	_ = os.Remove(file)
	_ = os.Mkdir(file, 0o755)
	is("a folder", false)
	_ = os.Remove(file)
	_ = os.WriteFile(file+"x", []byte("phone\n"), 0o644)
	_ = os.Symlink(file+"x", file)
	is("a link", false)
	if os.Geteuid() != 0 { // root is not subject to file modes
		_ = os.Remove(file)
		_ = os.WriteFile(file, []byte("phone\n"), 0o644)
		is("once more", true)
		_ = os.Chmod(file, 0)
		is("unreadable", false)
	}
}

func TestWhatMayBeReadIsLookedAtAgainWhenItHasChanged(t *testing.T) {
	leaf := issued(t, pkix.Name{CommonName: "phone"})
	_, file := enrolledFor(t, leaf)
	shown := shownOver(nil, leaf)
	if !shown.hasReadableFile(file) {
		t.Fatal("a file that is there")
	}
	seen := *shown.file.Load()
	if err := os.Chmod(file, 0); err != nil {
		t.Fatal(err)
	}
	if readable := shown.hasReadableFile(file); readable != (os.Geteuid() == 0) {
		t.Errorf("readable by nobody: %v", readable)
	}
	_ = os.Chmod(file, 0o644) // as it was, except for the time of the change
	if !shown.hasReadableFile(file) || isSameFile(&seen, shown.file.Load()) {
		t.Error("who may read it was not asked again")
	}
}

func TestACertificateWithoutSubjectIsNoDevice(t *testing.T) {
	leaf := issued(t, pkix.Name{})
	devices, _ := enrolledFor(t, leaf)
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if enrolled, err := devices.accepts(state, nil); err != nil || enrolled {
		t.Errorf("%v, %v", enrolled, err)
	}
}

func TestWhatIsKnownOfAConnectionIsOfItsOwnCertificate(t *testing.T) {
	over := &countedConnection{done: make(chan struct{})}
	one, other := issued(t, pkix.Name{CommonName: "one"}), issued(t, pkix.Name{CommonName: "other"})
	if shownOver(over, one) != shownOver(over, one) || shownOver(over, other).print != fingerprint(other) || shownOver(over, one).print != fingerprint(one) {
		t.Error("a certificate is taken for another, or looked at twice")
	}
}

func TestAConnectionEndsWhenItsDeviceIsRevoked(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	over := &countedConnection{Conn: near, done: make(chan struct{})}
	leaf := issued(t, pkix.Name{CommonName: "phone"})
	devices, file := enrolledFor(t, leaf)
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	look := func() (bool, error) { return devices.accepts(state, over) }
	over.endUnless(look, 5*time.Millisecond)
	over.endUnless(func() (bool, error) { return false, nil }, time.Nanosecond) // it is being watched
	select {
	case <-over.done:
		t.Fatal("it ended though its device is in")
	case <-time.After(50 * time.Millisecond):
	}
	_ = os.Remove(file)
	select {
	case <-over.done:
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
}
