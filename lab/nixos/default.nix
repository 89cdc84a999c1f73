# `import <nixpkgs> { }`: the packages.
{ system ? builtins.currentSystem, overlays ? [ ], facts ? import ./facts.nix, ... }:
let
  lib = import ./lib;
  base = import ./pkgs.nix { inherit lib facts system pkgs; };
  pkgs = lib.foldl' (all: overlay: all // overlay pkgs all) base overlays;
in
pkgs
