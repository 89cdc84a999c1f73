# Bans by lists: countries and networks from files of the owner's, and what a CrowdSec on this machine or at home has decided. Each
# is written as one file into a folder that the edge watches; nothing else of the exposure is touched, and nothing runs unless the
# settings name a list. What is read comes from elsewhere, so it is read without rights, and by as much as each needs.
{ config, lib, pkgs, ... }:

let
  cfg = config.services.immich-exposure;
  names = import ./names.nix;

  caddy = lib.getExe cfg.package;
  settings = "${names.state}/settings/lists.conf";
  key = "${names.state}/settings/crowdsec.key";
  places = "--settings ${settings} --folder ${names.state}/bans/lists --reports ${names.state}/lists";

  # As the user of the bans, but without a way to fail2ban, its memory or its folders.
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
    # What became of each list; it goes with the rest of the exposure.
    StateDirectory = [ "${baseNameOf names.state}/lists" ];
    StateDirectoryMode = "0700";
    ReadWritePaths = [ "${names.state}/bans/lists" ];
    UMask = "0027";
    MemoryDenyWriteExecute = true;
    ProcSubset = "pid";
  };
  # What Go collects garbage for, well below MemoryMax.
  environment = {
    GOMEMLIMIT = "160MiB";
    XDG_CONFIG_HOME = "/tmp";
    XDG_DATA_HOME = "/tmp";
  };

  # The one address beyond this machine's that the reader may talk to is a setting. As root, before it starts.
  reach = pkgs.writeShellApplication {
    name = "immich-exposure-crowdsec-reach";
    checkPhase = "";
    runtimeInputs = [ pkgs.gnused config.systemd.package ];
    text = ''
      address=$(sed -n -e 's|^crowdsec https\{0,1\}://\[\([0-9a-f:]*\)\].*|\1|p' -e 's|^crowdsec https\{0,1\}://\([0-9.]*\).*|\1|p' ${settings})
      case $address in "" | 127.* | ::1) address=localhost ;; *) ;; esac
      # The first one forgets an address of before.
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
      # `pulumi up` starts it as well, and is never one start too many.
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
      # A CrowdSec that is away for long is asked on.
      startLimitIntervalSec = 0;
      inherit environment;
      serviceConfig = reader // {
        ExecStartPre = [ "+${lib.getExe reach}" ];
        ExecStart = [ "${caddy} ban-lists-follow ${places}" ];
        # Root's alone; systemd opens it.
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
