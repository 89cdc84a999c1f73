# The unit stands outside of the generations: tailscaled runs from boot, whatever the configuration says.
{ config, lib, pkgs, ... }:
let
  short = import ../../short.nix lib;
  inherit (lib) types;
  cfg = config.services.tailscale;
in
{
  options.services.tailscale = {
    enable = lib.mkEnableOption "Tailscale client daemon";
    package = lib.mkPackageOption pkgs "tailscale" { };
    port = short.port 41641;
    interfaceName = short.str "tailscale0";
    permitCertUid = short.nullOr types.nonEmptyStr;
    openFirewall = short.bool false;
    useRoutingFeatures = short.of (types.enum [ "none" "client" "server" "both" ]) "none";
    authKeyFile = short.nullOrPath;
    authKeyParameters = short.of (short.submodule { ephemeral = short.nullOr types.bool; preauthorized = short.nullOr types.bool; baseURL = short.nullOrStr; }) { };
    extraUpFlags = short.strings;
    extraSetFlags = short.strings;
    extraDaemonFlags = short.strings;
    disableTaildrop = short.bool false;
    disableUpstreamLogging = short.bool false;
    serve = { enable = short.bool false; configFile = short.nullOrPath; services = short.recorded; };
  };
  config = lib.mkIf cfg.enable {
    networking.firewall.allowedUDPPorts = lib.optional cfg.openFirewall cfg.port;
    networking.firewall.checkReversePath = lib.mkIf (lib.elem cfg.useRoutingFeatures [ "client" "both" ]) (lib.mkDefault "loose");
  };
}
