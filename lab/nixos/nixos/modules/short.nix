# Short forms of options that occur everywhere, and what is taken without effect.
lib:
let
  inherit (lib) mkOption types;
  of = type: default: mkOption { inherit type default; };
in
rec {
  inherit of;
  str = of types.str;
  bool = of types.bool;
  int = of types.int;
  port = of types.port;
  path = of types.path;
  text = of types.lines "";
  strings = of (types.listOf types.str) [ ];
  packages = of (types.listOf types.package) [ ];
  nullOr = type: of (types.nullOr type) null;
  nullOrStr = nullOr types.str;
  nullOrPath = nullOr types.path;
  environment = of (types.attrsOf types.str) { };
  submodule = options: types.submodule { inherit options; };

  # Whatever is said, without effect here: sets and lists add up, all else must agree.
  anyTree = lib.mkOptionType {
    name = "anything";
    merge = loc: defs:
      let ofAll = is: lib.all (d: is d.value) defs; in
      if ofAll (x: lib.isAttrs x && !lib.isStringLike x) then (types.attrsOf anyTree).merge loc defs
      else if ofAll lib.isList then (types.listOf types.raw).merge loc defs
      else lib.mergeEqualOption loc defs;
  } // { strict = loc: defs: builtins.seq (anyTree.merge loc defs) true; };
  recorded = mkOption { type = anyTree; default = { }; };
  recordedAll = names: lib.genAttrs names (_: recorded);
}
