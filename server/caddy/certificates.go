package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"sync/atomic"
	"syscall"
)

// shownCertificate caches what is known of the certificate that a client presented. It lives as long as the connection, because
// a connection has one certificate throughout.
type shownCertificate struct {
	leaf  *x509.Certificate
	print [sha256.Size]byte // SHA-256 of the certificate
	name  string            // of its file among the devices: the fingerprint in hex
	file  atomic.Pointer[syscall.Stat_t]
}

// fingerprint returns the SHA-256 of a certificate, which identifies it.
func fingerprint(certificate *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(certificate.Raw)
}

// shownOver returns what is known of a certificate, cached with the connection if there is one.
func shownOver(connection *countedConnection, leaf *x509.Certificate) *shownCertificate {
	if connection != nil {
		if known := connection.shown.Load(); known != nil && known.leaf == leaf {
			return known
		}
	}
	shown := &shownCertificate{leaf: leaf, print: fingerprint(leaf)}
	shown.name = hex.EncodeToString(shown.print[:])
	if connection != nil {
		connection.shown.Store(shown)
	}
	return shown
}

// hasReadableFile does what isReadableFile does with one system call less: any change to who may read a file also changes what
// lstat reports, if only the time of the change.
func (s *shownCertificate) hasReadableFile(path string) bool {
	var now syscall.Stat_t
	if syscall.Lstat(path, &now) != nil || now.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return false
	}
	if known := s.file.Load(); known != nil && isSameFile(known, &now) {
		return true
	}
	if syscall.Access(path, mayRead) != nil {
		return false
	}
	s.file.Store(&now)
	return true
}

func isSameFile(one, other *syscall.Stat_t) bool {
	return one.Dev == other.Dev && one.Ino == other.Ino && one.Mode == other.Mode && one.Uid == other.Uid &&
		one.Gid == other.Gid && one.Size == other.Size && one.Ctim == other.Ctim
}
