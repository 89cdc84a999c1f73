# Ban lists: countries and networks from the owner's files, and decisions of a CrowdSec on this machine or at home. Each list is
# written as one file to a folder that the edge watches; nothing else of the exposure is touched, and nothing runs unless the
# settings name a list. The input comes from elsewhere, so it is read without privileges, each unit with only the access it needs.
{ config, lib, pkgs, ... }:

let
  cfg = config.services.immich-exposure;
  names = import ./names.nix;

  caddy = lib.getExe cfg.package;
  settings = "${names.state}/settings/lists.conf";
  key = "${names.state}/settings/crowdsec.key";
  places = "--settings ${settings} --folder ${names.state}/bans/lists --reports ${names.state}/lists";

  # Runs as the user of the bans, but cannot reach fail2ban, its memory or its folders.
  reader = import ./sandbox-user.nix // {
    User = names.bans;
    Group = names.bans;
    SupplementaryGroups = [ names.edge ];
    InaccessiblePaths = map (path: "-${path}") [
      "${names.state}/tls"
      "${names.state}/devices"
      "${names.state}/fail2ban"
      "/run/${names.bans}"
      names.logs
    ];
    # The result of each list; removed with the rest of the exposure.
    StateDirectory = [ "${baseNameOf names.state}/lists" ];
    StateDirectoryMode = "0700";
    ReadWritePaths = [ "${names.state}/bans/lists" ];
    UMask = "0027";
    MemoryDenyWriteExecute = true;
    ProcSubset = "pid";
  };
  # Go's memory limit, well below MemoryMax.
  environment = {
    GOMEMLIMIT = "160MiB";
    XDG_CONFIG_HOME = "/tmp";
    XDG_DATA_HOME = "/tmp";
  };

  # The only address beyond this machine's that the reader may connect to is a setting. Runs as root, before it starts.
  reach = pkgs.writeShellApplication {
    name = "immich-exposure-crowdsec-reach";
    checkPhase = "";
    runtimeInputs = [ pkgs.gnused config.systemd.package ];
    text = ''
      address=$(sed -n -e 's|^crowdsec https\{0,1\}://\[\([0-9a-f:]*\)\].*|\1|p' -e 's|^crowdsec https\{0,1\}://\([0-9.]*\).*|\1|p' ${settings})
      case $address in "" | 127.* | ::1) address=localhost ;; *) ;; esac
      # The first one clears an earlier address.
      systemctl set-property --runtime immich-exposure-crowdsec.service IPAddressAllow= IPAddressAllow=localhost "IPAddressAllow=$address"
    '';
  };
in
{
  config = lib.mkIf cfg.enable {
    systemd.services.immich-exposure-lists = {
      description = "Ban countries and networks from lists";
      after = [ "${names.edge}.service" ];
      unitConfig.ConditionPathExists = [ names.mark settings ];
      # `pulumi up` starts it as well, and must never hit the start limit.
      startLimitIntervalSec = 0;
      inherit environment;
      serviceConfig = reader // import ./quiet.nix // {
        Type = "oneshot";
        ExecStart = [ "${caddy} ban-lists-write ${places}" ];
        PrivateNetwork = true;
        RestrictAddressFamilies = [ "AF_UNIX" ];
      };
    };
    systemd.timers.immich-exposure-lists = {
      description = "Ban countries and networks from lists, every five minutes";
      wantedBy = [ "timers.target" ];
      unitConfig.ConditionPathExists = [ names.mark settings ];
      timerConfig = {
        OnBootSec = "1min";
        OnUnitActiveSec = "5min";
      };
    };

    systemd.services.immich-exposure-crowdsec = {
      description = "Apply CrowdSec's bans";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" "${names.edge}.service" "crowdsec.service" ];
      unitConfig.ConditionPathExists = [ names.mark settings key ];
      # Keep asking a CrowdSec that has been down for long.
      startLimitIntervalSec = 0;
      inherit environment;
      serviceConfig = reader // {
        ExecStartPre = [ "+${lib.getExe reach}" ];
        ExecStart = [ "${caddy} ban-lists-follow ${places}" ];
        # Only root can read it; systemd opens it.
        StandardInput = "file:${key}";
        Restart = "on-failure";
        RestartSec = 10;
        IPAddressAllow = [ "localhost" ];
        IPAddressDeny = [ "any" ];
        RestrictAddressFamilies = [ "AF_INET" "AF_INET6" ];
      };
    };
  };
}
