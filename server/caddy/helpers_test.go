package main

import (
	"context"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// contextWithVars is what Caddy gives each request.
func contextWithVars() context.Context {
	return context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{})
}
