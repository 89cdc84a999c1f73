# The guard: guard.sh, which makes its requests with the edge's program.
{ config, lib, pkgs }:

let
  scripts = import ./scripts.nix { inherit config pkgs; };

  versions = lib.importJSON ../versions.json;
  floor = program: lib.concatStringsSep " " ([ program versions.${program}.lowest ] ++ lib.attrNames versions.${program}.refused);
in
scripts.program {
  name = "immich-exposure-guard";
  file = "guard.sh";
  before = ''
    IMMICH_EDGE=${lib.getExe config.services.immich-exposure.package}
    FLOORS=${lib.escapeShellArg (lib.concatMapStringsSep "\n" floor [ "caddy" "immich" "tailscale" ])}
  '';
}
