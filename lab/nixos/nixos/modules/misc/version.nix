{ config, lib, ... }:
let
  short = import ../short.nix lib;
  release = "26.05";
  cfg = config.system.nixos;
in
{
  options.system = {
    stateVersion = short.of lib.types.str release;
    configurationRevision = short.nullOrStr;
    nixos = {
      release = lib.mkOption { type = lib.types.str; readOnly = true; default = release; };
      version = short.str "${release}.lab";
      label = short.str (lib.concatStringsSep "-" (lib.sort builtins.lessThan cfg.tags ++ [ cfg.version ]));
      tags = short.strings;
      codeName = short.str "lab";
      variant_id = short.nullOrStr;
    };
  };
  config.warnings = lib.optional (lib.versionOlder release config.system.stateVersion)
    "system.stateVersion is ${config.system.stateVersion}, which is newer than this NixOS (${release}).";
}
