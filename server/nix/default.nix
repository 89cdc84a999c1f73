# services.immich-exposure: Immich behind an edge that a Tailscale funnel can open to the internet.
#
# It brings its own units, users and files and touches nothing else, except that it takes Immich off the home network if asked
# to. While it is not enabled, the system is the same as without it.
#
# The evaluation is the same for everybody. The units read the domain, the edge's ports, limits and ban times from root's files
# in /var/lib/immich-exposure when they start or reload, so changing them needs no rebuild.
{ config, lib, pkgs, extendModules, ... }:

let
  inherit (lib) literalExpression mkEnableOption mkOption types;
in
{
  imports = [
    ./assertions.nix
    ./bans.nix
    ./command.nix
    ./edge.nix
    ./lan.nix
    ./lists.nix
    ./loopback.nix
    ./timers.nix
  ];

  # Done once for all files, because it evaluates the configuration a second time, without this module.
  config._module.args.exposedImmich = import ./immich.nix { inherit config lib extendModules; };

  options.services.immich-exposure = {
    enable = mkEnableOption ''
      the edge in front of Immich, which a Tailscale funnel can open to the internet.

      Nothing is open, and neither the edge nor the bans run, until somebody has put an exposure into
      `/var/lib/immich-exposure`, as `pulumi up` does'';

    lan = mkOption {
      type = types.enum [ "close" "keep" ];
      default = "close";
      example = "keep";
      description = ''
        What happens to Immich on the home network.

        With `close`, Immich listens only on loopback, and whenever the exposure is closed a socket of this module
        listens where Immich did before (see `immich-exposure lan`). With `keep`, Immich is reachable at home as before,
        past the edge and its bans. An Immich that this configuration does not manage is always kept as it is.
      '';
    };

    immich = {
      managed = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = ''
          Whether Immich is `services.immich` of this configuration. Set this to `false` for a container or another
          program on this machine, and set its address and port.
        '';
      };

      address = mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "::1";
        description = "The IP address of an Immich that this configuration does not manage.";
      };

      port = mkOption {
        type = types.port;
        default = 2283;
        example = 3001;
        description = "The port of an Immich that this configuration does not manage.";
      };
    };

    package = mkOption {
      type = types.package;
      default = import ./package.nix { inherit lib pkgs; };
      defaultText = literalExpression "pkgs.callPackage ./package.nix { }";
      example = literalExpression "inputs.immich-exposure.packages.\${pkgs.stdenv.hostPlatform.system}.default";
      description = "The edge: Caddy with this project's modules, as `bin/caddy`.";
    };
  };
}
