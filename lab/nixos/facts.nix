# What the stand-in knows of the machine beside its configuration. `lay.py` writes it beside this file, in the copy that the lab puts
# on the server; a pure flake evaluation may read nothing outside of that copy.
#
# builder:          system that builds, such as "x86_64-linux"
# programs:         folder of the lab's own builds (caddy, tailscale)
# hashes:           program -> SHA-256 of it
# tailscaleVersion: what `tailscale version` says there
# immichStub:       command line that serves in place of Immich, without --host and --port
if builtins.pathExists ./facts.json then builtins.fromJSON (builtins.readFile ./facts.json)
else throw "This folder is not a copy that lab/nixos/lay.py made: ${toString ./facts.json} is missing."
