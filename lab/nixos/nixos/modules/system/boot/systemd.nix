# systemd's units as options. units.nix makes files of them.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkIf mkMerge mkOption types;
  short = import ../../short.nix lib;

  # As nixpkgs' unitOption (nixos/lib/systemd-unit-options.nix): definitions add up when all are lists, else they must agree.
  scalar = types.oneOf [ types.bool types.int types.str types.path types.package ];
  setting = lib.mkOptionType {
    name = "systemd option";
    description = "a systemd setting: boolean, integer, string, path or a list of them";
    check = x: x == null || scalar.check x || (lib.isList x && lib.all scalar.check x);
    merge = loc: defs:
      if !lib.any (d: lib.isList d.value) defs then lib.mergeEqualOption loc defs
      else if lib.all (d: lib.isList d.value) defs then lib.concatMap (d: d.value) defs
      else throw ("The definitions for systemd unit options should be either all lists, representing repeatable options, or all non-lists, "
        + "but for the option ${lib.showOption loc}, the definitions are a mix of list and non-list:${lib.showDefs defs}");
  };
  settings = short.of (types.attrsOf setting) { };
  unitName = types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";
  names = short.of (types.listOf unitName) [ ];
  limit = mkOption { type = types.nullOr types.int; default = null; };

  common = {
    enable = short.bool true;
    description = short.of types.singleLineStr "";
    documentation = short.strings;
    unitConfig = settings;
    startLimitIntervalSec = limit;
    startLimitBurst = limit;
    overrideStrategy = short.of (types.enum [ "asDropinIfExists" "asDropin" ]) "asDropinIfExists";
    restartTriggers = short.of (types.listOf types.unspecified) [ ];
    reloadTriggers = short.of (types.listOf types.unspecified) [ ];
  } // lib.genAttrs
    [ "after" "aliases" "before" "bindsTo" "conflicts" "onFailure" "onSuccess" "partOf" "requiredBy" "requires" "requisite" "upheldBy" "upholds" "wantedBy" "wants" ]
    (_: names);
  unitType = extra: mkOption { default = { }; type = types.attrsOf (types.submodule { options = common // extra; }); };

  script = name: what: body: "${pkgs.writeShellScript "unit-script-${lib.replaceStrings [ "@" ] [ "-" ] name}-${what}" "set -e\n${body}"}";
  service = { name, config, ... }: {
    options = common // {
      environment = short.of (types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package ]))) { };
      path = short.of (types.listOf (types.oneOf [ types.package types.str ])) [ ];
      serviceConfig = settings;
      scriptArgs = short.str "";
      enableStrictShellChecks = short.bool false;
      restartIfChanged = short.bool true;
      reloadIfChanged = short.bool false;
      stopIfChanged = short.bool true;
      startAt = mkOption { type = types.either types.str (types.listOf types.str); default = [ ]; apply = lib.toList; };
      confinement = short.recorded;
    } // lib.genAttrs [ "script" "preStart" "postStart" "reload" "preStop" "postStop" ] (_: short.text);
    config = mkMerge [
      (mkIf (config.preStart != "") { serviceConfig.ExecStartPre = [ (script name "pre-start" config.preStart) ]; })
      (mkIf (config.script != "") { serviceConfig.ExecStart = "${script name "start" config.script}${lib.optionalString (config.scriptArgs != "") " ${config.scriptArgs}"}"; })
      (mkIf (config.postStart != "") { serviceConfig.ExecStartPost = [ (script name "post-start" config.postStart) ]; })
      (mkIf (config.reload != "") { serviceConfig.ExecReload = script name "reload" config.reload; })
      (mkIf (config.preStop != "") { serviceConfig.ExecStop = script name "pre-stop" config.preStop; })
      (mkIf (config.postStop != "") { serviceConfig.ExecStopPost = script name "post-stop" config.postStop; })
      # There is no /usr/bin: a service finds the programs of its packages and these.
      { path = lib.mkAfter [ pkgs.coreutils pkgs.findutils pkgs.gnugrep pkgs.gnused pkgs.systemd ]; }
      { environment.PATH = lib.makeBinPath config.path; }
    ];
  };

  column = short.str "-";
  rule = { name, ... }: {
    options = { type = short.str name; mode = column; user = column; group = column; age = column; argument = short.str ""; };
  };
  waits = s: lib.elem "network-online.target" s.after && !lib.elem "network-online.target" (s.wants ++ s.requires ++ s.bindsTo);
in
{
  options.systemd = {
    package = lib.mkPackageOption pkgs "systemd" { };
    packages = short.packages;
    services = short.of (types.attrsOf (types.submodule service)) { };
    timers = unitType { timerConfig = settings; };
    paths = unitType { pathConfig = settings; };
    sockets = unitType { socketConfig = settings; listenStreams = short.strings; listenDatagrams = short.strings; };
    slices = unitType { sliceConfig = settings; };
    targets = unitType { };
    tmpfiles = {
      rules = short.strings;
      packages = short.packages;
      settings = short.of (types.attrsOf (types.attrsOf (types.attrsOf (types.submodule rule)))) { };
    };
    globalEnvironment = short.of (types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package ]))) { };
    suppressedSystemUnits = short.strings;
    extraConfig = short.text;
    defaultUnit = short.str "multi-user.target";
    enableEmergencyMode = short.bool true;
  } // short.recordedAll [ "automounts" "coredump" "mounts" "network" "oomd" "settings" "sleep" "sysusers" "user" "watchdog" ];

  config.warnings = lib.mapAttrsToList
    (name: _: "${name}.service is ordered after 'network-online.target' but doesn't depend on it")
    (lib.filterAttrs (_: waits) config.systemd.services);
  config.assertions = lib.concatLists (lib.mapAttrsToList
    (name: s: [
      {
        assertion = s.serviceConfig.Type or "" != "oneshot" || !lib.elem (s.serviceConfig.Restart or "no") [ "always" "on-success" ];
        message = "Service '${name}.service' with 'Type=oneshot' cannot have 'Restart=always' or 'Restart=on-success'";
      }
    ])
    config.systemd.services);
}
