# What a generation is made of: /etc, the programs, the checks before a switch and the script that switches.
{ config, lib, options, pkgs, ... }:
let
  inherit (lib) mkOption types;
  short = import ../../short.nix lib;

  entry = file:
    if file.source != null then { source = "${file.source}"; }
    else if file.text != null then { inherit (file) text; }
    else throw "environment.etc.\"${file.target}\" has neither text nor source.";
  files = lib.listToAttrs (map (file: lib.nameValuePair file.target (entry file))
    (lib.filter (file: file.enable) (lib.attrValues config.environment.etc)));

  checks = "set +e\n" + lib.concatStrings (lib.mapAttrsToList
    (name: text: ''
      # ${name}
      (
      ${text}
      ) || { echo "Pre-switch check '${name}' failed" >&2; exit 1; }
    '')
    config.system.preSwitchChecks);

  manifest = builtins.toJSON {
    etc = files;
    inherit (config.systemd.rendered) units users groups;
    unitPackages = map (p: "${p}") config.systemd.packages;
    programs = map (p: "${p}") config.environment.systemPackages;
    preSwitchChecks = "${pkgs.writeShellScript "pre-switch-checks" checks}";
    version = config.system.nixos.label;
  };

  # All errors of a configuration show where its system is asked for, as on NixOS; there, a wrong type shows only where it is used.
  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  looked = lib.strictOptions (options // { system = removeAttrs options.system [ "build" ]; });
  accept =
    if !builtins.seq config.nixpkgs.hostPlatform.system looked then throw "unreachable: it is true or throws"
    else if failed != [ ] then throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (message: "- ${message}") failed}"
    else lib.foldl' (x: warning: builtins.trace "warning: ${warning}" x) (x: x) config.warnings;
in
{
  options.system = {
    build = mkOption { type = types.lazyAttrsOf types.raw; default = { }; };
    preSwitchChecks = short.of (types.attrsOf types.str) { };
  };

  config = {
    # At boot the profile decides, as on NixOS: a generation that was only tested is gone after a restart.
    systemd.services.lab-stage2 = {
      description = "Lay out /etc of the profile's generation";
      wantedBy = [ "sysinit.target" ];
      # Not after local-fs.target: sysusers comes before that, and systemd would break the circle by leaving out any one of
      # them, this unit at times. The root file system is mounted before PID 1 starts.
      before = [ "sysinit.target" "systemd-sysusers.service" "systemd-tmpfiles-setup.service" ];
      restartIfChanged = false;
      unitConfig.DefaultDependencies = false;
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "/nix/var/nix/profiles/system/bin/switch-to-configuration stage2";
      };
    };

    system.build.toplevel = accept (derivation {
      name = "nixos-system-${config.networking.hostName}";
      system = pkgs.builder;
      builder = "/usr/bin/python3";
      args = [ ../../../../build_system.py ];
      inherit manifest;
      passAsFile = [ "manifest" ];
      switch = ../../../../switch_to_configuration.py;
    });
  };
}
