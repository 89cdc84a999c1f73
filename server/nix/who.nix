# Who opened what: who.sh, which counts and queries with the edge's program.
{ config, lib, pkgs }:

let
  scripts = import ./scripts.nix { inherit config pkgs; };
in
scripts.program {
  name = "immich-exposure-who";
  file = "who.sh";
  before = ''
    IMMICH_EDGE=${lib.getExe config.services.immich-exposure.package}
  '';
}
