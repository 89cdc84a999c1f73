# The guard: guard.sh, which looks through the eyes of the edge's program.
{ config, lib, pkgs }:

let
  scripts = import ./scripts.nix { inherit config pkgs; };
in
scripts.program {
  name = "immich-exposure-guard";
  file = "guard.sh";
  before = ''
    IMMICH_EDGE=${lib.getExe config.services.immich-exposure.package}
  '';
}
