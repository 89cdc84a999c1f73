# fail2ban as NixOS runs it, but for the jail of sshd, which reads the journal by a Python module that a small Debian does not have.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkDefault mkIf types;
  short = import ../../short.nix lib;
  cfg = config.services.fail2ban;

  atom = types.nullOr (types.oneOf [ types.bool types.int types.float types.str ]);
  section = types.attrsOf atom;
  file = types.attrsOf section;
  value = v: if lib.isBool v then lib.boolToString v else if v == null then "" else toString v;
  ini = lib.generators.toINI { mkKeyValue = key: v: "${key} = ${value v}"; };

  jails = lib.filterAttrs (_: lib.isAttrs) cfg.jails;
  textJails = lib.filterAttrs (_: jail: lib.isString jail && jail != "") cfg.jails;
  inline = lib.filterAttrs (_: jail: lib.isAttrs jail.filter) jails;
  jailSection = name: jail:
    lib.optionalAttrs (name != "DEFAULT") { inherit (jail) enabled; }
    // lib.optionalAttrs (jail.filter != null) { filter = if lib.isString jail.filter then jail.filter else "nixos-${name}"; }
    // jail.settings;
  jailLocal = ini (lib.mapAttrs jailSection jails) + lib.concatStrings (lib.mapAttrsToList (name: text: "\n[${name}]\n${text}\n") textJails);
  local = kind: lib.mapAttrs' (name: sections: lib.nameValuePair "fail2ban/${kind}.d/${name}.local" { text = ini sections; });

  jail = { name, ... }: {
    options = {
      enabled = lib.mkOption { type = types.bool; default = true; readOnly = name == "DEFAULT"; };
      filter = short.nullOr (types.either types.str file);
      settings = short.of section { };
    };
  };
  increment = lib.filterAttrs (_: v: v != null) cfg.bantime-increment;
  prefer = if config.networking.nftables.enable then "nftables" else "iptables";
in
{
  imports = [
    (lib.mkRemovedOptionModule [ "services" "fail2ban" "daemonConfig" ] "Use `services.fail2ban.daemonSettings'.")
    (lib.mkRemovedOptionModule [ "services" "fail2ban" "extraSettings" ] "Use `services.fail2ban.jails.DEFAULT.settings'.")
  ];
  options.services.fail2ban = {
    enable = lib.mkEnableOption "fail2ban";
    package = lib.mkPackageOption pkgs "fail2ban" { };
    packageFirewall = short.of types.package config.networking.firewall.package;
    extraPackages = short.packages;
    bantime = short.str "10m";
    maxretry = short.of types.ints.unsigned 3;
    banaction = short.str "${prefer}-multiport";
    banaction-allports = short.str "${prefer}-allports";
    ignoreIP = short.strings;
    bantime-increment = { enable = short.bool false; overalljails = short.nullOr types.bool; }
      // lib.genAttrs [ "rndtime" "maxtime" "factor" "formula" "multipliers" ] (_: short.nullOrStr);
    daemonSettings = short.of file { };
    jails = short.of (types.attrsOf (types.either types.lines (types.submodule jail))) { };
    filters = short.of (types.attrsOf file) { };
    actions = short.of (types.attrsOf file) { };
  };

  config = mkIf cfg.enable {
    assertions = [ {
      assertion = cfg.bantime-increment.formula == null || cfg.bantime-increment.multipliers == null;
      message = "Options `services.fail2ban.bantime-increment.formula` and `services.fail2ban.bantime-increment.multipliers` cannot be both specified.";
    } ];
    warnings = lib.optional (!config.networking.firewall.enable && !config.networking.nftables.enable) "fail2ban can not be used without a firewall";
    environment.systemPackages = [ cfg.package ];
    environment.etc = {
      "fail2ban/fail2ban.local".text = ini cfg.daemonSettings;
      "fail2ban/jail.local".text = jailLocal;
    } // local "filter" (lib.mapAttrs' (name: jail: lib.nameValuePair "nixos-${name}" jail.filter) inline) // local "filter" cfg.filters // local "action" cfg.actions;
    services.fail2ban = {
      daemonSettings.Definition = {
        logtarget = mkDefault "SYSLOG";
        socket = mkDefault "/run/fail2ban/fail2ban.sock";
        pidfile = mkDefault "/run/fail2ban/fail2ban.pid";
        dbfile = mkDefault "/var/lib/fail2ban/fail2ban.sqlite3";
      };
      jails.DEFAULT.settings = {
        inherit (cfg) banaction bantime maxretry;
        banaction_allports = cfg.banaction-allports;
        ignoreip = lib.concatStringsSep " " ([ "127.0.0.1/8" "::1" ] ++ cfg.ignoreIP);
        backend = "systemd";
      } // lib.optionalAttrs cfg.bantime-increment.enable
        (lib.mapAttrs' (name: lib.nameValuePair "bantime.${if name == "enable" then "increment" else name}") increment);
    };
    systemd.services.fail2ban = {
      description = "Fail2Ban Service";
      documentation = [ "man:fail2ban(1)" ];
      after = [ "network.target" ];
      partOf = lib.optional config.networking.firewall.enable "firewall.service";
      wantedBy = [ "multi-user.target" ];
      path = [ cfg.package cfg.packageFirewall pkgs.iproute2 ] ++ cfg.extraPackages;
      restartTriggers = [ (ini cfg.daemonSettings) jailLocal ];
      serviceConfig = {
        ExecStart = "${cfg.package}/bin/fail2ban-server -xf start";
        ExecStop = "${cfg.package}/bin/fail2ban-client stop";
        ExecReload = "${cfg.package}/bin/fail2ban-client reload";
        Restart = "on-failure";
        PIDFile = "/run/fail2ban/fail2ban.pid";
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
  };
}
