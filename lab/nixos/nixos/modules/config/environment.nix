# /etc, programs, variables.
{ config, lib, options, ... }:
let
  inherit (lib) mkOption types;
  short = import ../short.nix lib;
  value = types.oneOf [ types.str types.int types.path types.float ];
  variables = mkOption {
    type = types.attrsOf (types.nullOr (types.either value (types.listOf value)));
    default = { };
    apply = lib.mapAttrs (_: v: if v == null then null else lib.concatMapStringsSep ":" toString (lib.toList v));
  };
in
{
  options.environment = {
    systemPackages = short.packages;
    defaultPackages = short.packages;
    variables = variables;
    sessionVariables = variables;
    shellAliases = short.of (types.attrsOf (types.nullOr types.str)) { };
    shells = short.of (types.listOf (types.either types.shellPackage types.path)) [ ];
    pathsToLink = short.strings;
    extraOutputsToInstall = short.strings;
    shellInit = short.text;
    loginShellInit = short.text;
    interactiveShellInit = short.text;
    extraInit = short.text;
    localBinInPath = short.bool false;
    # Not of NixOS: impermanence's module, as far as the lab's homes name it.
    persistence = short.recorded;
    etc = mkOption {
      default = { };
      type = types.attrsOf (types.submodule ({ name, config, options, ... }: {
        options = {
          enable = short.bool true;
          target = short.str name;
          text = mkOption { type = types.nullOr types.lines; default = null; };
          source = mkOption { type = types.nullOr types.path; default = null; };
          # Copies with a mode of their own are not made here, so they are refused.
          mode = mkOption { type = types.enum [ "symlink" ]; default = "symlink"; };
          uid = short.int 0;
          gid = short.int 0;
          user = short.str "+0";
          group = short.str "+0";
        };
      }));
    };
  };
  # pam_env.so reads it for every session, sudo's too.
  config.environment.etc."pam/environment".text =
    lib.concatStrings (lib.mapAttrsToList (name: v: lib.optionalString (v != null) "${name} DEFAULT=\"${v}\"\n") config.environment.sessionVariables);
}
