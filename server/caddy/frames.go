package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Frame{})
	caddy.RegisterModule(RefuseFrame{})
	httpcaddyfile.RegisterHandlerDirective("refuse_frame", parseRefuseFrame)
	httpcaddyfile.RegisterDirectiveOrder("refuse_frame", httpcaddyfile.Before, "abort")
}

// Frame matches a client that sends the secret of an enrolled frame: a picture frame, a television or another client that
// cannot hold a certificate.
//
//	frame DEVICES
//
// The folder is that of the devices. A frame's file is named by the SHA-256 of its secret, and holds its name and the word
// `frame`; a certificate's file can never match, because no certificate begins as a secret does. So the only comparison is a
// file lookup, and a client without a secret costs two map lookups.
//
// A folder that cannot be read is an error (503): otherwise an enrolled frame would be taken for a guesser.
type Frame struct {
	Devices string `json:"devices"`
}

// RefuseFrame refuses a client that sends a secret that no frame has, or more than one, and passes on all others:
//
//	refuse_frame REJECT_WITH REVOKED
//
// That is an offence: no browser sends such a header unasked, and another site's page cannot make it do so (CORS). There are
// two exceptions: a revoked secret, which has a file in the folder REVOKED, because its holder did not guess it and keeps
// asking until the frame is switched off; and nobodysSecret, which the outside check sends.
type RefuseFrame struct {
	RejectWith string `json:"reject_with"`
	Revoked    string `json:"revoked"`
}

const (
	// frameHeader is the header for a frame's secret.
	frameHeader = "X-Immich-Exposure-Frame"

	// keyHeader is the header in which Immich takes an API key. If a frame's program cannot send a custom header, the frame may
	// put its secret here, in front of the key and separated by a dot.
	keyHeader = "X-Api-Key"

	// framePrefix is the beginning of a secret, by which programs that look for leaked secrets recognize it. frameLetters
	// letters of base32 (RFC 4648, in lower case) follow, which are 160 bits.
	framePrefix  = "ixframe_"
	frameLetters = 32

	// nobodysSecret belongs to no frame, whatever is in the folder.
	nobodysSecret = framePrefix + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

// frame is an enrolled frame.
type frame struct {
	name string // for the log
	file string // its file, which is gone when it is revoked
}

// frameVar is the request variable that holds the frame.
const frameVar = "immich_exposure_frame"

// CaddyModule returns the Caddy module information.
func (Frame) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.matchers.frame", New: func() caddy.Module { return new(Frame) }}
}

// CaddyModule returns the Caddy module information.
func (RefuseFrame) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.refuse_frame", New: func() caddy.Module { return new(RefuseFrame) }}
}

// UnmarshalCaddyfile reads the folder.
func (f *Frame) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if !d.AllArgs(&f.Devices) {
			return d.ArgErr()
		}
	}
	return nil
}

func parseRefuseFrame(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := RefuseFrame{}
	h.Next()
	if !h.AllArgs(&handler.RejectWith, &handler.Revoked) {
		return nil, h.ArgErr()
	}
	return handler, checkRejectWith(handler.RejectWith)
}

// MatchWithError reports whether the client is an enrolled frame, and stores the frame with the request.
func (f Frame) MatchWithError(r *http.Request) (bool, error) {
	secret, shown := shownSecret(r.Header)
	if !shown || secret == "" || secret == nobodysSecret {
		return false, nil
	}
	found, err := frameIn(f.Devices, secret)
	if err != nil {
		return false, caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	if found == nil {
		return false, nil
	}
	caddyhttp.SetVar(r.Context(), frameVar, found)
	return true, nil
}

// ServeHTTP refuses every request with a secret: those with a right one do not get here.
func (f RefuseFrame) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	secret, shown := shownSecret(r.Header)
	if !shown {
		return next.ServeHTTP(w, r)
	}
	verdict := verdictSecret
	if secret == nobodysSecret || secret != "" && isReadableFile(filepath.Join(f.Revoked, secretHash(secret))) {
		verdict = verdictQuiet
	}
	return Refuse{RejectWith: f.RejectWith}.refuse(w, r, verdict)
}

// shownSecret returns the secret that a client sends; an empty one if it cannot be a secret, or if there are several.
func shownSecret(header http.Header) (secret string, shown bool) {
	shownOnes, keys := header[frameHeader], header[keyHeader]
	for _, key := range keys {
		if strings.HasPrefix(key, framePrefix) {
			before, _, _ := strings.Cut(key, ".")
			shownOnes = append(slices.Clip(shownOnes), before)
		}
	}
	if len(shownOnes) == 0 {
		return "", false
	}
	// HTTP/2 preserves blanks that were copied along with it.
	secret = strings.TrimRight(shownOnes[0], " \t")
	if len(shownOnes) > 1 || len(keys) > 1 || !isFrameSecret(secret) {
		return "", true
	}
	return secret, true
}

// showsSecret reports whether a request has a secret, right or wrong.
func showsSecret(r *http.Request) bool {
	_, shown := shownSecret(r.Header)
	return shown
}

func isFrameSecret(text string) bool {
	letters, found := strings.CutPrefix(text, framePrefix)
	return found && len(letters) == frameLetters && !strings.ContainsFunc(letters, func(letter rune) bool {
		return (letter < 'a' || letter > 'z') && (letter < '2' || letter > '7')
	})
}

func secretHash(secret string) string {
	hash := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(hash[:])
}

// frameIn returns the frame that has the secret, or nil. Anything but a clear yes or no is an error.
func frameIn(devices, secret string) (*frame, error) {
	place := filepath.Join(devices, secretHash(secret))
	var info syscall.Stat_t
	switch err := syscall.Lstat(place, &info); {
	case errors.Is(err, syscall.ENOENT) && isFolder(devices):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("the folder of the devices %s: %w", devices, err)
	}
	// An unreadable file was removed just now, or its owner keeps it from the edge.
	found, ok := readEnrolment(place)
	if !ok || !found.isFrame {
		return nil, nil
	}
	return &frame{found.name, place}, nil
}

// frameOf returns the frame that Frame has found, or nil.
func frameOf(r *http.Request) *frame {
	found, _ := caddyhttp.GetVar(r.Context(), frameVar).(*frame)
	return found
}

// isIn reports whether the frame is still enrolled.
func (f *frame) isIn(*http.Request) (bool, error) { return isReadableFile(f.file), nil }

// withoutSecret removes the secret, so that Immich gets only its own key.
func withoutSecret(header http.Header) {
	delete(header, frameHeader)
	keys := header[keyHeader]
	if len(keys) != 1 || !strings.HasPrefix(keys[0], framePrefix) {
		return
	}
	delete(header, keyHeader)
	if _, key, _ := strings.Cut(keys[0], "."); key != "" {
		header[keyHeader] = []string{key}
	}
}

var (
	_ caddyfile.Unmarshaler             = (*Frame)(nil)
	_ caddyhttp.RequestMatcherWithError = Frame{}
	_ caddyhttp.MiddlewareHandler       = RefuseFrame{}
)
