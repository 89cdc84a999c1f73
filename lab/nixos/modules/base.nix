# Options that are no service: assertions, /etc, packages, people, network, and what the boot would need.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  # Declared so that an ordinary configuration.nix evaluates; the lab's server boots without them.
  ignored = mkOption { type = types.anything; default = { }; };
  ports = mkOption { type = types.listOf types.port; default = [ ]; };
in
{
  options = {
    assertions = mkOption { type = types.listOf types.unspecified; default = [ ]; };
    warnings = mkOption { type = types.listOf types.str; default = [ ]; };

    environment = {
      systemPackages = mkOption { type = types.listOf types.package; default = [ ]; };
      etc = mkOption {
        default = { };
        type = types.attrsOf (types.submodule ({ name, ... }: {
          options = {
            enable = mkOption { type = types.bool; default = true; };
            target = mkOption { type = types.str; default = name; };
            text = mkOption { type = types.nullOr types.lines; default = null; };
            source = mkOption { type = types.nullOr types.path; default = null; };
            # Copies with a mode of their own are not made here, so they are refused.
            mode = mkOption { type = types.enum [ "symlink" ]; default = "symlink"; };
          };
        }));
      };
    };

    users = {
      users = mkOption {
        default = { };
        type = types.attrsOf (types.submodule ({ name, ... }: {
          options = {
            name = mkOption { type = types.str; default = name; };
            description = mkOption { type = types.str; default = ""; };
            uid = mkOption { type = types.nullOr types.int; default = null; };
            group = mkOption { type = types.str; default = ""; };
            extraGroups = mkOption { type = types.listOf types.str; default = [ ]; };
            home = mkOption { type = types.path; default = "/var/empty"; };
            isSystemUser = mkOption { type = types.bool; default = false; };
            # A person: must be there already, as the lab's `admin` is.
            isNormalUser = mkOption { type = types.bool; default = false; };
            openssh = ignored;
          };
        }));
      };
      groups = mkOption {
        default = { };
        type = types.attrsOf (types.submodule {
          options = {
            gid = mkOption { type = types.nullOr types.int; default = null; };
            members = mkOption { type = types.listOf types.str; default = [ ]; };
          };
        });
      };
    };

    networking = {
      hostName = mkOption { type = types.str; default = "nixos"; };
      enableIPv6 = mkOption { type = types.bool; default = true; };
      nftables.enable = mkOption { type = types.bool; default = false; };
      # Recorded for assertions to look at; no packet filter is written.
      firewall = {
        enable = mkOption { type = types.bool; default = true; };
        allowedTCPPorts = ports;
        allowedUDPPorts = ports;
        trustedInterfaces = mkOption { type = types.listOf types.str; default = [ ]; };
        interfaces = mkOption {
          default = { };
          type = types.attrsOf (types.submodule { options = { allowedTCPPorts = ports; allowedUDPPorts = ports; }; });
        };
      };
    };

    system = {
      stateVersion = mkOption { type = types.str; };
      preSwitchChecks = mkOption { type = types.attrsOf types.str; default = { }; };
    };

    boot = ignored;
    fileSystems = ignored;
    hardware = ignored;
    i18n = ignored;
    nix = ignored;
    nixpkgs = ignored;
    security = ignored;
    swapDevices = mkOption { type = types.listOf types.anything; default = [ ]; };
    time = ignored;
  };

}
