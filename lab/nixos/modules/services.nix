# The services that an exposed Immich touches. Option names, types, defaults and unit settings follow NixOS 25.11 and 26.05.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkDefault mkEnableOption mkIf mkMerge mkOption mkPackageOption optional optionalString types;
  str = default: mkOption { type = types.str; inherit default; };
  bool = default: mkOption { type = types.bool; inherit default; };
  port = default: mkOption { type = types.port; inherit default; };
  strings = mkOption { type = types.listOf types.str; default = [ ]; };
  nullOrStr = mkOption { type = types.nullOr types.str; default = null; };

  caddy = config.services.caddy;
  fail2ban = config.services.fail2ban;
  immich = config.services.immich;

  # --- fail2ban's ini files -----------------------------------------------------------------------------------------

  atom = types.nullOr (types.oneOf [ types.bool types.int types.float types.str ]);
  section = types.attrsOf atom;
  iniValue = v: if lib.isBool v then lib.boolToString v else if v == null then "" else toString v;
  ini = sections: lib.concatStringsSep "\n" (lib.mapAttrsToList
    (name: values: "[${name}]\n" + lib.concatStrings (lib.mapAttrsToList (key: value: "${key} = ${iniValue value}\n") values))
    sections);
  # As the real module does it (nixpkgs asks `isString lib.filter`): a filter given by name is not what is written; the jail's own name is.
  jailSection = name: jail:
    lib.optionalAttrs (name != "DEFAULT") { inherit (jail) enabled; }
    // lib.optionalAttrs (jail.filter != null) { filter = name; }
    // jail.settings;
  jails = lib.filterAttrs (_: jail: !lib.isString jail) fail2ban.jails;
  textJails = lib.filterAttrs (_: lib.isString) fail2ban.jails;
  jailLocal =
    "# Written by the configuration.\n" + ini (lib.mapAttrs jailSection jails)
    + lib.concatStrings (lib.mapAttrsToList (name: text: "\n[${name}]\n${text}\n") textJails);
  fail2banLocal = ini fail2ban.daemonSettings;
