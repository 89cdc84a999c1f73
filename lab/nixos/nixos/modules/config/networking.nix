# Names; addresses and links are the lab's own business.
{ lib, ... }:
let short = import ../short.nix lib; in
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
}
