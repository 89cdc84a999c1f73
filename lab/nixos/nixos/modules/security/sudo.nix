# Recorded: the server's own sudoers decides.
{ lib, pkgs, ... }:
let
  short = import ../short.nix lib;
  inherit (lib) types;
  command = types.either types.str (short.submodule { command = lib.mkOption { type = types.str; }; options = short.strings; });
in
{
  options.security.sudo = {
    enable = short.bool true;
    package = lib.mkPackageOption pkgs "sudo" { };
    wheelNeedsPassword = short.bool true;
    execWheelOnly = short.bool false;
    keepTerminfo = short.bool true;
    configFile = short.text;
    extraConfig = short.text;
    defaultOptions = short.of (types.listOf types.str) [ "SETENV" ];
    extraRules = short.of (types.listOf (short.submodule {
      host = short.str "ALL";
      users = short.of (types.listOf (types.either types.str types.int)) [ ];
      groups = short.of (types.listOf (types.either types.str types.int)) [ ];
      runAs = short.str "ALL:ALL";
      commands = lib.mkOption { type = types.listOf command; };
    })) [ ];
  };
}
