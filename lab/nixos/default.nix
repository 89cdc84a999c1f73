# `import <nixpkgs> { }`: the packages.
{ system ? builtins.currentSystem, overlays ? [ ], facts ? import ./facts.nix, lib ? import ./lib, ... }:
let
  base = import ./pkgs.nix { inherit lib facts system pkgs; };
  pkgs = lib.foldl' (all: overlay: all // overlay pkgs all) base overlays;
in
pkgs
