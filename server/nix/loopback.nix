# Who may connect to the edge on this server, and who may answer in Immich's place.
#
# Every account of a server reaches loopback. A process that can connect to the edge there could claim to be any visitor in the PROXY
# line, and one that takes Immich's port while Immich is down would receive the devices' cookies and API keys. The kernel knows
# which user's socket a packet is from. So our own table checks the first packet of a connection (the edge accepts only root's, as
# which tailscaled runs) and the first of an answer (which must be the edge's, or Immich's or root's). No other table is
# read or changed, and the owner's firewall decides everything else as before.
{ config, lib, pkgs, exposedImmich, ... }:

let
  cfg = config.services.immich-exposure;
  names = import ./names.nix;

  # The user that Immich runs as, if this configuration says so. The user of a container's port is not known here.
  immichUser = config.systemd.services.immich-server.serviceConfig.User or config.services.immich.user;
  immichIs = "${if lib.hasInfix ":" exposedImmich.address then "ip6" else "ip"} saddr ${exposedImmich.address}";

  newConnection = "tcp flags & (syn | ack) == syn";
  answer = "tcp flags & (syn | ack) == (syn | ack)";

  loopback = pkgs.writeShellApplication {
    name = "immich-exposure-loopback";
    runtimeInputs = [ pkgs.coreutils pkgs.nftables ];
    # Checked in our own tests instead: a newer checker must not stop a rebuild.
    checkPhase = "";
    text = ''
      table="inet immich-exposure"
      forget="add table $table; delete table $table"
      case ''${1:-} in
        guard) ;;
        forget) exec nft "$forget" ;;
        *) echo "immich-exposure-loopback knows the verbs guard and forget." >&2; exit 1 ;;
      esac
      port=''${IMMICH_EXPOSURE_PROXY_PORT:?}
      edge=$(id -u ${names.edge})
      # Atomically: all of it or nothing.
      nft -f - <<END
      $forget
      table $table {
        chain from-this-server {
          type filter hook output priority filter; policy accept;
          ip daddr 127.0.0.1 tcp dport $port ${newConnection} meta skuid != 0 reject with tcp reset
          ip saddr 127.0.0.1 tcp sport $port ${answer} meta skuid != $edge drop
      ${lib.optionalString cfg.immich.managed ''
          ${immichIs} tcp sport ${toString exposedImmich.port} ${answer} meta skuid != { 0, $(id -u ${immichUser}) } drop
      ''}
        }
      }
      END
    '';
  };
  run = verb: [ "${lib.getExe loopback} ${verb}" ];
in
{
  config = lib.mkIf cfg.enable {
    # It starts and stops with the edge, and takes its port from the same settings. An edge without it is no more open to the
    # internet, so the edge does not depend on it where the kernel has no nftables.
    systemd.services.${names.edge} = {
      wants = [ "immich-exposure-loopback.service" ];
      after = [ "immich-exposure-loopback.service" ];
    };

    systemd.services.immich-exposure-loopback = {
      description = "Keep this server's other accounts away from the edge's and Immich's ports";
      # Reloading the owner's firewall may flush every table.
      after = [ "nftables.service" ];
      partOf = [ "${names.edge}.service" "nftables.service" ];
      unitConfig = {
        ConditionPathExists = [ names.mark "${names.state}/settings/edge.env" ];
        ReloadPropagatedFrom = [ "${names.edge}.service" "nftables.service" ];
      };
      serviceConfig = import ./sandbox.nix // {
        Type = "oneshot";
        RemainAfterExit = true;
        EnvironmentFile = [ "${names.state}/settings/edge.env" ];
        ExecStart = run "guard";
        ExecReload = run "guard";
        ExecStop = run "forget";
        CapabilityBoundingSet = [ "CAP_NET_ADMIN" ];
        IPAddressDeny = [ "any" ];
        MemoryDenyWriteExecute = true;
        ProcSubset = "pid";
        ProtectProc = "invisible";
        RestrictAddressFamilies = [ "AF_NETLINK" "AF_UNIX" ];
        SystemCallFilter = [ "@system-service" "~@privileged" "~@resources" ];
        UMask = "0077";
      };
    };
  };
}