in
{
  options.services = {
    caddy = {
      enable = mkEnableOption "Caddy web server";
      package = mkPackageOption pkgs "caddy" { };
      user = str "caddy";
      group = str "caddy";
      dataDir = mkOption { type = types.path; default = "/var/lib/caddy"; };
      logDir = mkOption { type = types.path; default = "/var/log/caddy"; };
      adapter = mkOption { type = types.nullOr types.str; default = "caddyfile"; };
      # The real module's default is written from globalConfig, virtualHosts and extraConfig, which are not here.
      configFile = mkOption { type = types.path; default = "/dev/null"; };
      environmentFile = mkOption { type = types.nullOr types.path; default = null; };
      enableReload = bool true;
      resume = bool false;
    };

    fail2ban = {
      enable = mkEnableOption "fail2ban";
      package = mkPackageOption pkgs "fail2ban" { };
      packageFirewall = mkPackageOption pkgs "iptables" { };
      extraPackages = mkOption { type = types.listOf types.package; default = [ ]; };
      bantime = str "10m";
      maxretry = mkOption { type = types.ints.unsigned; default = 3; };
      banaction = str "iptables-multiport";
      banaction-allports = str "iptables-allports";
      ignoreIP = strings;
      daemonSettings = mkOption { type = types.attrsOf section; default = { }; };
      jails = mkOption {
        default = { };
        type = types.attrsOf (types.either types.lines (types.submodule {
          options = {
            enabled = bool true;
            # A filter written in Nix is not known here; files in filter.d are.
            filter = nullOrStr;
            settings = mkOption { type = section; default = { }; };
          };
        }));
      };
    };

    immich = {
      enable = mkEnableOption "Immich";
      package = mkOption { type = types.nullOr types.package; default = null; };
      host = str "localhost";
      port = port 2283;
      openFirewall = bool false;
      user = str "immich";
      group = str "immich";
      mediaLocation = mkOption { type = types.path; default = "/var/lib/immich"; };
      environment = mkOption { type = types.attrsOf types.str; default = { }; };
      secretsFile = mkOption { type = types.nullOr types.path; default = null; };
      settings = mkOption { type = types.nullOr types.anything; default = null; };
      accelerationDevices = mkOption { type = types.nullOr (types.listOf types.str); default = [ ]; };
      machine-learning.enable = bool true;
      database.enable = bool true;
      redis.enable = bool true;
    };

    # Their units stand outside of the generations: sshd and tailscaled run from boot, whatever the configuration says.
    openssh = {
      enable = mkEnableOption "the OpenSSH secure shell daemon";
      ports = mkOption { type = types.listOf types.port; default = [ 22 ]; };
      openFirewall = bool true;
      settings = mkOption { type = types.attrsOf types.anything; default = { }; };
    };
    tailscale = {
      enable = mkEnableOption "Tailscale client daemon";
      package = mkPackageOption pkgs "tailscale" { };
      port = port 41641;
      interfaceName = str "tailscale0";
      permitCertUid = nullOrStr;
      openFirewall = bool false;
      useRoutingFeatures = mkOption { type = types.enum [ "none" "client" "server" "both" ]; default = "none"; };
      authKeyFile = mkOption { type = types.nullOr types.path; default = null; };
      extraUpFlags = strings;
      extraSetFlags = strings;
      extraDaemonFlags = strings;
      disableTaildrop = bool false;
      disableUpstreamLogging = bool false;
    };
  };

  config = mkMerge [
    (mkIf caddy.enable {
      environment.etc."caddy/caddy_config".source = caddy.configFile;
      systemd.packages = [ caddy.package ];
      systemd.services.caddy = {
        wantedBy = [ "multi-user.target" ];
        startLimitIntervalSec = 14400;
        startLimitBurst = 10;
        reloadTriggers = optional caddy.enableReload caddy.configFile;
        restartTriggers = optional (!caddy.enableReload) caddy.configFile;
        serviceConfig =
          let
            options = "--config /etc/caddy/caddy_config" + optionalString (caddy.adapter != null) " --adapter ${caddy.adapter}";
            program = lib.getExe caddy.package;
          in
          {
            # The empty value drops what the package's unit says.
            ExecStart = [ "" ("${program} run ${options}" + optionalString caddy.resume " --resume") ];
            ExecReload = [ "" ] ++ optional caddy.enableReload "${program} reload ${options} --force";
            User = caddy.user;
            Group = caddy.group;
            ReadWritePaths = [ caddy.dataDir ];
            StateDirectory = mkIf (caddy.dataDir == "/var/lib/caddy") [ "caddy" ];
            LogsDirectory = mkIf (caddy.logDir == "/var/log/caddy") [ "caddy" ];
            Restart = "on-failure";
            RestartPreventExitStatus = 1;
            RestartSec = "5s";
            EnvironmentFile = optional (caddy.environmentFile != null) caddy.environmentFile;
            NoNewPrivileges = true;
            PrivateDevices = true;
            ProtectHome = true;
          };
      };
      users.users.caddy = mkIf (caddy.user == "caddy") { uid = 239; group = caddy.group; home = caddy.dataDir; };
      users.groups.caddy = mkIf (caddy.group == "caddy") { gid = 239; };
    })

    (mkIf fail2ban.enable {
      environment.systemPackages = [ fail2ban.package ];
      environment.etc."fail2ban/fail2ban.local".text = fail2banLocal;
      environment.etc."fail2ban/jail.local".text = jailLocal;
      services.fail2ban = {
        daemonSettings.Definition = {
          logtarget = mkDefault "SYSLOG";
          socket = mkDefault "/run/fail2ban/fail2ban.sock";
          pidfile = mkDefault "/run/fail2ban/fail2ban.pid";
          dbfile = mkDefault "/var/lib/fail2ban/fail2ban.sqlite3";
        };
        jails.DEFAULT.settings = {
          inherit (fail2ban) banaction bantime maxretry;
          banaction_allports = fail2ban.banaction-allports;
          ignoreip = lib.concatStringsSep " " ([ "127.0.0.1/8" "::1" ] ++ fail2ban.ignoreIP);
          backend = "systemd";
        };
        # NixOS also adds a jail for sshd; it reads the journal by a Python module that a small Debian does not have.
      };
      systemd.services.fail2ban = {
        description = "Fail2Ban Service";
        after = [ "network.target" ];
        wantedBy = [ "multi-user.target" ];
        restartTriggers = [ fail2banLocal jailLocal ];
        path = [ fail2ban.package fail2ban.packageFirewall pkgs.iproute2 ] ++ fail2ban.extraPackages;
        serviceConfig = {
          ExecStart = "${fail2ban.package}/bin/fail2ban-server -xf start";
          ExecStop = "${fail2ban.package}/bin/fail2ban-client stop";
          ExecReload = "${fail2ban.package}/bin/fail2ban-client reload";
          PIDFile = "/run/fail2ban/fail2ban.pid";
          Restart = "on-failure";
          RestartPreventExitStatus = "0 255";
          CapabilityBoundingSet = [ "CAP_AUDIT_READ" "CAP_DAC_READ_SEARCH" "CAP_NET_ADMIN" "CAP_NET_RAW" ];
          NoNewPrivileges = true;
          RuntimeDirectory = "fail2ban";
          RuntimeDirectoryMode = "0755";
          StateDirectory = "fail2ban";
          StateDirectoryMode = "0750";
          ProtectSystem = "strict";
          ProtectHome = true;
          PrivateTmp = true;
          PrivateDevices = true;
          ProtectHostname = true;
          ProtectKernelTunables = true;
          ProtectKernelModules = true;
          ProtectControlGroups = true;
        };
      };
      services.openssh.settings.LogLevel = mkDefault "VERBOSE";
    })

    (mkIf immich.enable {
      networking.firewall.allowedTCPPorts = mkIf immich.openFirewall [ immich.port ];
      # The lab's stub in place of Immich, with the sandbox of the real unit.
      systemd.services.immich-server = {
        description = "Immich backend server (the lab's stub)";
        after = [ "network.target" ];
        wantedBy = [ "multi-user.target" ];
        environment = immich.environment // {
          IMMICH_HOST = immich.host;
          IMMICH_PORT = toString immich.port;
          IMMICH_MEDIA_LOCATION = immich.mediaLocation;
        };
        serviceConfig = {
          ExecStart = "${pkgs.immichStub} --host ${immich.host} --port ${toString immich.port}";
          Type = "simple";
          Restart = "on-failure";
          RestartSec = 3;
          User = immich.user;
          Group = immich.group;
          StateDirectory = "immich";
          RuntimeDirectory = "immich";
          SyslogIdentifier = "immich";
          CapabilityBoundingSet = "";
          NoNewPrivileges = true;
          PrivateUsers = true;
          PrivateTmp = true;
          PrivateDevices = true;
          PrivateMounts = true;
          ProtectClock = true;
          ProtectControlGroups = true;
          ProtectHome = true;
          ProtectHostname = true;
          ProtectKernelLogs = true;
          ProtectKernelModules = true;
          ProtectKernelTunables = true;
          RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
          RestrictNamespaces = true;
          RestrictRealtime = true;
          RestrictSUIDSGID = true;
          UMask = "0077";
        };
      };
      systemd.tmpfiles.settings.immich."${immich.mediaLocation}".e = { inherit (immich) user group; mode = "0700"; };
      users.users.immich = mkIf (immich.user == "immich") { isSystemUser = true; group = immich.group; };
      users.groups.immich = mkIf (immich.group == "immich") { };
    })
  ];
}
