# The scripts of ../scripts as programs. Each is lib.sh and its own text in one, the same as `pulumi up` runs over SSH.
{ config, pkgs, ... }:

{
  # `before` is run ahead of the library, `programs` are found beside those that every script may call.
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
    # The script sets its own options. It is checked where it is written: a newer checker must not stop a rebuild.
    bashOptions = [ ];
    checkPhase = "";
    text = before + builtins.readFile ../scripts/lib.sh + builtins.readFile (../scripts + "/${file}");
  };
}
