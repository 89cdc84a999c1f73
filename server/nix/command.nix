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

  guard = import ./guard.nix { inherit config lib pkgs; };

  devices = scripts.program {
    name = "immich-exposure-of-devices";
    file = "devices.sh";
  };

  door = scripts.program {
    name = "immich-exposure-door";
    file = "funnel.sh";
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
      # Looking from outside, as the timer does.
      if [ "''${1:-}" = guard ] && [ "''${2:-}" != --help ]; then
        exec ${lib.getExe guard} now
      fi
      # What was proven, and then shut.
      if [ "''${1:-}" = open ] && [ "''${2:-}" != --help ] && [ "''${2:-}" != -h ]; then
        shift
        exec ${door}/bin/immich-exposure-door reopen "$@"
      fi
      # Clearing up after an exposure that was made by hand.
      if [ "''${1:-}" = forget-chapter ] && [ "''${2:-}" != --help ]; then
        shift
        exec ${forgetChapter}/bin/immich-exposure-forget-chapter forget "$@"
      fi
      # Who may come in, and who may not any more.
      if [ "''${1:-}" = devices ] && [ "''${2:-}" != --help ]; then
        exec ${devices}/bin/immich-exposure-of-devices list
      fi
      if [ "''${1:-}" = revoke ] && [ "''${2:-}" != --help ]; then
        exec ${devices}/bin/immich-exposure-of-devices "$@"
      fi
    '';
  };
in
{
  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ command ];
  };
}
