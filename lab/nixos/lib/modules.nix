# The module system. It follows the manual of NixOS: options are declared, every definition is checked against the type of its option,
# the definitions of lowest priority number win (mkForce 50, plain 100, mkDefault 1000, an option's own default 1500), and an unknown
# name is an error.
lib:
let
  inherit (builtins)
    all any attrNames attrValues concatLists concatMap concatStringsSep elem elemAt filter foldl' genericClosure head isAttrs isList isPath isString
    length map mapAttrs removeAttrs sort stringLength substring tail toJSON toString typeOf;
  inherit (lib)
    concatMapStrings concatMapStringsSep filterAttrs functionArgs genAttrs getAttrFromPath hasAttrByPath id imap1 isDerivation isFunction last
    mapAttrsToList mapAttrsRecursiveCond min optional optionals range recursiveUpdate reverseList setAttrByPath types unique;
in
rec {
  # --- properties of definitions ------------------------------------------------------------------------------------

  isType = type: x: isAttrs x && (x._type or null) == type;
  isOption = isType "option";
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkAssert = assertion: message: mkIf (if assertion then true else throw "\nFailed assertion: ${message}");
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkOptionDefault = mkOverride 1500;
  mkDefault = mkOverride 1000;
  mkImageMediaOverride = mkOverride 60;
  mkForce = mkOverride 50;
  mkVMOverride = mkOverride 10;
  mkOrder = order: content: { _type = "order"; inherit order content; };
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;
  mkDefinition = given: given // { _type = "definition"; };
  mkAliasDefinitions = option: mkMerge (map (d: d.value) option.definitionsWithLocations);
  defaultOverridePriority = 100;

  mkOption = attrs: { _type = "option"; } // attrs;
  inherit (types) mkOptionType;
  mkEnableOption = what: mkOption { type = types.bool; default = false; example = true; description = "Whether to enable ${what}."; };
  mkPackageOption = pkgs: name: { default ? name, nullable ? false, ... }: mkOption {
    type = if nullable then types.nullOr types.package else types.package;
    default = if default == null then null else getAttrFromPath (lib.toList default) pkgs;
    description = "The ${toString name} package to use.";
  };
  literalExpression = text: { _type = "literalExpression"; inherit text; };
  literalMD = literalExpression;
  literalExample = literalExpression;
  mdDoc = id;

  # --- messages -----------------------------------------------------------------------------------------------------

  showOption = concatStringsSep ".";
  showFiles = concatMapStringsSep " and " (file: "`${toString file}'");
  showValue = v:
    if isDerivation v then "<derivation ${v.name}>"
    else if isFunction v then "<function>"
    else if isAttrs v || isList v then "<a ${typeOf v}>"
    else if isPath v then toString v
    else toJSON v;
  showDefs = concatMapStrings (d: "\n- In `${toString d.file}': ${showValue d.value}");

  # Number of single-character edits from one word to the other.
  levenshtein = a: b:
    let
      column = lib.stringToCharacters b;
      step = row: c:
        foldl'
          (done: i: done ++ [
            (min (min (elemAt row i + 1) (last done + 1)) (elemAt row (i - 1) + (if elemAt column (i - 1) == c then 0 else 1)))
          ])
          [ (head row + 1) ]
          (range 1 (length column));
    in
    last (foldl' step (range 0 (length column)) (lib.stringToCharacters a));

  suggestion = loc: name: siblings:
    let
      ranked = sort (a: b: a.distance < b.distance) (map (s: { name = s; distance = levenshtein name s; }) siblings);
    in
    if siblings != [ ] && (head ranked).distance <= 1 + stringLength name / 3
    then "\nDid you mean `${showOption (loc ++ [ (head ranked).name ])}'?"
    else "";

  # --- ways to merge ------------------------------------------------------------------------------------------------

  mergeEqualOption = loc: defs:
    if all (d: d.value == (head defs).value) (tail defs) then (head defs).value
    else throw ("The option `${showOption loc}' has conflicting definition values:${showDefs defs}"
      + "\nUse `lib.mkForce value' or `lib.mkDefault value' to change the priority on any of these definitions.");
  mergeOneOption = loc: defs:
    if length defs == 1 then (head defs).value
    else throw "The option `${showOption loc}' is defined multiple times while it's expected to be unique.${showDefs defs}";
  mergeDefaultOption = loc: defs:
    let values = map (d: d.value) defs; in
    if length values == 1 then head values
    else if all isFunction values then x: mergeDefaultOption loc (map (d: d // { value = d.value x; }) defs)
    else if all isList values then concatLists values
    else if all isAttrs values then foldl' lib.mergeAttrs { } values
    else if all builtins.isBool values then any id values
    else if all isString values then lib.concatStrings values
    else mergeOneOption loc defs;
  mergeAttrs = a: b: a // b;

  # --- definitions --------------------------------------------------------------------------------------------------

  # Moves mkIf, mkMerge, mkOverride and mkOrder one attribute level down, so that names can be seen without evaluating conditions.
  pushDown = loc: { file, value, ... }:
    let down = content: pushDown loc { inherit file; value = content; }; in
    if isType "merge" value then concatMap down value.contents
    else if isType "if" value then map (mapAttrs (_: mkIf value.condition)) (down value.content)
    else if isType "override" value then map (mapAttrs (_: mkOverride value.priority)) (down value.content)
    else if isType "order" value then map (mapAttrs (_: mkOrder value.order)) (down value.content)
    else if isAttrs value then [ value ]
    else throw "A definition for `${showOption loc}' is not an attribute set:${showDefs [{ inherit file value; }]}";

  # Resolves the properties of definitions; what remains are those of the lowest priority number, in order. As in nixpkgs, conditions come
  # first, then one priority, then one order: a mkIf inside of a mkForce is not looked for.
  discharge = defs:
    let
      conditions = { file, value, ... }:
        let on = content: conditions { inherit file; value = content; }; in
        if isType "merge" value then concatMap on value.contents
        else if isType "if" value then
          (if builtins.isBool value.condition then optionals value.condition (on value.content) else throw "`mkIf' called with a non-Boolean condition.")
        else if isType "definition" value then conditions { inherit (value) file value; }
        else [ { inherit file value; priority = if isType "override" value then value.priority else defaultOverridePriority; } ];
      strip = property: d: if isType property d.value then d // { value = d.value.content; } // lib.optionalAttrs (d.value ? order) { inherit (d.value) order; } else d;
      open = concatMap conditions defs;
      lowest = foldl' (least: d: min least d.priority) 9999 open;
      best = map (strip "override") (filter (d: d.priority == lowest) open);
    in
    if length best < 2 then map (strip "order") best
    else sort (a: b: a.order or 1000 < b.order or 1000) (map (strip "order") best);
  defined = defs: discharge defs != [ ];

  mergeDischarged = loc: type: defs: type.merge loc (checked loc type defs);
  checked = loc: type: defs:
    let wrong = filter (d: !type.check d.value) defs; in
    if wrong != [ ] then
      throw "A definition for option `${showOption loc}' is not of type `${type.description}'. Definition values:${showDefs wrong}"
    else map (d: { inherit (d) file value; }) defs;

  evalValue = loc: type: defs:
    let found = discharge defs; in
    if found != [ ] then mergeDischarged loc type found
    else type.emptyValue.value or (throw "The option `${showOption loc}' was accessed but has no value defined. Try setting the option.");

  # Forces what was defined; a value that nobody defined is nobody's mistake.
  strictValue = loc: type: defs: let found = discharge defs; in found == [ ] || type.strict loc (checked loc type found);
  strictOptions = tree: all id (mapAttrsToList
    (_: node: if isOption node then node.strict else strictOptions node)
    (removeAttrs tree [ "_module" ]));

  evalOption = loc: option: defs:
    let
      own = optional (option ? default) { file = "the default"; value = mkOptionDefault option.default; };
      final = discharge (defs ++ own);
      type = option.type or types.unspecified;
      # The default counts as one definition.
      once = !(option.readOnly or false) || length (discharge defs) + length own <= 1
        || throw "The option `${showOption loc}' is read-only, but it's set multiple times.${showDefs (discharge defs)}";
    in
    option // {
      inherit loc type;
      files = map (d: d.file) final;
      definitions = map (d: d.value) final;
      definitionsWithLocations = map (d: { inherit (d) file value; }) final;
      isDefined = final != [ ];
      highestPrio = if final == [ ] then 9999 else (head final).priority;
      strict = once && strictValue loc type defs;
      value = builtins.seq once ((option.apply or id) (evalValue loc type (defs ++ own)));
      __toString = _: showOption loc;
    };

  # { options: the tree with values; unmatched: definitions that no option takes, with their path }
  evalTree = loc: tree: defs:
    let
      sets = concatMap (d: map (value: { inherit (d) file; inherit value; }) (pushDown loc d)) defs;
      of = name: concatMap (d: optional (d.value ? ${name}) { inherit (d) file; value = d.value.${name}; }) sets;
      unknown = unique (concatMap (d: filter (name: !(tree ? ${name})) (attrNames d.value)) sets);
      nodes = mapAttrs
        (name: node:
          if isOption node then { options = evalOption (loc ++ [ name ]) node (of name); unmatched = [ ]; }
          else evalTree (loc ++ [ name ]) node (of name))
        tree;
    in
    {
      options = mapAttrs (_: node: node.options) nodes;
      unmatched = concatLists (mapAttrsToList (name: node: map (u: u // { path = [ name ] ++ u.path; }) node.unmatched) nodes)
        ++ concatMap (name: map (d: d // { path = [ name ]; siblings = attrNames tree; }) (of name)) unknown;
    };

  # Joins the option declarations of all modules to one tree. An option may be declared twice when its types can be joined.
  mergeDeclarations = loc: decls:
    genAttrs (unique (concatMap (d: attrNames d.options) decls)) (name:
      let
        here = filter (d: d.options ? ${name}) decls;
        nodes = map (d: d.options.${name}) here;
        place = loc ++ [ name ];
        odd = wanted: toString (head (filter (d: isOption d.options.${name} == wanted) here)).file;
      in
      if all isOption nodes then foldl' (joinOptions place here) (head nodes // { declarations = map (d: toString d.file) here; }) (tail nodes)
      else if any isOption nodes then throw "The option `${showOption place}' in `${odd true}' is a prefix of options in `${odd false}'."
      else if !all isAttrs nodes then throw "The option `${showOption place}' in `${toString (head here).file}' is declared as a ${typeOf (head nodes)}; use `mkOption'."
      else mergeDeclarations place (map (d: { inherit (d) file; options = d.options.${name}; }) here));
  joinOptions = loc: decls: a: b:
    let
      type = if !(a ? type) then b.type or types.unspecified else if !(b ? type) then a.type else a.type.join b.type;
      both = filter (name: a ? ${name} && b ? ${name}) [ "default" "example" "description" "apply" ];
    in
    if type == null || elem "default" both || elem "apply" both
    then throw "The option `${showOption loc}' in ${showFiles (map (d: d.file) decls)} is already declared."
    else a // b // { inherit type; inherit (a) declarations; };

  # --- modules ------------------------------------------------------------------------------------------------------

  # modules: files, functions or sets; specialArgs: further arguments of every module; prefix: option path of a submodule.
  # Returns { config, options, extendModules, type }.
  evalModules = { modules, specialArgs ? { }, prefix ? [ ], class ? null, check ? true }@given:
    let
      args = { inherit config options lib specialArgs; } // specialArgs;

      extendModules = more: evalModules (given // {
        modules = modules ++ more.modules or [ ];
        specialArgs = specialArgs // more.specialArgs or { };
        prefix = more.prefix or prefix;
      });
      type = types.submoduleWith { inherit modules specialArgs; };

      internal = {
        _file = "the module system";
        options._module = {
          args = mkOption { type = types.lazyAttrsOf types.raw; };
          check = mkOption { type = types.bool; default = check; };
          freeformType = mkOption { type = types.nullOr types.raw; default = null; };
        };
        config._module.args = { inherit extendModules; moduleType = type; };
      };

      # Arguments stay lazy: a module may ask for one that its own definitions do not need.
      call = file: f: f (args // mapAttrs
        (name: _: args.${name} or config._module.args.${name} or (throw "The module `${toString file}' asks for the argument `${name}', which does not exist."))
        (functionArgs f));

      normalise = parent: n: module:
        let
          fromFile = isPath module || isString module;
          loaded = if fromFile then import module else module;
          value = if isFunction loaded then call (if fromFile then module else parent.file) loaded else loaded;
          # Asked of the value, not of the module: a function may carry both.
          file = if fromFile then toString module else value._file or parent.file;
          key = value.key or (if fromFile then toString module else "${parent.key}:anon-${toString n}");
          reserved = [ "_class" "_file" "disabledModules" "freeformType" "imports" "key" "meta" "require" ];
          structured = value ? options || value ? config;
          stray = attrNames (removeAttrs value (reserved ++ [ "options" "config" ]));
        in
        if !isAttrs value then throw "The module `${toString (if fromFile then module else parent.file)}' is neither an attribute set nor a function that returns one."
        else if value ? _type && value._type != "if" && value._type != "merge" && value._type != "override" then
          throw "Expected a module, but found a value of type `${value._type}' in `${toString file}'."
        else {
          inherit file key;
          imports = imap1 (normalise { inherit file key; }) (value.require or [ ] ++ value.imports or [ ]);
          disabled = value.disabledModules or [ ];
          options = value.options or { };
          config = mkMerge (optional (value ? freeformType) { _module.freeformType = value.freeformType; } ++ [
            (if !structured then (if value ? _type then value else removeAttrs value reserved)
            else if stray != [ ] then
              throw "Module `${toString file}' has an unsupported attribute `${head stray}'. Beside `options' and `config', put it inside `config'."
            else value.config or { })
          ]);
        };

      keyOf = gone: if isString gone then (if lib.hasPrefix "/" gone then gone else "${toString (specialArgs.modulesPath or "")}/${gone}") else toString (gone.key or gone);
      start = imap1 (normalise { file = "<unknown-file>"; key = ""; }) (modules ++ [ internal ]);
      everywhere = ms: ms ++ concatMap (m: everywhere m.imports) ms;
      disabled = concatMap (m: map keyOf m.disabled) (everywhere start);
      wanted = filter (m: !elem m.key disabled && !elem "${m.key}/default.nix" disabled);
      # As in NixOS, what a module imports comes before it, and a later module before an earlier one.
      loaded = reverseList (genericClosure { startSet = wanted start; operator = m: wanted m.imports; });

      evaluated = evalTree prefix
        (mergeDeclarations prefix (map (m: { inherit (m) file options; }) loaded))
        (map (m: { inherit (m) file; value = m.config; }) loaded);
      inherit (evaluated) options unmatched;
      declared = mapAttrsRecursiveCond (node: !isOption node) (_: option: option.value) options;
      freeform = declared._module.freeformType;
      free = freeform.merge prefix (map (u: { inherit (u) file; value = setAttrByPath u.path u.value; }) unmatched);
      config = if freeform == null || unmatched == [ ] then declared else recursiveUpdate free declared;
      first = head unmatched;
      found = if !declared._module.check || freeform != null || unmatched == [ ] then true
        else throw ("The option `${showOption (prefix ++ first.path)}' does not exist. Definition values:${showDefs [ first ]}"
          + suggestion (prefix ++ lib.init first.path) (last first.path) first.siblings);
    in
    builtins.seq found {
      inherit extendModules type;
      inherit (config) _module;
      options = if freeform == null || unmatched == [ ] then options
        else recursiveUpdate (mapAttrs (_: value: mkOption { inherit value; strict = force value; }) (removeAttrs free (attrNames options))) options;
      config = removeAttrs config [ "_module" ];
    };

  # Opens a value whole. Packages and functions stay closed.
  force = x:
    if isDerivation x || isFunction x then true
    else if isAttrs x then all force (attrValues x)
    else if isList x then all force x
    else builtins.seq x true;

  # --- options that moved -------------------------------------------------------------------------------------------

  mkRemovedOptionModule = path: instead: { options, ... }: {
    options = setAttrByPath path (mkOption { visible = false; apply = _: throw "The option `${showOption path}' can no longer be used since it's been removed. ${instead}"; });
    config.assertions =
      let option = getAttrFromPath path options; in
      [ { assertion = !option.isDefined; message = "The option definition `${showOption path}' in ${showFiles option.files} no longer has any effect; please remove it.\n${instead}"; } ];
  };
  doRename = { from, to, warn ? false, visible ? true, use ? id, withPriority ? true, ... }: { config, options, ... }:
    let old = getAttrFromPath from options; in
    {
      options = setAttrByPath from (mkOption {
        inherit visible;
        description = "Alias of `${showOption to}'.";
        apply = x: use (getAttrFromPath to config);
      } // lib.optionalAttrs (hasAttrByPath (to ++ [ "type" ]) options) { inherit (getAttrFromPath to options) type; });
      config = mkMerge [
        (lib.optionalAttrs (options ? warnings) {
          warnings = optional (warn && old.isDefined) "The option `${showOption from}' defined in ${showFiles old.files} has been renamed to `${showOption to}'.";
        })
        (setAttrByPath to (mkIf old.isDefined (mkMerge (if withPriority then map (mkOverride old.highestPrio) old.definitions else old.definitions))))
      ];
    };
  mkRenamedOptionModule = from: to: doRename { inherit from to; visible = false; warn = true; };
  mkAliasOptionModule = from: to: doRename { inherit from to; };
  mkAliasOptionModuleMD = mkAliasOptionModule;
  mkRenamedOptionModuleWith = { from, to, sinceRelease }: mkRenamedOptionModule from to;
  mkChangedOptionModule = from: to: change: { config, options, ... }: {
    options = setAttrByPath from (mkOption { visible = false; });
    config = setAttrByPath to (mkIf (getAttrFromPath from options).isDefined (change config));
  };
}
