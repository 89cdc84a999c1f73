# Recorded, with the groups that others join; no unit.
{ config, lib, ... }:
let
  short = import ../../short.nix lib;
  inherit (lib) types;
  cfg = config.services.redis;
  named = name: if name == "" then "redis" else "redis-${name}";
  enabled = lib.filterAttrs (_: server: server.enable) cfg.servers;
in
{
  options.services.redis = {
    vmOverCommit = short.bool true;
    servers = short.of (types.attrsOf (types.submodule ({ name, ... }: {
      freeformType = types.attrsOf short.anyTree;
      options = {
        enable = short.bool false;
        user = short.str (named name);
        group = short.str (named name);
        port = short.port (if name == "" then 6379 else 0);
        bind = short.of (types.nullOr types.str) "127.0.0.1";
        unixSocket = short.of (types.nullOr types.path) "/run/${named name}/redis.sock";
      };
    }))) { };
  };
  config = {
    # So that others may name its socket.
    services.redis.servers.immich = { };
    users.groups = lib.mapAttrs' (_: server: lib.nameValuePair server.group { }) enabled;
    users.users = lib.mapAttrs' (_: server: lib.nameValuePair server.user { isSystemUser = true; inherit (server) group; }) enabled;
  };
}
