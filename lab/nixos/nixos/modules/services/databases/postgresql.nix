# A unit of that name that keeps running as long as its folder is there, so that what requires it behaves; no database.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkIf types;
  short = import ../../short.nix lib;
  cfg = config.services.postgresql;
  default = "/var/lib/postgresql/${lib.head (lib.splitVersion cfg.package.version)}";
in
{
  options.services.postgresql = {
    enable = short.bool false;
    package = lib.mkPackageOption pkgs "postgresql" { };
    finalPackage = short.of types.raw null;
    dataDir = short.path default;
    enableTCPIP = short.bool false;
    enableJIT = short.bool false;
    authentication = short.text;
    identMap = short.text;
    initdbArgs = short.strings;
    initialScript = short.nullOrPath;
    extensions = short.of types.raw (_: [ ]);
    ensureDatabases = short.strings;
    ensureUsers = short.of (types.listOf short.anyTree) [ ];
    settings = short.recorded;
  };
  config = mkIf cfg.enable {
    systemd.services.postgresql = {
      description = "PostgreSQL Server (the lab's stub)";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      unitConfig.RequiresMountsFor = cfg.dataDir;
      serviceConfig = {
        ExecStartPre = [ "${pkgs.coreutils}/bin/test -d ${cfg.dataDir}" ];
        ExecStart = "${pkgs.coreutils}/bin/sleep infinity";
        User = "postgres";
        Group = "postgres";
        StateDirectory = mkIf (cfg.dataDir == default) "postgresql postgresql/${baseNameOf default}";
      };
    };
    users.users.postgres = { isSystemUser = true; group = "postgres"; home = "/var/lib/postgresql"; };
    users.groups.postgres = { };
  };
}
