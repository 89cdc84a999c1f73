# systemd units, tmpfiles and system users, as files below /etc.
#
# A unit that a package of systemd.packages ships is linked, and what the configuration says about it becomes a drop-in `overrides.conf`;
# every other unit is written whole; one with `enable = false` is masked.
{ config, lib, ... }:
let
  inherit (lib) concatMapStrings mkOption optionalAttrs optionalString types;
  cfg = config.systemd;

  # --- text ---------------------------------------------------------------------------------------------------------

  showSetting = value: if lib.isBool value then lib.boolToString value else if lib.isPath value then "${value}" else toString value;
  section = name: values: optionalString (values != { }) ("[${name}]\n" + lib.concatStrings (lib.mapAttrsToList
    (key: value: concatMapStrings (one: "${key}=${showSetting one}\n") (lib.toList value))
    (lib.filterAttrs (_: value: value != null) values)));
  fingerprint = triggers: builtins.hashString "sha256" (lib.concatMapStringsSep "\n" (t: if lib.isPath t then "${t}" else toString t) (lib.flatten triggers));

  unitSection = unit: section "Unit" (lib.filterAttrs (_: value: value != [ ] && value != "" && value != null) {
    Description = unit.description;
    Documentation = unit.documentation;
    After = unit.after;
    Before = unit.before;
    Wants = unit.wants;
    Upholds = unit.upholds;
    Requires = unit.requires;
    Requisite = unit.requisite;
    BindsTo = unit.bindsTo;
    PartOf = unit.partOf;
    Conflicts = unit.conflicts;
    OnFailure = unit.onFailure;
    OnSuccess = unit.onSuccess;
    StartLimitIntervalSec = unit.startLimitIntervalSec;
    StartLimitBurst = unit.startLimitBurst;
  } // unit.unitConfig
    // optionalAttrs (unit.restartTriggers != [ ]) { X-Restart-Triggers = fingerprint unit.restartTriggers; }
    // optionalAttrs (unit.reloadTriggers != [ ]) { X-Reload-Triggers = fingerprint unit.reloadTriggers; });

  # systemd adds up what Environment= says, so a value that is given there stays beside these.
  environmentOf = service: lib.filterAttrs (_: v: v != null) (cfg.globalEnvironment // service.environment);

  serviceText = _: service:
    unitSection service
    + section "Service" (optionalAttrs (!service.restartIfChanged) { X-RestartIfChanged = false; }
      // optionalAttrs service.reloadIfChanged { X-ReloadIfChanged = true; }
      // optionalAttrs (!service.stopIfChanged) { X-StopIfChanged = false; }
      // service.serviceConfig
      // {
        Environment = lib.mapAttrsToList (key: value: builtins.toJSON "${key}=${toString value}") (environmentOf service)
          ++ lib.toList service.serviceConfig.Environment or [ ];
      });
  socketText = _: socket: unitSection socket + section "Socket" (
    lib.filterAttrs (_: value: value != [ ]) { ListenStream = socket.listenStreams; ListenDatagram = socket.listenDatagrams; } // socket.socketConfig);
  plainText = name: key: _: unit: unitSection unit + section name unit.${key};

  # --- files --------------------------------------------------------------------------------------------------------

  # name -> { unit = text, or null for a masked one; wantedBy; requiredBy; }
  units = kind: render: set: lib.mapAttrs'
    (name: unit: lib.nameValuePair "${name}.${kind}" (
      if unit.enable then { unit = render name unit; inherit (unit) wantedBy requiredBy aliases; }
      else { unit = null; wantedBy = [ ]; requiredBy = [ ]; aliases = [ ]; }))
    set;
  startAt = lib.mapAttrs
    (_: service: { unit = "[Timer]\n" + concatMapStrings (time: "OnCalendar=${time}\n") service.startAt; wantedBy = [ "timers.target" ]; requiredBy = [ ]; aliases = [ ]; })
    (lib.filterAttrs (_: s: s.startAt != [ ]) cfg.services);

  all =
    units "service" serviceText cfg.services
    // lib.mapAttrs' (name: lib.nameValuePair "${name}.timer") startAt
    // units "timer" (plainText "Timer" "timerConfig") cfg.timers
    // units "path" (plainText "Path" "pathConfig") cfg.paths
    // units "socket" socketText cfg.sockets
    // units "slice" (plainText "Slice" "sliceConfig") cfg.slices
    // units "target" (_: unitSection) cfg.targets;

  rule = path: r:
    "${r.type} ${builtins.toJSON path} ${r.mode} ${r.user} ${r.group} ${r.age} ${r.argument}";
  settingsText = paths: lib.concatStrings (lib.mapAttrsToList
    (path: rules: concatMapStrings (r: rule path r + "\n") (lib.attrValues rules))
    paths);

  # --- accounts -----------------------------------------------------------------------------------------------------

  id = value: if value == null then "-" else toString value;
  # Without a number, systemd 252 knows no way to name a primary group other than the one of the same name.
  account = user: id user.uid + optionalString (user.group != user.name || user.uid != null) ":${user.group}";
  people = lib.filterAttrs (_: user: user.enable && !user.isNormalUser && user.name != "root") config.users.users;
  groups = removeAttrs config.users.groups [ "root" "users" "wheel" ];
  members = group: concatMapStrings (user: "m ${user} ${group.name}\n") group.members;
  sysusers =
    lib.concatStrings (lib.mapAttrsToList (_: group: "g ${group.name} ${id group.gid}\n") groups)
    + lib.concatStrings (lib.mapAttrsToList (_: user: "u ${user.name} ${account user} \"${user.description or ""}\" ${user.home}\n") people)
    + lib.concatStrings (lib.mapAttrsToList (_: user: concatMapStrings (group: "m ${user.name} ${group}\n") user.extraGroups) people)
    + lib.concatStrings (lib.mapAttrsToList (_: members) groups);
in
{
  # For top-level.nix: the units as text and where they are wanted, and the accounts that a generation makes.
  options.systemd.rendered = mkOption { type = types.raw; };

  config = {
    systemd.rendered = {
      units = all;
      users = map (user: user.name) (lib.attrValues people);
      groups = map (group: group.name) (lib.attrValues groups);
    };
    environment.etc =
      { "tmpfiles.d/00-nixos.conf".text = concatMapStrings (line: line + "\n") cfg.tmpfiles.rules; }
      // lib.mapAttrs' (name: paths: lib.nameValuePair "tmpfiles.d/${name}.conf" { text = settingsText paths; }) cfg.tmpfiles.settings
      // { "sysusers.d/00-nixos.conf".text = sysusers; };
  };
}
