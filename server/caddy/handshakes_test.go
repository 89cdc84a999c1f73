package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

// certificate returns a self-signed certificate of about `size` bytes.
func certificate(t *testing.T, size int) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"x"},
		ExtraExtensions: []pkix.Extension{{Id: []int{1, 2, 3, 4}, Value: bytes.Repeat([]byte{5}, size)}},
	}
	made, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{made}, PrivateKey: key}
}

// listen returns a listener that combines the two wrappers as Caddy does.
func listen(t *testing.T) net.Listener {
	t.Helper()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t, 1)}, ClientAuth: tls.RequestClientCert}
	early := EarlyHandshakes{}.WrapListener(tls.NewListener(BoundedHandshakes{}.WrapListener(plain), config))
	t.Cleanup(func() { early.Close() })
	return early
}

// say connects with a certificate, sends a text and returns the answer.
func say(t *testing.T, to net.Listener, shown tls.Certificate, text []byte, version uint16) ([]byte, error) {
	t.Helper()
	client, err := tls.Dial("tcp", to.Addr().String(), &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{shown}, MaxVersion: version, MinVersion: version,
	})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if _, err := client.Write(text); err != nil {
		return nil, err
	}
	if err := client.CloseWrite(); err != nil {
		return nil, err
	}
	return io.ReadAll(client)
}

func TestAHandshakeHasItsBound(t *testing.T) {
	listener := listen(t)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(connection, connection)
				_ = connection.Close()
			}()
		}
	}()
	idle, err := net.Dial("tcp", listener.Addr().String()) // never served, and must not block others
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	text := bytes.Repeat([]byte("x"), 10*handshakeBytes)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, size := range []int{1, handshakeBytes / 2} {
			if back, err := say(t, listener, certificate(t, size), text, version); err != nil || !bytes.Equal(back, text) {
				t.Errorf("%d bytes of certificate: %d bytes back, %v", size, len(back), err)
			}
		}
		for _, size := range []int{handshakeBytes, 10 * handshakeBytes} {
			if back, err := say(t, listener, certificate(t, size), text, version); err == nil {
				t.Errorf("%d bytes of certificate: taken, %d bytes back", size, len(back))
			}
		}
	}
}

func TestAClosedListenerAcceptsNobody(t *testing.T) {
	listener := listen(t)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v", err)
		}
	}
}

// busy is a listener that once has too many open files.
type busy struct {
	net.Listener
	times int
}

type tooManyFiles struct{ error }

func (tooManyFiles) Temporary() bool { return true }
func (tooManyFiles) Timeout() bool   { return false }

func (b *busy) Accept() (net.Conn, error) {
	if b.times++; b.times == 1 {
		return nil, tooManyFiles{errors.New("too many open files")}
	}
	return b.Listener.Accept()
}

func TestWhatPassesEndsNothing(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	early := EarlyHandshakes{}.WrapListener(&busy{Listener: plain})
	defer early.Close()
	client, err := net.Dial("tcp", plain.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := early.Accept(); err != nil {
		t.Error(err)
	}
}
