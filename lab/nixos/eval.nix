# The same as nixos/default.nix, for a machine that is not the lab's server: the facts come as arguments. All errors of the configuration
# show here, in `config` as well.
#
# configuration:    file, e.g. /etc/nixos/configuration.nix
# the others:       see facts.nix
{ configuration, programs, tailscaleVersion, immichStub ? "/bin/false" }:
let
  hash = program: { name = program; value = builtins.hashFile "sha256" "${programs}/${program}"; };
  evaluated = import ./nixos {
    inherit configuration;
    facts = {
      inherit programs tailscaleVersion immichStub;
      builder = builtins.currentSystem;
      hashes = builtins.listToAttrs (map hash [ "caddy" "tailscale" ]);
    };
  };
in
{
  inherit (evaluated) options;
  config = builtins.seq evaluated.system.drvPath evaluated.config;
  toplevel = evaluated.system;
}
