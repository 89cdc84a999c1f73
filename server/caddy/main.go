// Command caddy is the edge in front of Immich: stock Caddy with the modules in this folder. The Nix module builds it on the
// server and the lab builds it from this same source, so that what is tested is what runs.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	caddycmd.Main()
}
