# `<nixpkgs/nixos>`: the system of a configuration.
{ configuration ? <nixos-config>, system ? null, facts ? import ../facts.nix }:
let evaluated = import ./lib/eval-config.nix { inherit system facts; modules = [ configuration ]; }; in
{
  inherit (evaluated) config options pkgs;
  system = evaluated.config.system.build.toplevel;
}
