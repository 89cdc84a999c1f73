# Recorded.
{ lib, ... }:
let
  short = import ../../short.nix lib;
  flags = names: lib.genAttrs names (_: short.bool false);
in
{
  imports = [ (lib.mkRenamedOptionModule [ "services" "avahi" "nssmdns" ] [ "services" "avahi" "nssmdns4" ]) ];
  options.services.avahi = flags [ "enable" "nssmdns4" "nssmdns6" "reflector" "wideArea" ] // {
    publish = flags [ "enable" "addresses" "domain" "hinfo" "userServices" "workstation" ];
    openFirewall = short.bool true;
    ipv4 = short.bool true;
    ipv6 = short.bool false;
    hostName = short.str "nixos";
    domainName = short.str "local";
    allowInterfaces = short.nullOr (lib.types.listOf lib.types.str);
    denyInterfaces = short.nullOr (lib.types.listOf lib.types.str);
    extraConfig = short.text;
    extraServiceFiles = short.environment;
  };
}
