# Types of options: records made by `mkOptionType`, as in nixpkgs, so that a configuration may build on them.
#
# check value, merge loc definitions (a definition is { file, value }), and two of our own:
# strict loc definitions: forces all that was defined, so that a wrong type shows even where nothing uses the value
# join other:             the type of an option that is declared twice, or null
lib:
let
  inherit (builtins) all any attrNames concatLists concatMap concatStringsSep elem filter foldl' genericClosure head isAttrs isBool isFloat isInt isList isPath isString length map mapAttrs match removeAttrs seq tail toJSON toString;
  inherit (lib)
    concatMapStringsSep defined evalModules evalValue force functionArgs genAttrs hasPrefix imap1 isDerivation isFunction isStorePath isStringLike last
    mapAttrsToList mergeEqualOption optional optionals pushDown showDefs showOption showValue strictOptions strictValue toList unique;

  mkOptionType = { name, description ? name, check ? _: true, merge ? lib.mergeDefaultOption, ... }@given:
    { _type = "option-type"; emptyValue = { }; strict = loc: defs: force (merge loc defs); join = _: null; getSubOptions = _: { }; }
    // given // { inherit name description check merge; };

  simple = name: description: check: mkOptionType {
    inherit name description check;
    merge = mergeEqualOption;
    join = other: if other.name == name && other.description == description then simple name description check else null;
  };
  # Not looked into.
  closed = name: check: merge: mkOptionType { inherit name check merge; strict = loc: defs: seq (merge loc defs) true; };
  number = name: description: check: simple name description (x: isInt x && check x);
  sized = bits: number "unsignedInt${toString bits}"
    "${toString bits} bit unsigned integer; between 0 and ${toString (power bits - 1)} (both inclusive)"
    (x: x >= 0 && x < power bits);
  power = bits: foldl' (n: _: n * 2) 1 (lib.range 1 bits);
  joined = make: other: a: b: let inner = a.join b; in if inner == null then null else make inner;

  # How attrsOf gathers what the definitions say of each name.
  byName = loc: defs:
    let
      sets = concatMap (d: map (value: { inherit (d) file; inherit value; }) (pushDown loc d)) defs;
      names = unique (concatMap (d: attrNames d.value) sets);
    in
    genAttrs names (name: concatMap (d: optional (d.value ? ${name}) { inherit (d) file; value = d.value.${name}; }) sets);

  setOf = name: keepEmpty: element: mkOptionType {
    inherit name;
    description = "attribute set of ${element.description}";
    check = isAttrs;
    emptyValue.value = { };
    merge = loc: defs:
      let here = byName loc defs; in
      mapAttrs (name: of: evalValue (loc ++ [ name ]) element of)
        (if keepEmpty then here else lib.filterAttrs (_: defined) here);
    strict = loc: defs: all (x: x) (mapAttrsToList (name: of: strictValue (loc ++ [ name ]) element of) (byName loc defs));
    join = other: if other.name == name then joined (setOf name keepEmpty) other element other.element else null;
    inherit element;
  };
