# The part of nixpkgs' `lib` that configurations and our module use, in words of our own. Written for Nix 2.8 (Debian 12) and newer.
#
# basics.nix:  lists, strings, attribute sets, text formats
# types.nix:   the types of options
# modules.nix: declarations and definitions to a configuration
let
  basics = import ./basics.nix lib;
  modules = import ./modules.nix lib;
  lib = builtins // basics // modules // {
    inherit lib;
    types = import ./types.nix lib;

    # nixpkgs has these by topic as well.
    attrsets = lib;
    lists = lib;
    strings = lib;
    options = lib;
    modules = lib;
    trivial = lib // { release = "26.05"; };
    meta = lib;
  };
in
lib
