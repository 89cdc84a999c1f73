# Immich at home while the exposure is closed: sockets listen where Immich did before and forward to it on loopback.
# /var/lib/immich-exposure/lan decides whether they run, without a rebuild.
{ config, lib, pkgs, exposedImmich, ... }:

let
  cfg = config.services.immich-exposure;
  scripts = import ./scripts.nix { inherit config pkgs; };
  sync = scripts.program { name = "immich-exposure-lan"; file = "lan.sh"; };

  # An address's zone follows a percent sign, which has another meaning for systemd.
  escaped = lib.replaceStrings [ "%" ] [ "%%" ];
in
{
  config = lib.mkIf (cfg.enable && exposedImmich.closed) {
    systemd.services.immich-exposure-lan = {
      description = "Open or close Immich on the home network";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      # The addresses must exist, and Immich must have released the port.
      after = [ "network-online.target" "immich-server.service" ];
      # A funnel that opens and closes a few times in a row must not leave the family without Immich.
      startLimitIntervalSec = 0;
      serviceConfig = import ./sandbox.nix // import ./quiet.nix // {
        Type = "oneshot";
        ExecStart = [ "${lib.getExe sync} sync ${escaped exposedImmich.home} ${toString exposedImmich.port}" ];
        ReadWritePaths = [ "/run" ];
        RestrictAddressFamilies = [ "AF_NETLINK" "AF_UNIX" ];
      };
    };
    # Addresses come and go, so check again every minute.
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
      # Closing the socket ends its connections.
      partOf = [ "immich-exposure-lan@%i.socket" ];
      # A refused start also stops the socket.
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