in
rec {
  inherit mkOptionType;
  isOptionType = lib.isType "option-type";

  bool = simple "bool" "boolean" isBool;
  boolByOr = mkOptionType { name = "boolByOr"; check = isBool; merge = _: defs: any (d: d.value) defs; };
  int = simple "int" "signed integer" isInt;
  float = simple "float" "floating point number" isFloat;
  number = either int float;
  str = simple "str" "string" isString;
  nonEmptyStr = simple "nonEmptyStr" "non-empty string" (x: isString x && match "[ \t\n]*" x == null);
  singleLineStr = simple "singleLineStr" "(optionally newline-terminated) single-line string" (x: isString x && match "[^\n\r]*\n?" x != null)
    // { merge = loc: defs: lib.removeSuffix "\n" (mergeEqualOption loc defs); };
  strMatching = pattern: simple "strMatching" "string matching the pattern ${pattern}" (x: isString x && match pattern x != null);
  passwdEntry = type: type // {
    description = "${type.description}, not containing newlines or colons";
    check = x: type.check x && match "[^:\n]*" (toString x) != null;
  };
  ints = {
    between = low: high: numberOf "intBetween" "integer between ${toString low} and ${toString high} (both inclusive)" (x: x >= low && x <= high);
    unsigned = numberOf "unsignedInt" "unsigned integer, meaning >=0" (x: x >= 0);
    positive = numberOf "positiveInt" "positive integer, meaning >0" (x: x > 0);
    u8 = sized 8;
    u16 = sized 16;
    u32 = sized 32;
    s32 = ints.between (0 - power 31) (power 31 - 1);
  };
  numberOf = name: description: check: simple name description (x: isInt x && check x);
  port = ints.u16;
  path = simple "path" "path" (x: isStringLike x && hasPrefix "/" (toString x));
  pathInStore = simple "pathInStore" "path in the Nix store" (x: isStringLike x && hasPrefix "${builtins.storeDir}/" (toString x));
  externalPath = path;
  package = closed "package" (x: isDerivation x || isStorePath x) mergeEqualOption // { description = "package"; };
  shellPackage = package // { check = x: isDerivation x && x ? shellPath; description = "package with a shellPath"; };
  raw = closed "raw" (_: true) lib.mergeOneOption // { description = "raw value"; };
  unspecified = closed "unspecified" (_: true) lib.mergeDefaultOption // { description = "unspecified value"; };
  optionType = raw;
  attrs = closed "attrs" isAttrs (_: defs: foldl' (a: d: a // d.value) { } defs) // { description = "attribute set"; emptyValue.value = { }; };
  enum = values: simple "enum" "one of ${concatMapStringsSep ", " showValue values}" (x: elem x values);
  uniq = type: type // { merge = loc: defs: if length defs == 1 then type.merge loc defs else lib.mergeOneOption loc defs; };
  unique = _: uniq;
  addCheck = type: check: type // { check = x: type.check x && check x; };

  separatedString = sep: mkOptionType {
    name = "separatedString";
    description = if sep == "" then "Concatenated string" else "strings concatenated with ${toJSON sep}";
    check = isString;
    merge = _: defs: concatStringsSep sep (map (d: d.value) defs);
    join = other: if other.name == "separatedString" then separatedString sep else null;
  };
  lines = separatedString "\n";
  commas = separatedString ",";
  envVar = separatedString ":";

  anything = mkOptionType {
    name = "anything";
    merge = loc: defs:
      let ofAll = is: all (d: is d.value) defs; in
      if ofAll (x: isAttrs x && !isStringLike x) then (lazyAttrsOf anything).merge loc defs
      else if ofAll isFunction then x: anything.merge (loc ++ [ "<function body>" ]) (map (d: d // { value = d.value x; }) defs)
      else mergeEqualOption loc defs;
  };

  listOf = element: mkOptionType {
    name = "listOf";
    description = "list of ${element.description}";
    check = isList;
    emptyValue.value = [ ];
    merge = loc: defs: map (e: evalValue e.loc element e.defs) (filter (e: defined e.defs) (elements loc defs));
    strict = loc: defs: all (e: strictValue e.loc element e.defs) (elements loc defs);
    join = other: if other.name == "listOf" then joined listOf other element other.element else null;
    inherit element;
  };
  elements = loc: defs: concatLists (imap1
    (n: d: imap1 (m: value: { loc = loc ++ [ "[definition ${toString n}-entry ${toString m}]" ]; defs = [ { inherit (d) file; inherit value; } ]; }) d.value)
    defs);
  nonEmptyListOf = element: addCheck (listOf element) (xs: xs != [ ]) // { description = "non-empty list of ${element.description}"; emptyValue = { }; };

  attrsOf = setOf "attrsOf" false;
  lazyAttrsOf = setOf "lazyAttrsOf" true;

  submodule = modules: submoduleWith { modules = toList modules; shorthandOnlyDefinesConfig = true; };
  submoduleWith = { modules, specialArgs ? { }, shorthandOnlyDefinesConfig ? false, description ? "submodule", class ? null }:
    let
      evaluate = loc: defs: evalModules {
        prefix = loc;
        inherit specialArgs;
        # Imported, as nixpkgs does it: so what they define comes before what the user does.
        modules = [ { _module.args.name = lib.mkOptionDefault (last ([ "‹name›" ] ++ loc)); } ] ++ map (m: { imports = [ m ]; }) modules ++ map asModule defs;
      };
      asModule = { file, value }:
        if isAttrs value && shorthandOnlyDefinesConfig && !(value ? _type && value._type != "if" && value._type != "merge" && value._type != "override")
        then { _file = file; config = value; }
        else { _file = file; imports = [ value ]; };
    in
    mkOptionType {
      name = "submodule";
      inherit description;
      check = x: isAttrs x || isFunction x || isPath x;
      emptyValue.value = { };
      merge = loc: defs: (evaluate loc defs).config;
      strict = loc: defs: strictOptions (evaluate loc defs).options;
      getSubOptions = prefix: (evaluate prefix [ ]).options;
      join = other:
        if other.name == "submodule"
        then submoduleWith { modules = modules ++ other.subModules; specialArgs = specialArgs // other.specialArgs; inherit shorthandOnlyDefinesConfig; }
        else null;
      subModules = modules;
      inherit specialArgs;
    };
  deferredModule = mkOptionType {
    name = "deferredModule";
    check = x: isAttrs x || isFunction x || isPath x;
    merge = _: defs: { imports = map (d: { _file = d.file; imports = [ d.value ]; }) defs; };
    strict = _: _: true;
  };

  nullOr = type: mkOptionType {
    name = "nullOr";
    description = "null or ${type.description}";
    check = x: x == null || type.check x;
    emptyValue.value = null;
    merge = loc: defs: if any (d: d.value == null) defs then mergeEqualOption loc defs else type.merge loc defs;
    strict = loc: defs: if any (d: d.value == null) defs then seq (mergeEqualOption loc defs) true else type.strict loc defs;
    join = other: if other.name == "nullOr" then joined nullOr other type other.element else null;
    element = type;
  };

  either = a: b:
    let of = loc: defs: if all (d: a.check d.value) defs then a else if all (d: b.check d.value) defs then b else mixed loc; in
    mkOptionType {
      name = "either";
      description = "${a.description} or ${b.description}";
      check = x: a.check x || b.check x;
      merge = loc: defs: (of loc defs).merge loc defs;
      strict = loc: defs: (of loc defs).strict loc defs;
    };
  # Definitions of two kinds cannot be joined.
  mixed = _: { merge = mergeEqualOption; strict = loc: defs: force (mergeEqualOption loc defs); };
  oneOf = list: foldl' either (head list) (tail list);

  coercedTo = from: coerce: to:
    let coerced = map (d: d // { value = if from.check d.value then coerce d.value else d.value; }); in
    mkOptionType {
      name = "coercedTo";
      description = "${to.description} or ${from.description} convertible to it";
      check = x: (from.check x && to.check (coerce x)) || to.check x;
      inherit (to) emptyValue;
      merge = loc: defs: to.merge loc (coerced defs);
      strict = loc: defs: to.strict loc (coerced defs);
    };

  functionTo = result: mkOptionType {
    name = "functionTo";
    description = "function that evaluates to a(n) ${result.description}";
    check = isFunction;
    merge = loc: defs: x: evalValue (loc ++ [ "<function body>" ]) result (map (d: d // { value = d.value x; }) defs);
    strict = _: _: true;
  };
}
