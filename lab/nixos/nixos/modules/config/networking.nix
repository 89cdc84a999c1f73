# The machine's name; addresses and links are the lab's own business.
{ config, lib, ... }:
let
  short = import ../short.nix lib;
  cfg = config.networking;
in
{
  options.networking = {
    hostName = short.of (lib.types.strMatching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$") "nixos";
    hostId = short.nullOrStr;
    domain = short.nullOrStr;
    enableIPv6 = short.bool true;
    useDHCP = short.bool true;
    useNetworkd = short.bool false;
    nameservers = short.strings;
    search = short.strings;
    timeServers = short.strings;
    extraHosts = short.text;
    hosts = short.of (lib.types.attrsOf (lib.types.listOf lib.types.str)) { };
  } // short.recordedAll [
    "bonds" "bridges" "defaultGateway" "defaultGateway6" "dhcpcd" "interfaces" "iproute2" "nat" "networkmanager" "proxy" "resolvconf" "tempAddresses"
    "usePredictableInterfaceNames" "useHostResolvConf" "vlans" "wg-quick" "wireguard" "wireless"
  ];

  config.environment.etc = {
    hostname.text = "${cfg.hostName}\n";
    # As on NixOS, where localhost is ::1 as well and the machine's own name 127.0.0.2.
    hosts.text = ''
      127.0.0.1 localhost
      ::1 localhost
      127.0.0.2 ${cfg.hostName}
      ${lib.concatStrings (lib.mapAttrsToList (address: names: "${address} ${toString names}\n") cfg.hosts)}${cfg.extraHosts}
    '';
  };
}
