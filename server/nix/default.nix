# services.immich-exposure: Immich behind an edge that a Tailscale funnel can open to the internet.
#
# It brings units, users and files of its own and touches nothing else, except that it takes Immich off the network at home when
# asked to. While it is not enabled, the system is the same as without it.
#
# What is evaluated here is the same for everybody. Domain, ports of the edge, limits and ban times are read from root's files in
# /var/lib/immich-exposure when a unit starts or reloads: changing them takes no rebuild.
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

  # Once for all the files: it evaluates the configuration a second time, without this module.
  config._module.args.exposedImmich = import ./immich.nix { inherit config lib extendModules; };

  options.services.immich-exposure = {
    enable = mkEnableOption ''
      the edge in front of Immich, ready to be opened to the internet by a Tailscale funnel.

      Nothing is open, and neither edge nor bans run, before somebody has put an exposure into
      `/var/lib/immich-exposure`, as `pulumi up` does'';

    lan = mkOption {
      type = types.enum [ "close" "keep" ];
      default = "close";
      example = "keep";
      description = ''
        What becomes of Immich on the network at home.

        With `close`, Immich listens on loopback alone, and a socket of this module stands where it listened before
        whenever the exposure is shut (see `immich-exposure lan`). With `keep`, Immich is reached at home as before,
        past the edge and its bans. An Immich that is not managed by this configuration is always kept as it is.
      '';
    };

    immich = {
      managed = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = ''
          Whether Immich is `services.immich` of this configuration. Say `false` for one in a container or elsewhere
          on this machine, and give its address and port.
        '';
      };

      address = mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "::1";
        description = "The IP address at which an Immich answers that this configuration does not manage.";
      };

      port = mkOption {
        type = types.port;
        default = 2283;
        example = 3001;
        description = "The port at which an Immich answers that this configuration does not manage.";
      };
    };

    package = mkOption {
      type = types.package;
      default = import ./package.nix { inherit lib pkgs; };
      defaultText = literalExpression "pkgs.callPackage ./package.nix { }";
      example = literalExpression "inputs.immich-exposure.packages.\${pkgs.stdenv.hostPlatform.system}.default";
      description = "The edge: Caddy with the modules of this project, as `bin/caddy`.";
    };
  };
}
