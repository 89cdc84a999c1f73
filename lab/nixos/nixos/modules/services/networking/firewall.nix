# Recorded for assertions to look at; no packet filter is written.
{ lib, pkgs, ... }:
let
  short = import ../../short.nix lib;
  inherit (lib) types;
  ports = lib.mkOption { type = types.listOf types.port; default = [ ]; apply = ports: lib.unique (lib.sort builtins.lessThan ports); };
  ranges = short.of (types.listOf (types.attrsOf types.port)) [ ];
  open = { allowedTCPPorts = ports; allowedUDPPorts = ports; allowedTCPPortRanges = ranges; allowedUDPPortRanges = ranges; };
in
{
  options.networking = {
    nftables = { enable = short.bool false; ruleset = short.text; flushRuleset = short.bool false; tables = short.recorded; checkRuleset = short.bool true; };
    firewall = open // {
      enable = short.bool true;
      package = lib.mkPackageOption pkgs "iptables" { };
      trustedInterfaces = short.strings;
      interfaces = short.of (types.attrsOf (short.submodule open)) { };
      allowPing = short.bool true;
      pingLimit = short.nullOrStr;
      rejectPackets = short.bool false;
      checkReversePath = short.of (types.either types.bool (types.enum [ "strict" "loose" ])) true;
      logRefusedConnections = short.bool true;
      logRefusedPackets = short.bool false;
      logReversePathDrops = short.bool false;
      filterForward = short.bool false;
      extraCommands = short.text;
      extraStopCommands = short.text;
      extraInputRules = short.text;
      extraForwardRules = short.text;
      extraPackages = short.packages;
      autoLoadConntrackHelpers = short.bool false;
      connectionTrackingModules = short.strings;
    };
  };
}
