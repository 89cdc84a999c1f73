# Evaluates modules to a system: { config, options, pkgs, lib, extendModules }. Assertions count where the system is asked for.
# system: the platform, where the modules say none; null for none
{ system ? null, modules, specialArgs ? { }, baseModules ? import ../modules/module-list.nix, extraModules ? [ ], facts ? import ../../facts.nix, lib ? import ../../lib, ... }:
let
  pkgsFor = { system, overlays ? [ ] }: import ../../. { inherit system overlays facts lib; };
  given = { _file = ./eval-config.nix; config = lib.optionalAttrs (system != null) { nixpkgs.system = lib.mkDefault system; }; };
  evaluated = lib.evalModules {
    modules = baseModules ++ extraModules ++ [ given { _module.args = { inherit pkgsFor; utils = import ./utils.nix lib; }; } ] ++ modules;
    specialArgs = { modulesPath = toString ../modules; } // specialArgs;
  };
in
evaluated // { inherit lib; inherit (evaluated._module.args) pkgs; }
