package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

const (
	// mostInHand is more than a link's password takes, in bytes.
	mostInHand = 8 << 10

	// inHandPatience is how long sending it may take.
	inHandPatience = 10 * time.Second
)

// withBodyInHand returns the request with its body read completely. A request that occupies one of a few places must not
// trickle in while it does so: two of them could keep everybody else from entering a link's password.
func withBodyInHand(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	setReadDeadline(w, time.Now().Add(inHandPatience))
	defer setReadDeadline(w, time.Time{})
	body, err := io.ReadAll(io.LimitReader(r.Body, mostInHand+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, caddyhttp.Error(http.StatusRequestTimeout, err)
	case err != nil:
		return nil, caddyhttp.Error(http.StatusBadRequest, err)
	case len(body) > mostInHand:
		return nil, caddyhttp.Error(http.StatusRequestEntityTooLarge, errors.New("no password is so long"))
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	return r, nil
}

func setReadDeadline(w http.ResponseWriter, moment time.Time) {
	if err := http.NewResponseController(w).SetReadDeadline(moment); err != nil {
		caddy.Log().Named("limits").Debug("no deadline", zap.Error(err))
	}
}
