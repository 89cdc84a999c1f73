# `<nixpkgs/nixos>`: the system of a configuration.
let
  named = builtins.getEnv "NIXOS_CONFIG";
in
{ configuration ? if named != "" then /. + named else <nixos-config>, system ? builtins.currentSystem, facts ? import ../facts.nix, lib ? import ../lib }:
let evaluated = import ./lib/eval-config.nix { inherit system facts lib; modules = [ configuration ]; }; in
{
  inherit (evaluated) config options pkgs;
  system = evaluated.config.system.build.toplevel;
}
