# The command `immich-exposure` for whoever sits at the server.
{ config, lib, pkgs, exposedImmich, ... }:

let
  cfg = config.services.immich-exposure;
  scripts = import ./scripts.nix { inherit config pkgs; };

  module = builtins.toJSON {
    inherit (cfg) lan;
    inherit (cfg.immich) managed;
    inherit (exposedImmich) home;
    immich = exposedImmich.upstream;
    digest = import ./digest.nix { inherit lib; };
  };

  forgetChapter = scripts.program {
    name = "immich-exposure-forget-chapter";
    file = "adopt.sh";
  };

  command = scripts.program {
    name = "immich-exposure";
    file = "exposure.sh";
    programs = [ (import ./bans-files.nix { inherit lib pkgs; }).client ];
    before = ''
      # What this system was built with, for anybody to see.
      if [ "''${1:-}" = module ]; then
        printf '%s\n' ${lib.escapeShellArg module}
        exit
      fi
      # Clearing up after an exposure that was made by hand.
      if [ "''${1:-}" = forget-chapter ] && [ "''${2:-}" != --help ]; then
        shift
        exec ${forgetChapter}/bin/immich-exposure-forget-chapter forget "$@"
      fi
    '';
  };
in
{
  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ command ];
  };
}
