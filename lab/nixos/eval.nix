# Evaluates a configuration as `nixos-rebuild` would and gives its system. All errors of the configuration show here.
#
# configuration:    file, e.g. /etc/nixos/configuration.nix
# programs:         folder of the lab's own builds (caddy, tailscale)
# tailscaleVersion: version of the tailscale program there
# immichStub:       command line that serves in place of Immich, without --host and --port
{ configuration, programs, tailscaleVersion, immichStub ? "/bin/false" }:
let
  lib = import ./lib.nix;
  pkgs = import ./pkgs.nix { inherit lib programs tailscaleVersion; } // { inherit immichStub; };
  evaluated = lib.evalModules {
    modules = [ ./modules/base.nix ./modules/systemd.nix ./modules/services.nix ./modules/system.nix configuration ];
    specialArgs = { inherit pkgs; };
  };
  inherit (evaluated) config;

  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  accept =
    if !lib.force config then throw "unreachable: force returns true"
    else if failed != [ ] then throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (message: "- ${message}") failed}"
    else lib.foldl' (x: warning: builtins.trace "warning: ${warning}" x) (x: x) config.warnings;
in
{
  inherit (evaluated) options;
  config = accept config;
  toplevel = accept config.system.build.toplevel;
}
