# `import <nixpkgs> { }`: the packages.
{ system ? null, facts ? import ./facts.nix, ... }:
import ./pkgs.nix { lib = import ./lib; inherit facts; system = if system == null then facts.builder else system; }
