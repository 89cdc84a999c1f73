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

// Banned matches a visitor whose address, or whose IPv6 /64, names a file in one of the folders:
//
//	banned ROOT FOLDER... {
//		lists FOLDER
//	}
//
// The file of a network is named like 2001:db8:1:2::_64. Its content and permissions do not matter. A folder that cannot be
// read is an error (503), because then nobody can tell who is banned.
//
// The files in the folder of lists hold any number of networks (banlistfile.go). A ban by a list has no exceptions.
type Banned struct {
	Root    string   `json:"root"`
	Folders []string `json:"folders"`
	Lists   string   `json:"lists,omitempty"`

	folders *banFolders
	lists   *banLists
}

// Enrolled matches a client that presented a certificate whose SHA-256 names a readable file in the folder, and that one of the
// certificates in the file AUTHORITY has issued for clients:
//
//	enrolled FOLDER AUTHORITY
//
// The file is checked first, so a certificate that is not enrolled costs only a file lookup. Every check goes to the file
// system, so enrolling and revoking take effect with a device's next request. What cannot change during a connection is cached
// with it (shownCertificate). A certificate without a subject is never one of ours.
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

// Provision starts watching the folders.
func (b *Banned) Provision(caddy.Context) error {
	b.folders = foldersIn(b.Root, b.Folders)
	if b.Lists != "" {
		b.lists = banListsIn(filepath.Join(b.Root, b.Lists))
	}
	return nil
}

// Provision reads the authority, so that Caddy rejects a configuration with an unreadable one.
func (e *Enrolled) Provision(caddy.Context) error {
	e.authority = &authority{path: e.Authority}
	if err := e.authority.refresh(); err != nil {
		return err
	}
	knownDevices.Store(e)
	return nil
}

// knownDevices is the matcher of the configuration that was loaded last.
var knownDevices atomic.Pointer[Enrolled]

// MatchWithError reports whether the visitor is banned.
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

// MatchWithError reports whether the client is an enrolled device.
func (e *Enrolled) MatchWithError(r *http.Request) (bool, error) {
	return e.accepts(r.TLS, connectionOf(r))
}

// accepts reports whether a client is an enrolled device; `over` is its connection, or nil.
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

// isReadableFile reports whether a path is a file that this process may read.
func isReadableFile(path string) bool {
	var info syscall.Stat_t
	return syscall.Lstat(path, &info) == nil && info.Mode&syscall.S_IFMT == syscall.S_IFREG &&
		syscall.Access(path, mayRead) == nil
}

// isFolder reports whether a path leads to a folder. This function and those below make system calls directly, because package
// os doubles the cost for each missing name, and most names are missing.
func isFolder(path string) bool {
	var info syscall.Stat_t
	return syscall.Stat(path, &info) == nil && info.Mode&syscall.S_IFMT == syscall.S_IFDIR
}

// hasFile reports whether a folder holds one of the names, whatever kind of file it is; anything but a clear yes or no is an
// error.
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

// namesOf returns the file names of a visitor, whose address is unmapped and without a zone: the address in canonical form and,
// for IPv6, its network. The last name covers what a provider gives to one customer.
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
