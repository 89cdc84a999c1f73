# Nix itself: of its settings only the experimental features have an effect here, and where it looks for <nixpkgs>.
{ config, lib, pkgs, ... }:
let
  short = import ../short.nix lib;
  inherit (lib) mkOption types;
  cfg = config.nix;
  flake = config.nixpkgs.flake;
  atom = types.nullOr (types.oneOf [ types.bool types.int types.float types.str types.path types.package ]);
  channels = "/nix/var/nix/profiles/per-user/root/channels";
  words = v: toString (if lib.isString v then v else lib.toList v);
  registry = lib.mapAttrsToList (id: entry: { from = { type = "indirect"; inherit id; }; exact = true; } // entry) cfg.registry;
in
{
  imports = [
    (lib.mkRenamedOptionModule [ "nix" "trustedUsers" ] [ "nix" "settings" "trusted-users" ])
    (lib.mkRenamedOptionModule [ "nix" "autoOptimiseStore" ] [ "nix" "settings" "auto-optimise-store" ])
    (lib.mkRenamedOptionModule [ "nix" "allowedUsers" ] [ "nix" "settings" "allowed-users" ])
  ];
  options.nix = {
    enable = short.bool true;
    package = lib.mkPackageOption pkgs "nix" { };
    channel.enable = short.bool true;
    nixPath = mkOption {
      type = types.listOf types.str;
      default = lib.optionals cfg.channel.enable [ "nixpkgs=${channels}/nixos" "nixos-config=/etc/nixos/configuration.nix" channels ];
    };
    settings = mkOption { type = types.submodule { freeformType = types.attrsOf (types.either atom (types.listOf atom)); }; default = { }; };
    extraOptions = short.text;
    registry = short.recorded;
    gc = { automatic = short.bool false; dates = short.of (types.either types.str (types.listOf types.str)) "03:15"; options = short.str ""; persistent = short.bool true; randomizedDelaySec = short.str "0"; };
    optimise = { automatic = short.bool false; dates = short.of (types.either types.str (types.listOf types.str)) [ "03:45" ]; };
  } // short.recordedAll [ "buildMachines" "daemonCPUSchedPolicy" "daemonIOSchedClass" "distributedBuilds" "sshServe" ];

  config = {
    # A system that comes from a flake names no nixos-config (nixpkgs, misc/nixpkgs-flake.nix).
    nix.nixPath = lib.mkIf flake.setNixPath (lib.mkDefault ([ "nixpkgs=${toString flake.source}" ] ++ lib.optional cfg.channel.enable channels));
    nix.registry = lib.mkIf flake.setFlakeRegistry { nixpkgs.to = lib.mkDefault { type = "path"; path = toString flake.source; }; };
    environment.sessionVariables.NIX_PATH = cfg.nixPath;
    environment.etc."nix/registry.json".text = builtins.toJSON { version = 2; flakes = registry; };
    environment.etc."nix/nix.conf".text = ''
      # The evaluator works alone: root without a daemon, nothing fetched, builders with the server's own programs.
      sandbox = false
      substituters =
      build-users-group =
      experimental-features = ${words cfg.settings.experimental-features or ""}
      ${cfg.extraOptions}
    '';
  };
}
