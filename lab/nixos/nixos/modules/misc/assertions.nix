{ lib, ... }:
let inherit (lib) mkOption types; in
{
  options = {
    assertions = mkOption { type = types.listOf types.unspecified; default = [ ]; };
    warnings = mkOption { type = types.listOf types.str; default = [ ]; };
    meta = mkOption { type = types.raw; default = { }; };
    lib = mkOption { type = types.attrsOf types.attrs; default = { }; };
    ids = mkOption {
      type = types.raw;
      readOnly = true;
      default = rec { uids = { root = 0; nginx = 60; postgres = 71; caddy = 239; redis = 96; }; gids = uids; };
    };
  };
}
