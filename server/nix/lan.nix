# Immich at home while the exposure is shut: sockets stand where Immich listened before and hand over to it on loopback. They are
# started and stopped as /var/lib/immich-exposure/lan says, without a rebuild.
{ config, lib, pkgs, exposedImmich, ... }:

let
  cfg = config.services.immich-exposure;
  scripts = import ./scripts.nix { inherit config pkgs; };
  sync = scripts.program { name = "immich-exposure-lan"; file = "lan.sh"; };

  # The zone of an address stands after a percent sign, which means something else to systemd.
  escaped = lib.replaceStrings [ "%" ] [ "%%" ];
in
{
  config = lib.mkIf (cfg.enable && exposedImmich.closed) {
    systemd.services.immich-exposure-lan = {
      description = "Open or close Immich on the home network";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      # The addresses must be there, and Immich must have left the port.
      after = [ "network-online.target" "immich-server.service" ];
      # A door that opens and shuts a few times in a row must not leave the family without Immich.
      startLimitIntervalSec = 0;
      serviceConfig = import ./sandbox.nix // import ./quiet.nix // {
        Type = "oneshot";
        ExecStart = [ "${lib.getExe sync} sync ${escaped exposedImmich.home} ${toString exposedImmich.port}" ];
        ReadWritePaths = [ "/run" ];
        RestrictAddressFamilies = [ "AF_NETLINK" "AF_UNIX" ];
      };
    };
    # Addresses come and go: look again each minute.
    systemd.services.immich-exposure-lease.wants = [ "immich-exposure-lan.service" ];

    # The instance is the address to listen on, escaped.
    systemd.sockets."immich-exposure-lan@" = {
      description = "Immich at home on %I";
      listenStreams = [ "%I" ];
      socketConfig = {
        BindIPv6Only = "ipv6-only";
        FreeBind = true;
      };
    };
    systemd.services."immich-exposure-lan@" = {
      description = "Immich at home on %I";
      # A closed socket ends what is connected.
      partOf = [ "immich-exposure-lan@%i.socket" ];
      # Whose start is refused takes its socket along.
      startLimitIntervalSec = 0;
      serviceConfig = import ./sandbox-user.nix // {
        DynamicUser = true;
        ExecStart = [ "${config.systemd.package}/lib/systemd/systemd-socket-proxyd --exit-idle-time=10min ${exposedImmich.upstream}" ];
        MemoryMax = "64M";
        MemoryDenyWriteExecute = true;
        ProcSubset = "pid";
        RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
        UMask = "0077";
      };
    };
  };
}
