# What happens by itself: the certificate is renewed, a lease ends, devices end, the owner is told. Nothing where there is no exposure.
{ config, lib, pkgs, ... }:

let
  cfg = config.services.immich-exposure;
  names = import ./names.nix;
  scripts = import ./scripts.nix { inherit config pkgs; };

  run = name: file: verb: "${lib.getExe (scripts.program { inherit name file; })} ${verb}";

  # Root, but with nothing to write except the exposure's own folder and what all services share below /run.
  root = import ./sandbox.nix // {
    Type = "oneshot";
    # Without the folder as well: who deleted it has left an open door.
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
      # The end of a lease starts it as well, and is never one start too many.
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
      # Only files are looked at, so it needs no network.
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
      # Long enough for each of its steps; the next look finishes what is cut off.
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
        # systemd's own is a minute, which would be added to each of the times that docs/guard.md promises.
        AccuracySec = "1s";
      };
    };

    # Nothing to do, and so not started, where nobody asks who opened what and there is no key of Immich's API.
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
        # By the clock: after a start that its conditions forbade, no span of time would begin anew.
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
        # The edge reads the number there.
        RuntimeDirectory = [ "immich-exposure-room" ];
        RuntimeDirectoryPreserve = true;
        # Photos may lie in somebody's home; nothing but the size of the disk is read.
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

    # Started whenever there is something to tell, and again and again while it does not get through.
    systemd.services.immich-exposure-notify = {
      description = "Send notices to the owner";
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      unitConfig.ConditionPathExists = [ names.mark "${names.state}/notices/channel" ];
      # Notices come when they come; how many there may be in an hour is the script's to say.
      startLimitIntervalSec = 0;
      serviceConfig = root // import ./quiet.nix // { ExecStart = [ (run "immich-exposure-notify" "notify.sh" "deliver") ]; };
    };
    # Whoever opens, closes, lets in or shuts out: it is told at once.
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
