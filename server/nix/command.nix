# The command `immich-exposure` on the server.
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

  who = import ./who.nix { inherit config lib pkgs; };

  devices = scripts.program {
    name = "immich-exposure-of-devices";
    file = "devices.sh";
  };

  funnel = scripts.program {
    name = "immich-exposure-funnel";
    file = "funnel.sh";
  };

  command = scripts.program {
    name = "immich-exposure";
    file = "exposure.sh";
    programs = [ (import ./bans-files.nix { inherit lib pkgs; }).client ];
    before = ''
      # Verbs of other scripts. exposure.sh explains or refuses everything else, including --help.
      case "''${1:-}:$#:''${2:-}" in
        *:-h | *:--help | *:help) ;;
        # What this system was built with, for everybody to read.
        module:1:)
          printf '%s\n' ${lib.escapeShellArg module}
          exit
          ;;
        guard:1:) exec ${lib.getExe guard} now ;;
        who:1: | who:2:--html | links:1:) exec ${lib.getExe who} "$@" ;;
        open:1:) exec ${funnel}/bin/immich-exposure-funnel reopen ;;
        forget-chapter:1: | forget-chapter:2:--yes)
          shift
          exec ${forgetChapter}/bin/immich-exposure-forget-chapter forget "$@"
          ;;
        devices:1:) exec ${devices}/bin/immich-exposure-of-devices list ;;
        revoke:2:*) exec ${devices}/bin/immich-exposure-of-devices "$@" ;;
      esac
    '';
  };
in
{
  # So that a flake's module can be compared with the project before its system is built.
  options.services.immich-exposure.module = lib.mkOption {
    type = lib.types.str;
    internal = true;
    readOnly = true;
    description = "What `immich-exposure module` prints: the module's version and the options that a stack must fit.";
  };

  config = lib.mkIf cfg.enable {
    services.immich-exposure.module = module;
    environment.systemPackages = [ command ];
  };
}
