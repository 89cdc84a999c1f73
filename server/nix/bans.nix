# Our own fail2ban. It counts what the edge writes to its log, and bans with files that the edge checks, so it needs
# neither network nor firewall nor root.
{ config, lib, pkgs, ... }:

let
  cfg = config.services.immich-exposure;
  names = import ./names.nix;
  files = import ./bans-files.nix { inherit lib pkgs; };
  scripts = import ./scripts.nix { inherit config pkgs; };
  prepare = scripts.program { name = "immich-exposure-prepare"; file = "state.sh"; };

  # fail2ban does not start without its log, which the edge creates at its first start. This runs as the edge's user, because
  # root must not write into a folder that belongs to another user.
  log = pkgs.writeShellApplication {
    name = "immich-bans-log";
    checkPhase = "";
    runtimeInputs = [ pkgs.coreutils pkgs.util-linux ];
    text = ''
      install -d -m 0750 -o ${names.edge} -g ${names.edge} ${names.logs}
      umask 027
      setpriv --reuid=${names.edge} --regid=${names.edge} --clear-groups touch ${names.offences}
    '';
  };
in
{
  config = lib.mkIf cfg.enable {
    users.users.${names.bans} = {
      description = "Bans at the edge in front of Immich";
      isSystemUser = true;
      group = names.bans;
    };
    users.groups.${names.bans} = { };

    systemd.services.${names.bans} = {
      description = "Bans at the edge in front of Immich";
      documentation = [ "man:fail2ban(1)" ];
      wantedBy = [ "multi-user.target" ];
      after = [ "${names.edge}.service" ];
      unitConfig.ConditionPathExists = [ names.mark "${names.state}/settings/bans.conf" ];

      serviceConfig = import ./sandbox-user.nix // {
        User = names.bans;
        Group = names.bans;
        # To read the log. The edge's key belongs to the same group, so it is hidden.
        SupplementaryGroups = [ names.edge ];
        InaccessiblePaths = [ "-${names.state}/tls" ];
        ExecStartPre = [ "+${lib.getExe prepare} prepare" "+${lib.getExe log}" ];
        ExecStart = [ "${files.server} -xf start" ];
        ExecReload = [ "${lib.getExe files.client} reload" ];
        Restart = "on-failure";
        RestartPreventExitStatus = [ 0 255 ];
        RestartSec = 5;
        MemoryMax = "256M";

        RuntimeDirectory = [ names.bans ];
        RuntimeDirectoryMode = "0700";
        # Removed with the rest of the exposure.
        StateDirectory = [ "${baseNameOf names.state}/fail2ban" ];
        StateDirectoryMode = "0700";
        ReadWritePaths = map (jail: "${names.state}/bans/${jail}") names.jails;
        UMask = "0077";

        PrivateNetwork = true;
        RestrictAddressFamilies = [ "AF_UNIX" ];
        ProcSubset = "pid";
      };
    };
  };
}
