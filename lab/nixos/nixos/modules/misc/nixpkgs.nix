# Which packages the configuration gets. `pkgsFor { system, overlays }` comes from eval-config.nix.
{ config, lib, pkgsFor, ... }:
let
  short = import ../short.nix lib;
  cfg = config.nixpkgs;
  platform = lib.types.either lib.types.str lib.types.attrs;
in
{
  options.nixpkgs = {
    config = short.recorded;
    overlays = short.of (lib.types.listOf lib.types.raw) [ ];
    pkgs = lib.mkOption { type = lib.types.raw; };
    system = lib.mkOption {
      type = lib.types.str;
      default = throw "Neither `nixpkgs.hostPlatform' nor the legacy option `nixpkgs.system' has been set.";
    };
    hostPlatform = lib.mkOption { type = platform; default = cfg.system; apply = p: if lib.isString p then { system = p; } else p; };
    buildPlatform = lib.mkOption { type = platform; default = cfg.hostPlatform; };
    flake = {
      source = short.of (lib.types.nullOr (lib.types.either lib.types.str lib.types.path)) null;
      setNixPath = short.bool (cfg.flake.source != null);
      setFlakeRegistry = short.bool (cfg.flake.source != null);
    };
  };
  config = {
    nixpkgs.pkgs = lib.mkOptionDefault (pkgsFor { inherit (cfg.hostPlatform) system; inherit (cfg) overlays; });
    _module.args.pkgs = cfg.pkgs;
  };
}
