# The unit stands outside of the generations: sshd runs from boot, whatever the configuration says.
{ config, lib, ... }:
let
  short = import ../../short.nix lib;
  inherit (lib) mkOption types;
  cfg = config.services.openssh;
  yesNo = default: mkOption { type = types.nullOr types.bool; inherit default; };
  moved = name: lib.mkRenamedOptionModule [ "services" "openssh" name ] [ "services" "openssh" "settings" (lib.toUpper (lib.substring 0 1 name) + lib.substring 1 99 name) ];
in
{
  imports = map moved [ "kbdInteractiveAuthentication" "passwordAuthentication" "permitRootLogin" ];
  options.services.openssh = {
    enable = lib.mkEnableOption "the OpenSSH secure shell daemon";
    ports = short.of (types.listOf types.port) [ 22 ];
    openFirewall = short.bool true;
    startWhenNeeded = short.bool false;
    allowSFTP = short.bool true;
    listenAddresses = short.of (types.listOf (short.submodule { addr = short.nullOrStr; port = short.nullOr types.int; })) [ ];
    hostKeys = short.of (types.listOf short.anyTree) [ ];
    authorizedKeysFiles = short.strings;
    authorizedKeysInHomedir = short.bool true;
    banner = short.nullOr types.lines;
    extraConfig = short.text;
    sftpServerExecutable = short.str "internal-sftp";
    settings = mkOption {
      default = { };
      type = types.submodule {
        freeformType = types.attrsOf (types.nullOr (types.oneOf [ types.bool types.int types.str types.path (types.listOf types.str) ]));
        options = {
          AllowUsers = short.nullOr (types.listOf types.str);
          AllowGroups = short.nullOr (types.listOf types.str);
          KbdInteractiveAuthentication = yesNo true;
          LogLevel = short.of (types.nullOr (types.enum [ "QUIET" "FATAL" "ERROR" "INFO" "VERBOSE" "DEBUG" "DEBUG1" "DEBUG2" "DEBUG3" ])) "INFO";
          PasswordAuthentication = yesNo true;
          PermitRootLogin = short.of (types.nullOr (types.enum [ "yes" "without-password" "prohibit-password" "forced-commands-only" "no" ])) "prohibit-password";
          UseDns = yesNo false;
          X11Forwarding = yesNo false;
        };
      };
    };
  };
  config.networking.firewall.allowedTCPPorts = lib.mkIf (cfg.enable && cfg.openFirewall) cfg.ports;
}
