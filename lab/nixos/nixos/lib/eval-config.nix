# Evaluates modules to a system: { config, options, pkgs, lib, extendModules }. Assertions count where the system is asked for.
{ system ? null, modules, specialArgs ? { }, facts ? import ../../facts.nix }:
let
  lib = import ../../lib;
  pkgs = import ../../pkgs.nix { inherit lib facts; system = if system == null then facts.builder else system; };
  evaluated = lib.evalModules {
    modules = map (name: ../../modules + "/${name}") [ "base.nix" "systemd.nix" "services.nix" "system.nix" ] ++ modules;
    specialArgs = { inherit pkgs; modulesPath = toString ../modules; } // specialArgs;
  };
in
evaluated // { inherit lib pkgs; }
