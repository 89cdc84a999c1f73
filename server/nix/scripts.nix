# The scripts in ../scripts as programs. Each is lib.sh plus its own text, the same as `pulumi up` runs over SSH.
{ config, pkgs, ... }:

{
  # `before` runs before the library; `programs` are available in addition to those that every script may call.
  program = { name, file, before ? "", programs ? [ ] }: pkgs.writeShellApplication {
    inherit name;
    runtimeInputs = programs ++ [
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
      config.nix.package
      config.systemd.package
      pkgs.util-linux
    ];
    # The script sets its own options. It is checked in our own tests instead: a newer checker must not stop a rebuild.
    bashOptions = [ ];
    checkPhase = "";
    text = before + builtins.readFile ../scripts/lib.sh + builtins.readFile (../scripts + "/${file}");
  };
}
