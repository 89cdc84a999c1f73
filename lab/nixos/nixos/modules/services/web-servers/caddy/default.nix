# Caddy with the file that NixOS writes from the options, run by the unit of its package.
{ config, lib, options, pkgs, ... }:
let
  inherit (lib) mkIf mkOption optional optionalString types;
  short = import ../../../short.nix lib;
  json = pkgs.formats.json { };
  cfg = config.services.caddy;
  hosts = lib.attrValues cfg.virtualHosts;
  certificate = name: config.security.acme.certs.${name}.directory;

  site = host: ''
    ${lib.concatStringsSep " " ([ host.hostName ] ++ host.serverAliases)} {
    ${optionalString (host.listenAddresses != [ ]) "bind ${lib.concatStringsSep " " host.listenAddresses}"}
    ${optionalString (host.useACMEHost != null) "tls ${certificate host.useACMEHost}/cert.pem ${certificate host.useACMEHost}/key.pem"}
    ${optionalString (host.logFormat != null) "log {\n${host.logFormat}\n}"}
    ${host.extraConfig}
    }
  '';
  caddyfile = pkgs.writeText "Caddyfile-raw" ''
    {
    ${cfg.globalConfig}
    }
    ${cfg.extraConfig}
    ${lib.concatMapStringsSep "\n" site hosts}
  '';
  # Only formatted: NixOS does not look whether Caddy takes it.
  formatted = pkgs.runCommand "Caddyfile-formatted" { } ''
    mkdir -p "$out"
    cat ${caddyfile} >"$out/Caddyfile"
    ${lib.getExe cfg.package} fmt --overwrite "$out/Caddyfile"
  '';
  generated = if cfg.settings != { } then json.generate "caddy.json" cfg.settings else "${formatted}/Caddyfile";
  isOwn = cfg.configFile != generated;

  virtualHost = { name, config, ... }: {
    options = {
      hostName = short.str name;
      serverAliases = short.strings;
      listenAddresses = short.strings;
      useACMEHost = short.nullOrStr;
      logFormat = short.of (types.nullOr types.lines) "output file ${cfg.logDir}/access-${lib.replaceStrings [ "/" " " ] [ "_" "_" ] config.hostName}.log";
      extraConfig = short.text;
    };
  };
in
{
  imports = [
    (lib.mkRenamedOptionModule [ "services" "caddy" "ca" ] [ "services" "caddy" "acmeCA" ])
    (lib.mkRenamedOptionModule [ "services" "caddy" "config" ] [ "services" "caddy" "extraConfig" ])
    (lib.mkRemovedOptionModule [ "services" "caddy" "agree" ] "It is no longer necessary for Caddy 2.")
  ];
  options.services.caddy = {
    enable = lib.mkEnableOption "Caddy web server";
    package = lib.mkPackageOption pkgs "caddy" { };
    user = short.str "caddy";
    group = short.str "caddy";
    dataDir = short.path "/var/lib/caddy";
    logDir = short.path "/var/log/caddy";
    logFormat = short.of types.lines "level ERROR";
    configFile = short.path generated;
    adapter = short.of (types.nullOr types.str) (if isOwn || baseNameOf cfg.configFile == "Caddyfile" then "caddyfile" else null);
    resume = short.bool false;
    globalConfig = short.text;
    extraConfig = short.text;
    virtualHosts = short.of (types.attrsOf (types.submodule virtualHost)) { };
    acmeCA = short.nullOrStr;
    email = short.nullOrStr;
    httpPort = short.of (types.nullOr types.port) 80;
    httpsPort = short.of (types.nullOr types.port) 443;
    enableReload = short.bool true;
    settings = mkOption { inherit (json) type; default = { }; };
    environmentFile = short.nullOrPath;
    openFirewall = short.bool false;
  };

  config = mkIf cfg.enable {
    assertions = [ {
      assertion = isOwn || lib.elem cfg.adapter [ "caddyfile" null ];
      message = "To specify an adapter other than 'caddyfile' please provide your own configuration via `services.caddy.configFile`";
    } ];
    services.caddy.globalConfig = ''
      ${optionalString (cfg.email != null) "email ${cfg.email}"}
      ${optionalString (cfg.acmeCA != null) "acme_ca ${cfg.acmeCA}"}
      ${optionalString (!lib.elem cfg.httpPort [ null 80 ]) "http_port ${toString cfg.httpPort}"}
      ${optionalString (!lib.elem cfg.httpsPort [ null 443 ]) "https_port ${toString cfg.httpsPort}"}
      log {
      ${cfg.logFormat}
      }
    '';
    networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall (lib.filter (port: port != null) [ cfg.httpPort cfg.httpsPort ]);
    environment.etc."caddy/caddy_config".source = cfg.configFile;
    systemd.packages = [ cfg.package ];
    systemd.services.caddy = {
      wantedBy = [ "multi-user.target" ];
      startLimitIntervalSec = 14400;
      startLimitBurst = 10;
      reloadTriggers = optional cfg.enableReload cfg.configFile;
      restartTriggers = optional (!cfg.enableReload) cfg.configFile;
      serviceConfig =
        let
          arguments = "--config /etc/caddy/caddy_config" + optionalString (cfg.adapter != null) " --adapter ${cfg.adapter}";
          program = lib.getExe cfg.package;
        in
        {
          # The empty value drops what the package's unit says.
          ExecStart = [ "" ("${program} run ${arguments}" + optionalString cfg.resume " --resume") ];
          ExecReload = [ "" ] ++ optional cfg.enableReload "${program} reload ${arguments} --force";
          User = cfg.user;
          Group = cfg.group;
          ReadWritePaths = [ cfg.dataDir ];
          StateDirectory = mkIf (cfg.dataDir == "/var/lib/caddy") [ "caddy" ];
          LogsDirectory = mkIf (cfg.logDir == "/var/log/caddy") [ "caddy" ];
          Restart = "on-failure";
          RestartPreventExitStatus = 1;
          RestartSec = "5s";
          EnvironmentFile = optional (cfg.environmentFile != null) cfg.environmentFile;
          NoNewPrivileges = true;
          PrivateDevices = true;
          ProtectHome = true;
        };
    };
    users.users.caddy = mkIf (cfg.user == "caddy") { uid = config.ids.uids.caddy; group = cfg.group; home = cfg.dataDir; };
    users.groups.caddy = mkIf (cfg.group == "caddy") { gid = config.ids.gids.caddy; };
  };
}
