# The lab's stub in place of Immich, with the options, the environment and the sandbox of the real unit. Machine learning has no unit.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkIf mkOption types;
  short = import ../../short.nix lib;
  json = pkgs.formats.json { };
  cfg = config.services.immich;
  variables = mkOption { type = types.submodule { freeformType = types.attrsOf types.str; }; default = { }; };
  isSocket = lib.hasPrefix "/";
  # Node binds what the name resolves to first, and /etc/hosts of NixOS gives ::1 to localhost.
  address = if cfg.environment.IMMICH_HOST == "localhost" then "::1" else cfg.environment.IMMICH_HOST;
in
{
  options.services.immich = {
    enable = lib.mkEnableOption "Immich";
    package = lib.mkPackageOption pkgs "immich" { };
    host = short.str "localhost";
    port = short.port 2283;
    openFirewall = short.bool false;
    user = short.str "immich";
    group = short.str "immich";
    mediaLocation = short.path "/var/lib/immich";
    environment = variables;
    secretsFile = short.nullOr (types.str // { check = x: lib.isString x && types.path.check x; });
    settings = short.nullOr (types.submodule {
      freeformType = json.type;
      options = { newVersionCheck.enabled = short.bool false; server.externalDomain = short.str ""; };
    });
    accelerationDevices = short.of (types.nullOr (types.listOf types.str)) [ ];
    machine-learning = { enable = short.bool true; environment = variables; };
    database = {
      enable = short.bool true;
      enableVectorChord = short.bool true;
      enableVectors = short.bool (lib.versionOlder config.system.stateVersion "25.11");
      createDB = short.bool true;
      name = short.str "immich";
      host = short.str "/run/postgresql";
      port = short.port 5432;
      user = short.str "immich";
    };
    redis = { enable = short.bool true; host = short.str config.services.redis.servers.immich.unixSocket; port = short.port 0; };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = isSocket cfg.database.host || cfg.secretsFile != null;
        message = "A secrets file containing at least the database password must be provided when unix sockets are not used.";
      }
      {
        assertion = !cfg.database.enable || cfg.database.enableVectorChord || cfg.database.enableVectors;
        message = "At least one of services.immich.database.enableVectorChord and services.immich.database.enableVectors has to be enabled.";
      }
    ];
    networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall [ cfg.port ];
    services.postgresql.enable = mkIf cfg.database.enable true;
    services.redis.servers.immich = mkIf cfg.redis.enable { enable = true; inherit (cfg.redis) port; };

    services.immich.environment = {
      IMMICH_HOST = cfg.host;
      IMMICH_PORT = toString cfg.port;
      IMMICH_MEDIA_LOCATION = cfg.mediaLocation;
      IMMICH_MACHINE_LEARNING_URL = "http://localhost:3003";
    }
    // (if isSocket cfg.database.host then { DB_URL = "postgresql:///${cfg.database.name}?host=${cfg.database.host}"; }
    else { DB_HOSTNAME = cfg.database.host; DB_PORT = toString cfg.database.port; DB_DATABASE_NAME = cfg.database.name; DB_USERNAME = cfg.database.user; })
    // (if isSocket cfg.redis.host then { REDIS_SOCKET = cfg.redis.host; } else { REDIS_HOSTNAME = cfg.redis.host; REDIS_PORT = toString cfg.redis.port; })
    // lib.optionalAttrs (cfg.settings != null) { IMMICH_CONFIG_FILE = "${json.generate "immich.json" cfg.settings}"; };

    systemd.slices.system-immich.description = "Immich slice";
    systemd.services.immich-server = {
      description = "Immich backend server (the lab's stub)";
      requires = lib.optional cfg.database.enable "postgresql.service";
      after = [ "network.target" ] ++ lib.optional cfg.database.enable "postgresql.service";
      wantedBy = [ "multi-user.target" ];
      inherit (cfg) environment;
      serviceConfig = {
        Type = "simple";
        ExecStart = "${lib.getExe' cfg.package "server"} --host ${address} --port ${cfg.environment.IMMICH_PORT}";
        EnvironmentFile = mkIf (cfg.secretsFile != null) cfg.secretsFile;
        Restart = "on-failure";
        RestartSec = 3;
        User = cfg.user;
        Group = cfg.group;
        Slice = "system-immich.slice";
        StateDirectory = "immich";
        RuntimeDirectory = "immich";
        SyslogIdentifier = "immich";
        SupplementaryGroups = mkIf (cfg.redis.enable && isSocket cfg.redis.host) [ config.services.redis.servers.immich.group ];
        CapabilityBoundingSet = "";
        NoNewPrivileges = true;
        PrivateUsers = true;
        PrivateTmp = true;
        PrivateDevices = cfg.accelerationDevices == [ ];
        DeviceAllow = mkIf (cfg.accelerationDevices != null) cfg.accelerationDevices;
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
    systemd.tmpfiles.settings.immich."${cfg.mediaLocation}".e = { inherit (cfg) user group; mode = "0700"; };
    users.users.immich = mkIf (cfg.user == "immich") { isSystemUser = true; group = cfg.group; };
    users.groups.immich = mkIf (cfg.group == "immich") { };
  };
}
