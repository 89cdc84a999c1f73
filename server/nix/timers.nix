# Periodic jobs: renewing the certificate, ending leases, removing expired devices, notifying the owner. None runs without an exposure.
{ config, lib, pkgs, ... }:

let
  cfg = config.services.immich-exposure;
  names = import ./names.nix;
  scripts = import ./scripts.nix { inherit config pkgs; };

  run = name: file: verb: "${lib.getExe (scripts.program { inherit name file; })} ${verb}";

  # Runs as root, but may write only to the exposure's own folder and to what all services share below /run.
  root = import ./sandbox.nix // {
    Type = "oneshot";
    # Also without the folder: if somebody has deleted it, the funnel is still open.
    ReadWritePaths = [ "-${names.state}" "/run" ];
    RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_NETLINK" "AF_UNIX" ];
  };
in
{
  config = lib.mkIf cfg.enable {
    systemd.services.immich-exposure-certificate = {
      description = "Renew the edge's server certificate";
      wants = [ "network-online.target" ];
      after = [ "network-online.target" "tailscaled.service" ];
      unitConfig.ConditionPathExists = [ names.mark ];
      serviceConfig = root // { ExecStart = [ (run "immich-exposure-renew" "certificate.sh" "renew") ]; };
    };
    systemd.timers.immich-exposure-certificate = {
      description = "Renew the edge's server certificate, daily";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = "daily";
        Persistent = true;
        RandomizedDelaySec = "1h";
      };
    };

    systemd.services.immich-exposure-lease = {
      description = "Close the funnel unless a lease allows it";
      after = [ "tailscaled.service" ];
      # The end of a lease starts it as well, and must never hit the start limit.
      startLimitIntervalSec = 0;
      serviceConfig = root // import ./quiet.nix // { ExecStart = [ (run "immich-exposure-enforce" "funnel.sh" "enforce") ]; };
    };
    systemd.timers.immich-exposure-lease = {
      description = "Close the funnel unless a lease allows it, every minute";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnBootSec = "20s";
        OnUnitActiveSec = "1min";
        AccuracySec = "1s";
      };
    };

    systemd.services.immich-exposure-devices = {
      description = "Remove devices whose certificate has expired";
      unitConfig.ConditionPathExists = [ names.mark ];
      # It only looks at files, so it needs no network.
      serviceConfig = root // {
        ExecStart = [ (run "immich-exposure-expire" "devices.sh" "expire") ];
        PrivateNetwork = true;
        RestrictAddressFamilies = [ "AF_UNIX" ];
      };
    };
    systemd.timers.immich-exposure-devices = {
      description = "Remove devices whose certificate has expired, hourly";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = "hourly";
        Persistent = true;
        RandomizedDelaySec = "5min";
      };
    };

    systemd.services.immich-exposure-guard = {
      description = "Check the exposure from outside";
      wants = [ "network-online.target" ];
      after = [ "network-online.target" "tailscaled.service" "immich-edge.service" ];
      unitConfig.ConditionPathExists = [ names.mark ];
      # Long enough for each of its steps; the next check finishes what was cut off.
      serviceConfig = root // import ./quiet.nix // {
        ExecStart = [ "${lib.getExe (import ./guard.nix { inherit config lib pkgs; })} look" ];
        TimeoutStartSec = "8min";
      };
    };
    systemd.timers.immich-exposure-guard = {
      description = "Check the exposure from outside, every five minutes";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnBootSec = "2min";
        OnUnitActiveSec = "5min";
        # systemd's default is a minute, which would be added to each of the times in docs/guard.md.
        AccuracySec = "1s";
      };
    };

    # Not started if `who` is off and there is no Immich API key.
    systemd.services.immich-exposure-who = {
      description = "Count who opened which shared link";
      after = [ "immich-edge.service" ];
      unitConfig.ConditionPathExists = [ names.mark "|${names.state}/who/key" "|${names.state}/who/api-key" ];
      serviceConfig = root // import ./quiet.nix // {
        ExecStart = [ "${lib.getExe (import ./who.nix { inherit config lib pkgs; })} sum" ];
        TimeoutStartSec = "5min";
      };
    };
    systemd.timers.immich-exposure-who = {
      description = "Count who opened which shared link, every five minutes";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        # By the clock: after a start that its conditions prevented, a monotonic timer would not be restarted.
        OnCalendar = "*:0/5";
      };
    };

    systemd.services.immich-exposure-room = {
      description = "Check the free space for guests' uploads";
      # Only while guests may upload.
      unitConfig.ConditionPathExists = [ names.mark "${names.state}/settings/uploads.conf" ];
      startLimitIntervalSec = 0;
      serviceConfig = root // import ./quiet.nix // {
        ExecStart = [ (run "immich-exposure-room" "room.sh" "look") ];
        # The edge reads the number from there.
        RuntimeDirectory = [ "immich-exposure-room" ];
        RuntimeDirectoryPreserve = true;
        # Photos may be in a home folder; only the size of the disk is read.
        ProtectHome = "read-only";
        PrivateNetwork = true;
        RestrictAddressFamilies = [ "AF_UNIX" ];
      };
    };
    systemd.timers.immich-exposure-room = {
      description = "Check the free space for guests' uploads, every minute";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        # By the clock, as above.
        OnCalendar = "minutely";
        AccuracySec = "5s";
      };
    };

    # Started whenever there is a notice, and repeatedly while one does not get through.
    systemd.services.immich-exposure-notify = {
      description = "Send notices to the owner";
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      unitConfig.ConditionPathExists = [ names.mark "${names.state}/notices/channel" ];
      # No start limit: the script limits how many notices are sent per hour.
      startLimitIntervalSec = 0;
      serviceConfig = root // import ./quiet.nix // { ExecStart = [ (run "immich-exposure-notify" "notify.sh" "deliver") ]; };
    };
    # Whatever opens, closes, enrols or revokes is reported at once.
    systemd.paths.immich-exposure-notify = {
      description = "Notify the owner when the funnel opens or closes, and about devices";
      wantedBy = [ "paths.target" ];
      pathConfig.PathChanged = [ "${names.state}/lease" "${names.state}/devices" ];
    };
    systemd.timers.immich-exposure-notify = {
      description = "Retry notices to the owner, every five minutes";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnBootSec = "3min";
        OnUnitInactiveSec = "5min";
      };
    };
  };
}
