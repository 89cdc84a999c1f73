# systemd units, tmpfiles and system users, as files below /etc.
#
# A unit that a package of systemd.packages ships is linked, and what the configuration says about it becomes a drop-in `overrides.conf`;
# every other unit is written whole.
{ config, lib, pkgs, ... }:
let
  inherit (lib) concatMapStrings mkOption optionalAttrs optionalString types;
  cfg = config.systemd;

  # --- options ------------------------------------------------------------------------------------------------------

  scalar = types.oneOf [ types.bool types.int types.str types.path ];
  # As nixpkgs' unitOption (nixos/lib/systemd-unit-options.nix): definitions add up when all are lists, else they must agree.
  setting = lib.mkOptionType {
    name = "systemd option";
    description = "a systemd setting: boolean, integer, string, path or a list of them";
    check = x: scalar.check x || (lib.isList x && lib.all scalar.check x);
    merge = loc: defs:
      if !lib.any (d: lib.isList d.value) defs then scalar.merge loc defs
      else if lib.all (d: lib.isList d.value) defs then lib.concatMap (d: d.value) defs
      else throw ("The definitions for systemd unit options should be either all lists, representing repeatable options, or all non-lists, "
        + "but for the option ${lib.showOption loc}, the definitions are a mix of list and non-list:${lib.showDefs defs}");
  };
  settings = mkOption { type = types.attrsOf setting; default = { }; };
  names = mkOption { type = types.listOf types.str; default = [ ]; };
  text = mkOption { type = types.lines; default = ""; };
  flag = default: mkOption { type = types.bool; inherit default; };

  unitOptions = {
    enable = flag true;
    description = mkOption { type = types.str; default = ""; };
    documentation = names;
    after = names;
    before = names;
    wants = names;
    requires = names;
    bindsTo = names;
    partOf = names;
    conflicts = names;
    onFailure = names;
    wantedBy = names;
    requiredBy = names;
    unitConfig = settings;
    startLimitIntervalSec = mkOption { type = types.nullOr types.int; default = null; };
    startLimitBurst = mkOption { type = types.nullOr types.int; default = null; };
  };
  unitType = extra: mkOption { default = { }; type = types.attrsOf (types.submodule { options = unitOptions // extra; }); };

  # --- text ---------------------------------------------------------------------------------------------------------

  showSetting = value: if lib.isBool value then lib.boolToString value else if lib.isPath value then "${value}" else toString value;
  section = name: values: optionalString (values != { }) ("[${name}]\n" + lib.concatStrings (lib.mapAttrsToList
    (key: value: concatMapStrings (one: "${key}=${showSetting one}\n") (lib.toList value))
    values));
  fingerprint = triggers: builtins.hashString "sha256" (lib.concatMapStringsSep "\n" (t: if lib.isPath t then "${t}" else toString t) (lib.flatten triggers));

  unitSection = unit: lib.filterAttrs (_: value: value != [ ] && value != "" && value != null) {
    Description = unit.description;
    Documentation = unit.documentation;
    After = unit.after;
    Before = unit.before;
    Wants = unit.wants;
    Requires = unit.requires;
    BindsTo = unit.bindsTo;
    PartOf = unit.partOf;
    Conflicts = unit.conflicts;
    OnFailure = unit.onFailure;
    StartLimitIntervalSec = unit.startLimitIntervalSec;
    StartLimitBurst = unit.startLimitBurst;
  } // unit.unitConfig;

  # The search path of every service on NixOS; there is no /usr/bin.
  defaultPath = [ pkgs.coreutils pkgs.findutils pkgs.gnugrep pkgs.gnused pkgs.systemd ];

  environmentOf = service:
    { PATH = lib.concatMapStringsSep ":" (p: "${p}/bin") (service.path ++ defaultPath); } // lib.filterAttrs (_: v: v != null) service.environment;

  scripts = name: service: lib.mapAttrs (_: body: "${pkgs.writeShellScript "unit-script-${name}" "set -e\n${body}"}") (
    optionalAttrs (service.script != "") { ExecStart = service.script; }
    // optionalAttrs (service.preStart != "") { ExecStartPre = service.preStart; }
    // optionalAttrs (service.postStart != "") { ExecStartPost = service.postStart; });

  serviceText = name: service:
    section "Unit" (unitSection service
      // optionalAttrs (service.restartTriggers != [ ]) { X-Restart-Triggers = fingerprint service.restartTriggers; }
      // optionalAttrs (service.reloadTriggers != [ ]) { X-Reload-Triggers = fingerprint service.reloadTriggers; })
    + section "Service" ({
      Environment = lib.mapAttrsToList (key: value: builtins.toJSON "${key}=${toString value}") (environmentOf service);
    } // optionalAttrs (!service.restartIfChanged) { X-RestartIfChanged = false; }
      // optionalAttrs service.reloadIfChanged { X-ReloadIfChanged = true; }
      // optionalAttrs (!service.stopIfChanged) { X-StopIfChanged = false; }
      // scripts name service // service.serviceConfig);

  timerOfStartAt = service: {
    unit = "[Timer]\n" + concatMapStrings (time: "OnCalendar=${time}\n") service.startAt;
    wantedBy = [ "timers.target" ];
    requiredBy = [ ];
  };

  # --- files --------------------------------------------------------------------------------------------------------

  # name -> { unit = text; wantedBy; requiredBy; }
  units = kind: render: set: lib.mapAttrs'
    (name: unit: lib.nameValuePair "${name}.${kind}" { unit = render name unit; inherit (unit) wantedBy requiredBy; })
    (lib.filterAttrs (_: unit: unit.enable) set);

  all =
    units "service" serviceText cfg.services
    // lib.mapAttrs' (name: service: lib.nameValuePair "${name}.timer" (timerOfStartAt service)) (lib.filterAttrs (_: s: s.startAt != [ ]) cfg.services)
    // units "timer" (_: timer: section "Unit" (unitSection timer) + section "Timer" timer.timerConfig) cfg.timers
    // units "path" (_: path: section "Unit" (unitSection path) + section "Path" path.pathConfig) cfg.paths
    // units "socket" (_: socket: section "Unit" (unitSection socket) + section "Socket" ({
      ListenStream = socket.listenStreams;
      ListenDatagram = socket.listenDatagrams;
    } // socket.socketConfig)) cfg.sockets
    // units "target" (_: target: section "Unit" (unitSection target)) cfg.targets;

  rule = type: path: r:
    "${type} ${builtins.toJSON path} ${r.mode} ${r.user} ${r.group} ${r.age} ${r.argument}";
  settingsText = paths: lib.concatStrings (lib.mapAttrsToList
    (path: rules: lib.concatStrings (lib.mapAttrsToList (type: r: rule type path r + "\n") rules))
    paths);
  column = mkOption { type = types.str; default = "-"; };

  id = value: if value == null then "-" else toString value;
  # Without a number, systemd 252 knows no way to name a primary group other than the one of the same name.
  account = user: id user.uid + optionalString (user.group != user.name || user.uid != null) ":${user.group}";
  people = lib.filterAttrs (_: user: !user.isNormalUser) config.users.users;
  sysusers =
    lib.concatStrings (lib.mapAttrsToList (name: group: "g ${name} ${id group.gid}\n") config.users.groups)
    + lib.concatStrings (lib.mapAttrsToList (_: user: "u ${user.name} ${account user} - ${user.home}\n") people)
    + lib.concatStrings (lib.mapAttrsToList (_: user: concatMapStrings (group: "m ${user.name} ${group}\n") user.extraGroups) people);
in
{
  options.systemd = {
    packages = mkOption { type = types.listOf types.package; default = [ ]; };
    services = unitType {
      environment = mkOption { type = types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package ])); default = { }; };
      path = mkOption { type = types.listOf (types.oneOf [ types.package types.str ]); default = [ ]; };
      script = text;
      preStart = text;
      postStart = text;
      serviceConfig = settings;
      restartIfChanged = flag true;
      reloadIfChanged = flag false;
      stopIfChanged = flag true;
      restartTriggers = mkOption { type = types.listOf types.unspecified; default = [ ]; };
      reloadTriggers = mkOption { type = types.listOf types.unspecified; default = [ ]; };
      startAt = mkOption { type = types.either types.str (types.listOf types.str); default = [ ]; apply = lib.toList; };
    };
    timers = unitType { timerConfig = settings; };
    paths = unitType { pathConfig = settings; };
    sockets = unitType { socketConfig = settings; listenStreams = names; listenDatagrams = names; };
    targets = unitType { };
    tmpfiles = {
      rules = names;
      settings = mkOption {
        default = { };
        type = types.attrsOf (types.attrsOf (types.attrsOf (types.submodule {
          options = { mode = column; user = column; group = column; age = column; argument = mkOption { type = types.str; default = ""; }; };
        })));
      };
    };
    # For the rendering (system.nix): the units as text and where they are wanted.
    rendered = mkOption { type = types.raw; };
  };

  config = {
    systemd.rendered = all;
    environment.etc =
      { "tmpfiles.d/00-nixos.conf".text = concatMapStrings (line: line + "\n") cfg.tmpfiles.rules; }
      // lib.mapAttrs' (name: paths: lib.nameValuePair "tmpfiles.d/${name}.conf" { text = settingsText paths; }) cfg.tmpfiles.settings
      // { "sysusers.d/00-nixos.conf".text = sysusers; };

    assertions = lib.mapAttrsToList
      (_: user: { assertion = user.isNormalUser || user.group != ""; message = "users.users.${user.name}.group is unset."; })
      config.users.users;
    warnings = lib.concatLists (lib.mapAttrsToList
      (name: s: lib.optional (lib.elem "network-online.target" s.after && !lib.elem "network-online.target" (s.wants ++ s.requires ++ s.bindsTo))
        "${name}.service is ordered after 'network-online.target' but doesn't depend on it")
      cfg.services);
  };
}
