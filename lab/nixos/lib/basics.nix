# Lists, strings, attribute sets, text formats: functions of nixpkgs' lib by their names there.
lib:
let
  inherit (builtins)
    all attrNames attrValues concatLists concatMap concatStringsSep elem elemAt filter foldl' functionArgs genList hasAttr head isAttrs
    isBool isFloat isFunction isInt isList isPath isString length listToAttrs map mapAttrs match pathExists readDir readFile removeAttrs
    replaceStrings split stringLength substring tail toJSON toString trace;
  lower = "abcdefghijklmnopqrstuvwxyz";
  upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
in
rec {
  # --- functions ----------------------------------------------------------------------------------------------------

  id = x: x;
  const = x: _: x;
  flip = f: a: b: f b a;
  pipe = foldl' (x: f: f x);
  fix = f: let x = f x; in x;
  extends = overlay: f: final: let prev = f final; in prev // overlay final prev;
  composeManyExtensions = overlays: final: start:
    (foldl' (done: overlay: let added = overlay final done.all; in { all = done.all // added; new = done.new // added; }) { all = start; new = { }; } overlays).new;
  toFunction = x: if isFunction x then x else const x;
  min = a: b: if a < b then a else b;
  max = a: b: if a > b then a else b;
  mod = a: b: a - b * (a / b);
  xor = a: b: a != b;
  importJSON = file: builtins.fromJSON (readFile file);
  importTOML = file: builtins.fromTOML (readFile file);
  setFunctionArgs = f: args: { __functor = _: f; __functionArgs = args; };
  isFunction = f: builtins.isFunction f || (f ? __functor && isFunction (f.__functor f));
  functionArgs = f: if f ? __functor then f.__functionArgs or (functionArgs (f.__functor f)) else builtins.functionArgs f;

  warn = message: trace "warning: ${message}";
  warnIf = condition: message: if condition then warn message else id;
  warnIfNot = condition: warnIf (!condition);
  throwIf = condition: message: if condition then throw message else id;
  throwIfNot = condition: throwIf (!condition);
  assertMsg = condition: message: condition || throw message;
  assertOneOf = name: value: values: assertMsg (elem value values) "${name} must be one of ${toJSON values}, but is ${toJSON value}";
  traceVal = x: trace x x;
  traceValSeq = x: trace (builtins.deepSeq x x) x;
  seq = builtins.seq;

  # --- lists --------------------------------------------------------------------------------------------------------

  singleton = x: [ x ];
  last = xs: elemAt xs (length xs - 1);
  init = xs: take (length xs - 1) xs;
  range = from: to: if from > to then [ ] else genList (n: from + n) (to - from + 1);
  sublist = start: count: xs: let left = length xs - start; in genList (n: elemAt xs (start + n)) (max 0 (min count left));
  take = sublist 0;
  drop = count: xs: sublist count (length xs) xs;
  reverseList = xs: let l = length xs; in genList (n: elemAt xs (l - n - 1)) l;
  foldr = f: start: xs: foldl' (acc: x: f x acc) start (reverseList xs);
  foldl = foldl';
  fold = foldr;
  imap0 = f: xs: genList (n: f n (elemAt xs n)) (length xs);
  imap1 = f: imap0 (n: f (n + 1));
  forEach = xs: f: map f xs;
  optional = cond: x: if cond then [ x ] else [ ];
  optionals = cond: xs: if cond then xs else [ ];
  toList = x: if isList x then x else [ x ];
  flatten = x: if isList x then concatMap flatten x else [ x ];
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  allUnique = xs: length (unique xs) == length xs;
  remove = x: filter (y: y != x);
  subtractLists = gone: filter (x: !elem x gone);
  intersectLists = a: filter (x: elem x a);
  mutuallyExclusive = a: b: intersectLists a b == [ ];
  findFirst = wanted: default: xs: let found = filter wanted xs; in if found == [ ] then default else head found;
  count = wanted: xs: length (filter wanted xs);
  zipListsWith = f: a: b: genList (n: f (elemAt a n) (elemAt b n)) (min (length a) (length b));
  zipLists = zipListsWith (fst: snd: { inherit fst snd; });
  sortOn = key: builtins.sort (a: b: key a < key b);
  naturalSort = builtins.sort builtins.lessThan;
  crossLists = f: foldl' (fs: args: concatMap (f: map f args) fs) [ f ];
  any = builtins.any;
  inherit all;

  # --- attribute sets -----------------------------------------------------------------------------------------------

  nameValuePair = name: value: { inherit name value; };
  mapAttrs' = f: set: listToAttrs (map (n: f n set.${n}) (attrNames set));
  mapAttrsToList = f: set: map (n: f n set.${n}) (attrNames set);
  attrsToList = mapAttrsToList nameValuePair;
  concatMapAttrs = f: set: foldl' (a: b: a // b) { } (mapAttrsToList f set);
  mergeAttrsList = foldl' (a: b: a // b) { };
  filterAttrs = keep: set: removeAttrs set (filter (n: !keep n set.${n}) (attrNames set));
  filterAttrsRecursive = keep: set: mapAttrs (_: v: if isAttrs v then filterAttrsRecursive keep v else v) (filterAttrs keep set);
  genAttrs = names: f: listToAttrs (map (n: nameValuePair n (f n)) names);
  genAttrs' = xs: f: listToAttrs (map f xs);
  optionalAttrs = cond: set: if cond then set else { };
  getAttrs = names: set: genAttrs names (name: set.${name});
  catAttrs = builtins.catAttrs;
  intersectAttrs = builtins.intersectAttrs;
  attrVals = names: set: map (name: set.${name}) names;
  attrByPath = path: default: set:
    if path == [ ] then set
    else if isAttrs set && set ? ${head path} then attrByPath (tail path) default set.${head path}
    else default;
  hasAttrByPath = path: set: path == [ ] || (isAttrs set && set ? ${head path} && hasAttrByPath (tail path) set.${head path});
  getAttrFromPath = path: set: attrByPath path (throw "cannot find attribute `${concatStringsSep "." path}'") set;
  setAttrByPath = path: value: if path == [ ] then value else { ${head path} = setAttrByPath (tail path) value; };
  recursiveUpdateUntil = stop: a: b: a // mapAttrs
    (n: v: if a ? ${n} && !stop [ n ] a.${n} v then recursiveUpdateUntil stop a.${n} v else v) b;
  recursiveUpdate = recursiveUpdateUntil (_: a: b: !(isAttrs a && isAttrs b));
  foldAttrs = f: start: sets: zipAttrsWith (_: foldr f start) sets;
  foldlAttrs = f: start: set: foldl' (acc: n: f acc n set.${n}) start (attrNames set);
  zipAttrsWith = f: sets: genAttrs (unique (concatMap attrNames sets)) (name: f name (catAttrs name sets));
  zipAttrs = zipAttrsWith (_: values: values);
  mapAttrsRecursive = mapAttrsRecursiveCond (_: true);
  mapAttrsRecursiveCond = cond: f: set:
    let go = path: mapAttrs (n: v: if isAttrs v && cond v then go (path ++ [ n ]) v else f (path ++ [ n ]) v); in go [ ] set;
  collect = wanted: x: if wanted x then [ x ] else if isAttrs x then concatMap (collect wanted) (attrValues x) else [ ];
  isDerivation = x: isAttrs x && (x.type or null) == "derivation";
  recurseIntoAttrs = set: set // { recurseForDerivations = true; };

  # --- strings ------------------------------------------------------------------------------------------------------

  concatStrings = concatStringsSep "";
  concatMapStrings = f: xs: concatStrings (map f xs);
  concatMapStringsSep = sep: f: xs: concatStringsSep sep (map f xs);
  concatImapStringsSep = sep: f: xs: concatStringsSep sep (imap1 f xs);
  concatMapAttrsStringSep = sep: f: set: concatStringsSep sep (mapAttrsToList f set);
  concatLines = concatMapStrings (line: line + "\n");
  intersperse = sep: xs: tail (concatMap (x: [ sep x ]) xs);
  optionalString = cond: s: if cond then s else "";
  stringToCharacters = s: genList (at: substring at 1 s) (stringLength s);
  words = s: filter (w: isString w && w != "") (split " +" s);
  hasPrefix = prefix: s: substring 0 (stringLength prefix) (toString s) == prefix;
  hasSuffix = suffix: s:
    let from = stringLength s - stringLength suffix; in from >= 0 && substring from (stringLength suffix) s == suffix;
  hasInfix = infix: s: length (split (escapeRegex infix) (toString s)) > 1;
  removePrefix = prefix: s: if hasPrefix prefix s then substring (stringLength prefix) (stringLength s) s else s;
  removeSuffix = suffix: s: if hasSuffix suffix s then substring 0 (stringLength s - stringLength suffix) s else s;
  splitString = sep: s: filter isString (split (escapeRegex sep) (toString s));
  trim = s: let inner = match "[ \t\r\n]*(.*[^ \t\r\n])[ \t\r\n]*" s; in if inner == null then "" else head inner;
  toUpper = replaceStrings (stringToCharacters lower) (stringToCharacters upper);
  toLower = replaceStrings (stringToCharacters upper) (stringToCharacters lower);
  escape = list: replaceStrings list (map (c: "\\${c}") list);
  escapeRegex = escape (stringToCharacters "\\[{()^$?*+|.");
  escapeShellArg = s: "'${replaceStrings [ "'" ] [ "'\\''" ] (toString s)}'";
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  escapeNixString = s: escape [ "$" ] (toJSON s);
  quoteListenAddr = a: if match ".*:.*" a != null then "[${a}]" else a;
  fixedWidthString = width: filler: s: if stringLength s >= width then s else fixedWidthString width filler (filler + s);
  fixedWidthNumber = width: n: fixedWidthString width "0" (toString n);
  toInt = s: let n = builtins.fromJSON s; in if isInt n then n else throw "toInt: Could not convert ${toJSON s} to int.";
  toIntBase10 = s: toInt (head (match "0*([0-9]+)" s));
  boolToString = b: if b then "true" else "false";
  boolToYesNo = b: if b then "yes" else "no";
  fileContents = file: removeSuffix "\n" (readFile file);
  isStringLike = x: isString x || isPath x || (isAttrs x && (x ? outPath || x ? __toString));
  isStorePath = x: isStringLike x && builtins.dirOf (toString x) == builtins.storeDir;
  makeBinPath = concatMapStringsSep ":" (p: "${p}/bin");
  makeSearchPath = folder: concatMapStringsSep ":" (p: "${p}/${folder}");
  nameFromURL = url: sep: head (splitString sep (last (splitString "/" url)));
  getName = p: p.pname or p.name or p;
  getVersion = p: p.version or (builtins.parseDrvName p).version;
  versionAtLeast = a: b: builtins.compareVersions a b >= 0;
  versionOlder = a: b: builtins.compareVersions a b < 0;
  version = "26.05.lab";

  # --- packages and paths -------------------------------------------------------------------------------------------

  getExe' = package: name: "${package}/bin/${name}";
  getExe = package:
    getExe' package (package.meta.mainProgram or (throw "getExe: the package ${package.name} names no meta.mainProgram."));
  getBin = id;
  getLib = id;
  getOutput = _: id;
  makeOverridable = f: args: let result = f args; in result // { override = more: makeOverridable f (args // (if isFunction more then more args else more)); };
  cleanSource = id;
  cleanSourceWith = { src, filter ? _: _: true, name ? "source" }: builtins.path { path = src; inherit filter name; };
  filesystem.listFilesRecursive = folder: flatten (mapAttrsToList
    (name: kind: if kind == "directory" then filesystem.listFilesRecursive (folder + "/${name}") else folder + "/${name}")
    (readDir folder));

  licenses = genAttrs [ "agpl3Only" "agpl3Plus" "asl20" "bsd2" "bsd3" "free" "gpl2Plus" "gpl3Only" "gpl3Plus" "isc" "mit" "mpl20" "unfree" ] (shortName: { inherit shortName; });
  platforms = { all = [ "aarch64-linux" "x86_64-linux" ]; linux = platforms.all; unix = platforms.all; };
  maintainers = { };
  teams = { };

  # --- text formats -------------------------------------------------------------------------------------------------

  generators = rec {
    mkValueStringDefault = { }: v:
      if isBool v then boolToString v
      else if v == null then "null"
      else if isStringLike v || isInt v || isFloat v then toString v
      else throw "generators.mkValueStringDefault: ${builtins.typeOf v} not supported";
    mkKeyValueDefault = { mkValueString ? mkValueStringDefault { } }: sep: k: v: "${escape [ sep ] k}${sep}${mkValueString v}";
    toKeyValue = { mkKeyValue ? mkKeyValueDefault { } "=", listsAsDuplicateKeys ? false, indent ? "" }: set:
      concatLines (concatLists (mapAttrsToList
        (k: v: map (one: indent + mkKeyValue k one) (if listsAsDuplicateKeys then toList v else [ v ])) set));
    toINI = { mkSectionName ? id, mkKeyValue ? mkKeyValueDefault { } "=", listsAsDuplicateKeys ? false }: sections:
      concatStringsSep "\n" (mapAttrsToList (name: set: "[${mkSectionName name}]\n" + toKeyValue { inherit mkKeyValue listsAsDuplicateKeys; } set) sections);
    toJSON = { }: builtins.toJSON;
    toYAML = toJSON;
    toPretty = _: builtins.toJSON;
    toLua = _: builtins.toJSON;
  };
}
