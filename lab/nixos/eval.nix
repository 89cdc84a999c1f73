# The same as nixos/default.nix, for a machine that is not the lab's server: the facts come as arguments. All errors of the configuration
# show here, in `config` as well.
#
# configuration:    file, e.g. /etc/nixos/configuration.nix
# realLib:          folder of nixpkgs' own lib, to compare ours with it; none for ours
# the others:       see facts.nix
{ configuration, programs, tailscaleVersion, immichStub ? "/bin/false", realLib ? "" }:
let
  hash = program: { name = program; value = builtins.hashFile "sha256" "${programs}/${program}"; };
  evaluated = import ./nixos {
    inherit configuration;
    lib = if realLib == "" then import ./lib else import ./lib/real.nix (import (/. + realLib));
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
