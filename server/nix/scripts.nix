# The scripts of ../scripts as programs. Each is lib.sh and its own text in one, the same as `pulumi up` runs over SSH.
{ config, lib, pkgs, ... }:

let
  bans = import ./bans-files.nix { inherit lib pkgs; };
in
{
  # `before` is run ahead of the library.
  program = { name, file, before ? "" }: pkgs.writeShellApplication {
    inherit name;
    runtimeInputs = [
      bans.client
      config.services.tailscale.package
      pkgs.coreutils
      pkgs.curl
      pkgs.diffutils
      pkgs.findutils
      pkgs.gawk
      pkgs.getent
      pkgs.gnugrep
      pkgs.gnused
      pkgs.iproute2
      pkgs.nix
      pkgs.systemd
      pkgs.util-linux
    ];
    # The script sets its own options. It is checked where it is written: a newer checker must not stop a rebuild.
    bashOptions = [ ];
    checkPhase = "";
    text = before + builtins.readFile ../scripts/lib.sh + builtins.readFile (../scripts + "/${file}");
  };
}
