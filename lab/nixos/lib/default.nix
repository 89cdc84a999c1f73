# The part of nixpkgs' `lib` that the lab's configuration and our module use, with a module system of our own.
#
# It follows the manual of NixOS: options are declared once, every definition is checked against the type of its option, the definitions
# of lowest priority number win (mkForce 50, plain 100, mkDefault 1000, an option's own default 1500), and an unknown name is an error.
# Written for Nix 2.8 (Debian 12) and newer.
let
  inherit (builtins)
    all any attrNames attrValues concatLists concatMap concatStringsSep elem elemAt filter foldl' functionArgs genList genericClosure head
    isAttrs isBool isFloat isFunction isInt isList isPath isString length listToAttrs map mapAttrs match pathExists readFile
    removeAttrs replaceStrings sort stringLength substring tail toJSON toString typeOf;

  # --- lists, sets and strings --------------------------------------------------------------------------------------

  id = x: x;
  take = n: xs: genList (elemAt xs) (min n (length xs));
  last = xs: elemAt xs (length xs - 1);
  range = from: to: genList (n: from + n) (to - from + 1);
  imap0 = f: xs: genList (n: f n (elemAt xs n)) (length xs);
  optional = cond: x: if cond then [ x ] else [ ];
  optionals = cond: xs: if cond then xs else [ ];
  optionalString = cond: s: if cond then s else "";
  optionalAttrs = cond: set: if cond then set else { };
  flatten = x: if isList x then concatMap flatten x else [ x ];
  words = s: filter (w: isString w && w != "") (builtins.split " +" s);
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  partition = builtins.partition;
  toList = x: if isList x then x else [ x ];
  min = a: b: if a < b then a else b;

  nameValuePair = name: value: { inherit name value; };
  mapAttrs' = f: set: listToAttrs (map (n: f n set.${n}) (attrNames set));
  mapAttrsToList = f: set: map (n: f n set.${n}) (attrNames set);
  filterAttrs = keep: set: removeAttrs set (filter (n: !keep n set.${n}) (attrNames set));
  genAttrs = names: f: listToAttrs (map (n: nameValuePair n (f n)) names);

  concatStrings = concatStringsSep "";
  stringToCharacters = s: genList (at: substring at 1 s) (stringLength s);
  concatLines = concatMapStrings (line: line + "\n");
  concatMapStrings = f: xs: concatStrings (map f xs);
  concatMapStringsSep = sep: f: xs: concatStringsSep sep (map f xs);
  hasPrefix = prefix: s: substring 0 (stringLength prefix) s == prefix;
  hasSuffix = suffix: s:
    let from = stringLength s - stringLength suffix; in from >= 0 && substring from (stringLength suffix) s == suffix;
  hasInfix = part: s: replaceStrings [ part ] [ "" ] s != s;
  removePrefix = prefix: s: if hasPrefix prefix s then substring (stringLength prefix) (stringLength s) s else s;
  removeSuffix = suffix: s: if hasSuffix suffix s then substring 0 (stringLength s - stringLength suffix) s else s;
  toUpper = replaceStrings (stringToCharacters "abcdefghijklmnopqrstuvwxyz") (stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
  importJSON = file: builtins.fromJSON (readFile file);
  fileContents = file: removeSuffix "\n" (readFile file);
  boolToString = b: if b then "true" else "false";
  escapeShellArg = s: "'${replaceStrings [ "'" ] [ "'\\''" ] (toString s)}'";
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  versionAtLeast = a: b: builtins.compareVersions a b >= 0;
  versionOlder = a: b: builtins.compareVersions a b < 0;

  isDerivation = x: isAttrs x && (x.type or null) == "derivation";
  getExe' = package: name: "${package}/bin/${name}";
  getExe = package:
    getExe' package (package.meta.mainProgram or (throw "getExe: the package ${package.name} names no meta.mainProgram."));

  # --- properties of definitions ------------------------------------------------------------------------------------

  isType = type: x: isAttrs x && (x._type or null) == type;
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkForce = mkOverride 50;
  mkDefault = mkOverride 1000;
  mkOrder = order: content: { _type = "order"; inherit order content; };
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;

  mkOption = attrs: { _type = "option"; } // attrs;
  mkEnableOption = what: mkOption { type = types.bool; default = false; description = "Whether to enable ${what}."; };
  mkPackageOption = pkgs: name: _: mkOption { type = types.package; default = pkgs.${name}; description = "The ${name} package."; };

  # --- messages -----------------------------------------------------------------------------------------------------

  showOption = concatStringsSep ".";
  showValue = v:
    if isDerivation v then "<derivation ${v.name}>"
    else if isFunction v then "<function>"
    else if isAttrs v || isList v then "<a ${typeOf v}>"
    else if isPath v then toString v
    else toJSON v;
  showDefs = concatMapStrings (d: "\n- In `${toString d.file}': ${showValue d.value}");

  # Number of single-character edits from one word to the other.
  editDistance = a: b:
    let
      chars = s: genList (i: substring i 1 s) (stringLength s);
      column = chars b;
      step = row: c:
        foldl'
          (done: i: done ++ [
            (min (min (elemAt row i + 1) (last done + 1)) (elemAt row (i - 1) + (if elemAt column (i - 1) == c then 0 else 1)))
          ])
          [ (head row + 1) ]
          (range 1 (length column));
    in
    last (foldl' step (range 0 (length column)) (chars a));

  suggestion = loc: name: siblings:
    let
      ranked = sort (a: b: a.distance < b.distance) (map (s: { name = s; distance = editDistance name s; }) siblings);
    in
    if siblings != [ ] && (head ranked).distance <= 1 + stringLength name / 3
    then "\nDid you mean `${showOption (loc ++ [ (head ranked).name ])}'?"
    else "";

  # --- types --------------------------------------------------------------------------------------------------------
  # A type is { description, check value -> bool, merge loc definitions -> value }; a definition is { file, value }.

  mergeEqual = loc: defs:
    if all (d: d.value == (head defs).value) defs then (head defs).value
    else throw ("The option `${showOption loc}' has conflicting definition values:${showDefs defs}"
      + "\nUse `lib.mkForce value' or `lib.mkDefault value' to change the priority on any of these definitions.");

  simple = description: check: { inherit description check; merge = mergeEqual; };
  isText = x: isString x || isPath x || (isAttrs x && (x ? outPath || x ? __toString));

  types = rec {
    bool = simple "boolean" isBool;
    int = simple "signed integer" isInt;
    float = simple "floating point number" isFloat;
    str = simple "string" isString;
    ints = {
      between = low: high: simple "integer between ${toString low} and ${toString high} (both inclusive)" (x: isInt x && x >= low && x <= high);
      unsigned = simple "unsigned integer, meaning >=0" (x: isInt x && x >= 0);
      positive = simple "positive integer, meaning >0" (x: isInt x && x > 0);
    };
    port = simple "16 bit unsigned integer; between 0 and 65535 (both inclusive)" (x: isInt x && x >= 0 && x <= 65535);
    path = simple "path" (x: isText x && hasPrefix "/" (toString x));
    package = simple "package" (x: isDerivation x || (isText x && hasPrefix builtins.storeDir (toString x)));
    raw = simple "raw value" (_: true) // { opaque = true; };
    unspecified = simple "unspecified value" (_: true);
    enum = values: simple "one of ${concatMapStringsSep ", " showValue values}" (x: elem x values);

    separatedString = sep: { description = "strings concatenated with ${toJSON sep}"; check = isString; merge = _: defs: concatStringsSep sep (map (d: d.value) defs); };
    lines = separatedString "\n";

    anything = {
      description = "anything";
      check = _: true;
      merge = loc: defs:
        if all (d: isAttrs d.value && !isDerivation d.value) defs then (attrsOf anything).merge loc defs
        else if all (d: isList d.value) defs then concatMap (d: d.value) defs
        else mergeEqual loc defs;
    };

    listOf = element: {
      description = "list of ${element.description}";
      check = isList;
      merge = loc: defs: concatLists (map
        (d: imap0 (n: value: evalValue (loc ++ [ "[definition ${toString (n + 1)}]" ]) element [{ inherit (d) file; inherit value; }]) d.value)
        defs);
    };

    attrsOf = element: {
      description = "attribute set of ${element.description}";
      check = isAttrs;
      merge = loc: defs:
        let
          sets = concatMap (d: map (value: { inherit (d) file; inherit value; }) (pushDown loc d)) defs;
          of = name: discharge (concatMap (d: optional (d.value ? ${name}) { inherit (d) file; value = d.value.${name}; }) sets);
          defined = filter (name: of name != [ ]) (unique (concatMap (d: attrNames d.value) sets));
        in
        genAttrs defined (name: mergeDischarged (loc ++ [ name ]) element (of name));
    };

    submodule = modules: {
      description = "submodule";
      check = x: isAttrs x || isFunction x;
      merge = loc: defs: (evalModules {
        prefix = loc;
        modules = toList modules ++ map (d: { _file = d.file; } // (if isFunction d.value then { imports = [ d.value ]; } else { config = d.value; })) defs;
        specialArgs.name = last loc;
      }).config;
    };

    nullOr = type: {
      description = "null or ${type.description}";
      check = x: x == null || type.check x;
      merge = loc: defs: if any (d: d.value == null) defs then mergeEqual loc defs else type.merge loc defs;
    };

    either = a: b: {
      description = "${a.description} or ${b.description}";
      check = x: a.check x || b.check x;
      merge = loc: defs:
        if all (d: a.check d.value) defs then a.merge loc defs
        else if all (d: b.check d.value) defs then b.merge loc defs
        else mergeEqual loc defs;
    };
    oneOf = list: foldl' either (head list) (tail list);
  };

  # --- definitions --------------------------------------------------------------------------------------------------

  # Moves mkIf, mkMerge, mkOverride and mkOrder one attribute level down, so that names can be seen without evaluating conditions.
  pushDown = loc: { file, value }:
    let down = content: pushDown loc { inherit file; value = content; }; in
    if isType "merge" value then concatMap down value.contents
    else if isType "if" value then map (mapAttrs (_: mkIf value.condition)) (down value.content)
    else if isType "override" value then map (mapAttrs (_: mkOverride value.priority)) (down value.content)
    else if isType "order" value then map (mapAttrs (_: mkOrder value.order)) (down value.content)
    else if isAttrs value then [ value ]
    else throw "A definition for `${showOption loc}' is not an attribute set:${showDefs [{ inherit file value; }]}";

  # Resolves the properties of definitions; what remains are those of the lowest priority number, in order.
  discharge = defs:
    let
      open = priority: order: { file, value }:
        if isType "merge" value then concatMap (content: open priority order { inherit file; value = content; }) value.contents
        else if isType "if" value then optionals value.condition (open priority order { inherit file; value = value.content; })
        else if isType "override" value then open value.priority order { inherit file; value = value.content; }
        else if isType "order" value then open priority value.order { inherit file; value = value.content; }
        else [ { inherit file value priority order; } ];
      opened = concatMap (d: open (d.priority or 100) 1000 { inherit (d) file value; }) defs;
      lowest = foldl' (least: d: min least d.priority) 9999 opened;
    in
    sort (a: b: a.order < b.order) (filter (d: d.priority == lowest) opened);

  mergeDischarged = loc: type: defs:
    let wrong = filter (d: !type.check d.value) defs; in
    if defs == [ ] then throw "The option `${showOption loc}' is used but not defined."
    else if wrong != [ ] then
      throw "A definition for option `${showOption loc}' is not of type `${type.description}'. Definition values:${showDefs wrong}"
    else type.merge loc (map (d: { inherit (d) file value; }) defs);

  evalValue = loc: type: defs: mergeDischarged loc type (discharge defs);

  evalOption = loc: option: defs:
    let
      own = optional (option ? default) { file = "the default"; value = mkOverride 1500 option.default; };
      final = discharge (defs ++ own);
      merged = mergeDischarged loc (option.type or types.unspecified) final;
    in
    option // {
      evaluated = true;
      inherit loc;
      files = map (d: d.file) (discharge defs);
      isDefined = final != [ ];
      value = (option.apply or id) merged;
    };

  evalTree = loc: tree: defs:
    let
      sets = concatMap (d: map (value: { inherit (d) file; inherit value; }) (pushDown loc d)) defs;
      of = name: concatMap (d: optional (d.value ? ${name}) { inherit (d) file; value = d.value.${name}; }) sets;
      unknown = filter (name: !(tree ? ${name})) (concatMap (d: attrNames d.value) sets);
      bad = head unknown;
    in
    if unknown != [ ] then
      throw ("The option `${showOption (loc ++ [ bad ])}' does not exist. Definition values:${showDefs (of bad)}"
        + suggestion loc bad (attrNames tree))
    else
      mapAttrs
        (name: node: if isType "option" node then evalOption (loc ++ [ name ]) node (of name) else evalTree (loc ++ [ name ]) node (of name))
        tree;

  # Joins the option declarations of all modules to one tree; each option may be declared once.
  mergeDeclarations = loc: decls:
    genAttrs (unique (concatMap (d: attrNames d.options) decls)) (name:
      let
        here = filter (d: d.options ? ${name}) decls;
        nodes = map (d: d.options.${name}) here;
      in
      if any (isType "option") nodes then
        (if length nodes == 1 then head nodes
        else throw "The option `${showOption (loc ++ [ name ])}' is declared in several files: ${concatMapStringsSep ", " (d: toString d.file) here}.")
      else mergeDeclarations (loc ++ [ name ]) (map (d: { inherit (d) file; options = d.options.${name}; }) here));

  # --- modules ------------------------------------------------------------------------------------------------------

  # modules: files, functions or sets; specialArgs: further arguments of every module; prefix: option path of a submodule.
  # Returns { config, options, extendModules }.
  evalModules = { modules, specialArgs ? { }, prefix ? [ ] }@given:
    let
      args = { inherit config options extendModules; lib = self; } // specialArgs;

      extendModules = more: evalModules (given // {
        modules = modules ++ more.modules or [ ];
        specialArgs = specialArgs // more.specialArgs or { };
      });

      # Arguments stay lazy: a module may ask for one that its own definitions do not need.
      call = file: f: f (args // mapAttrs
        (name: _: args.${name} or (throw "The module `${file}' asks for the argument `${name}', which does not exist."))
        (filterAttrs (name: hasDefault: !hasDefault || args ? ${name}) (functionArgs f)));

      normalise = parent: n: module:
        let
          fromFile = isPath module || isString module;
          file = if fromFile then toString module else if isAttrs module && module ? _file then toString module._file else parent;
          loaded = if fromFile then import module else module;
          value = if isFunction loaded then call file loaded else loaded;
          reserved = [ "imports" "_file" "key" "meta" "disabledModules" ];
          structured = value ? options || value ? config;
          stray = attrNames (removeAttrs value (reserved ++ [ "options" "config" ]));
        in
        if !isAttrs value then throw "The module `${file}' is neither an attribute set nor a function that returns one."
        else {
          inherit file;
          key = if fromFile then file else "${parent}#${toString n}";
          imports = imap0 (normalise (if fromFile then file else "${parent}#${toString n}")) (value.imports or [ ]);
          options = value.options or { };
          config =
            if !structured then removeAttrs value reserved
            else if stray != [ ] then
              throw "The module `${file}' has an unsupported attribute `${head stray}'. Beside `options' and `config', put it inside `config'."
            else value.config or { };
        };

      loaded = genericClosure {
        startSet = imap0 (normalise "the base") modules;
        operator = m: m.imports;
      };
      evaluated = evalTree prefix
        (mergeDeclarations prefix (map (m: { inherit (m) file options; }) loaded))
        (map (m: { inherit (m) file; value = m.config; }) loaded);
      values = mapAttrs (_: node: if node.evaluated or false then node.value else values node);
      config = values evaluated;
      options = evaluated;
    in
    { inherit config options extendModules; };

  # Evaluates a whole configuration, so that a wrong type is found even where nothing uses the value. Packages and raw values stay closed.
  force = x:
    if isDerivation x || isFunction x then true
    else if isAttrs x then all force (attrValues x)
    else if isList x then all force x
    else builtins.seq x true;

  self = {
    inherit
      all any attrNames attrValues boolToString concatLines concatLists concatMap concatMapStrings concatMapStringsSep concatStrings concatStringsSep
      elem elemAt escapeShellArg escapeShellArgs evalModules fileContents filter filterAttrs flatten foldl' force genAttrs getExe getExe' hasInfix hasPrefix
      hasSuffix head id imap0 importJSON isAttrs isBool isDerivation isFunction isInt isList isPath isString last length listToAttrs mapAttrs mapAttrs' mapAttrsToList match min
      mkAfter mkBefore mkDefault mkEnableOption mkForce mkIf mkMerge mkOption mkOrder mkOverride mkPackageOption nameValuePair optional
      optionalAttrs optionalString optionals partition pathExists range removeAttrs removePrefix removeSuffix replaceStrings showOption sort
      stringLength tail take toList toUpper types unique versionAtLeast versionOlder words;
    inherit (builtins) splitVersion;
    literalExpression = text: text;
    literalMD = text: text;
  };
in
self
