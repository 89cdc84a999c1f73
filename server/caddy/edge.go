package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Banned{})
	caddy.RegisterModule(Enrolled{})
}

// Banned matches a visitor whose address, or whose IPv6 network of 64 bits, names a file in one of the folders:
//
//	banned ROOT FOLDER... {
//		lists FOLDER
//	}
//
// The file of a network is named like 2001:db8:1:2::_64. What a file holds and who may read it does not matter. A
// folder that cannot be looked into is an error (503), because nobody knows who is banned then.
//
// The files of the folder of lists hold networks, as many as there are (banlistfile.go). Nobody is spared from them.
type Banned struct {
	Root    string   `json:"root"`
	Folders []string `json:"folders"`
	Lists   string   `json:"lists,omitempty"`

	folders *banFolders
	lists   *banLists
}

// Enrolled matches a client that has shown a certificate whose SHA-256 names a readable file in the folder, and that one
// of the certificates in the file AUTHORITY has issued for clients:
//
//	enrolled FOLDER AUTHORITY
//
// The file comes first: a certificate that nobody enrolled costs no more than a look for it. Every look goes to the
// file system, so a device is in or out from its next request on. What cannot change while a connection lasts is kept with
// it (shownCertificate). A certificate without a subject is none of ours.
type Enrolled struct {
	Folder    string `json:"folder"`
	Authority string `json:"authority"`

	authority *authority
}

// CaddyModule returns the Caddy module information.
func (Banned) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.matchers.banned", New: func() caddy.Module { return new(Banned) }}
}

// CaddyModule returns the Caddy module information.
func (Enrolled) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.matchers.enrolled", New: func() caddy.Module { return new(Enrolled) }}
}

// UnmarshalCaddyfile reads the matcher's arguments.
func (b *Banned) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		arguments := d.RemainingArgs()
		if len(arguments) < 2 {
			return d.ArgErr()
		}
		b.Root, b.Folders = arguments[0], arguments[1:]
		for d.NextBlock(0) {
			if d.Val() != "lists" || !d.AllArgs(&b.Lists) {
				return d.ArgErr()
			}
		}
	}
	return nil
}

// UnmarshalCaddyfile reads the matcher's argument.
func (e *Enrolled) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if !d.AllArgs(&e.Folder, &e.Authority) {
			return d.ArgErr()
		}
	}
	return nil
}

// Provision begins to look at the folders.
func (b *Banned) Provision(caddy.Context) error {
	b.folders = foldersIn(b.Root, b.Folders)
	if b.Lists != "" {
		b.lists = banListsIn(filepath.Join(b.Root, b.Lists))
	}
	return nil
}

// Provision reads the authority, so that one that cannot be read keeps Caddy from taking the configuration.
func (e *Enrolled) Provision(caddy.Context) error {
	e.authority = &authority{path: e.Authority}
	if err := e.authority.refresh(); err != nil {
		return err
	}
	knownDevices.Store(e)
	return nil
}

// knownDevices are those of the configuration that was loaded last.
var knownDevices atomic.Pointer[Enrolled]

// MatchWithError tells whether the visitor is banned.
func (b *Banned) MatchWithError(r *http.Request) (bool, error) {
	address, err := addressOf(r.RemoteAddr)
	if err != nil {
		return false, caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	names := namesOf(address)
	found, err := b.folders.has(names, func(place int) bool { return !isSparedFrom(r, b.Folders[place]) })
	if err != nil {
		return false, caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	return found || b.lists != nil && b.lists.has(address), nil
}

// MatchWithError tells whether the client is an enrolled device.
func (e *Enrolled) MatchWithError(r *http.Request) (bool, error) {
	return e.accepts(r.TLS, connectionOf(r))
}

// accepts tells whether a client is an enrolled device; `over` is the connection that it came over, if that is known.
func (e *Enrolled) accepts(state *tls.ConnectionState, over *countedConnection) (bool, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return false, nil
	}
	shown := shownOver(over, state.PeerCertificates[0])
	if len(shown.leaf.Subject.Names) == 0 || !shown.hasReadableFile(filepath.Join(e.Folder, shown.name)) {
		return false, nil
	}
	return e.authority.accepts(state.PeerCertificates, shown.print, time.Now())
}

// isReadableFile tells whether a path is a file that this process may read.
func isReadableFile(path string) bool {
	var info syscall.Stat_t
	return syscall.Lstat(path, &info) == nil && info.Mode&syscall.S_IFMT == syscall.S_IFREG &&
		syscall.Access(path, mayRead) == nil
}

// isFolder tells whether a path leads to a folder. Here and below the system is called without package os in between,
// which costs as much again for each of the names that is not there, as most are.
func isFolder(path string) bool {
	var info syscall.Stat_t
	return syscall.Stat(path, &info) == nil && info.Mode&syscall.S_IFMT == syscall.S_IFDIR
}

// hasFile tells whether a folder holds one of the names, whatever they are; anything but a plain yes or no is an error.
func hasFile(folder string, names []string) (bool, error) {
	if !isFolder(folder) {
		return false, fmt.Errorf("the ban folder %s is gone", folder)
	}
	for _, name := range names {
		var info syscall.Stat_t
		switch err := syscall.Lstat(filepath.Join(folder, name), &info); err {
		case nil:
			return true, nil
		case syscall.ENOENT:
		default:
			return false, fmt.Errorf("%s: %w", folder, err)
		}
	}
	return false, nil
}

// namesOf returns the names that a visitor goes by, whose address is unmapped and without a zone: the address in its
// canonical form and, for IPv6, its network. The last is what one customer of a provider has.
func namesOf(address netip.Addr) []string {
	names := []string{address.String()}
	if address.Is6() {
		network := netip.PrefixFrom(address, networkBits).Masked()
		names = append(names, fmt.Sprintf("%s_%d", network.Addr(), networkBits))
	}
	return names
}

// mayRead is R_OK of access(2).
const mayRead = 4

// networkBits is the part of an IPv6 address that a provider gives to one customer (RFC 6177).
const networkBits = 64

var (
	_ caddyfile.Unmarshaler             = (*Banned)(nil)
	_ caddyfile.Unmarshaler             = (*Enrolled)(nil)
	_ caddy.Provisioner                 = (*Banned)(nil)
	_ caddy.Provisioner                 = (*Enrolled)(nil)
	_ caddyhttp.RequestMatcherWithError = (*Banned)(nil)
	_ caddyhttp.RequestMatcherWithError = (*Enrolled)(nil)
)
