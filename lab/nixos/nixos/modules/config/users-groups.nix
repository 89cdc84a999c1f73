# Accounts. System users are made (systemd-sysusers); people must be there already, and their shells and passwords are recorded alone.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkDefault mkIf mkMerge mkOption types;
  short = import ../short.nix lib;
  cfg = config.users;
  password = mkOption { type = types.nullOr types.str; default = null; };
  hashed = mkOption { type = types.nullOr (types.passwdEntry types.str); default = null; };

  user = { name, config, ... }: {
    imports = [ (lib.mkAliasOptionModule [ "passwordFile" ] [ "hashedPasswordFile" ]) ];
    options = {
      enable = short.bool true;
      name = mkOption { type = types.passwdEntry types.str; };
      description = short.of (types.passwdEntry types.str) "";
      uid = short.nullOr types.int;
      group = short.str "";
      extraGroups = short.strings;
      home = short.of (types.passwdEntry types.path) "/var/empty";
      homeMode = short.of (types.strMatching "[0-7]{1,5}") "700";
      createHome = short.bool false;
      isSystemUser = short.bool false;
      isNormalUser = short.bool false;
      useDefaultShell = short.bool false;
      ignoreShellProgramCheck = short.bool false;
      shell = short.of (types.nullOr (types.either types.shellPackage (types.passwdEntry types.path))) pkgs.shadow;
      packages = short.packages;
      linger = short.nullOr types.bool;
      expires = short.nullOrStr;
      autoSubUidGidRange = short.bool false;
      subUidRanges = short.of (types.listOf short.anyTree) [ ];
      subGidRanges = short.of (types.listOf short.anyTree) [ ];
      hashedPassword = hashed;
      initialHashedPassword = hashed;
      hashedPasswordFile = password;
      inherit password;
      initialPassword = password;
      openssh.authorizedKeys = { keys = short.of (types.listOf types.singleLineStr) [ ]; keyFiles = short.of (types.listOf types.path) [ ]; };
      openssh.authorizedPrincipals = short.strings;
    };
    config = mkMerge [
      { name = mkDefault name; shell = mkIf config.useDefaultShell (mkDefault cfg.defaultUserShell); }
      (mkIf config.isNormalUser {
        group = mkDefault "users";
        home = mkDefault "/home/${config.name}";
        createHome = mkDefault true;
        useDefaultShell = mkDefault true;
        isSystemUser = mkDefault false;
      })
    ];
  };
  group = { name, ... }: {
    options = { name = mkOption { type = types.passwdEntry types.str; }; gid = short.nullOr types.int; members = short.strings; };
    config.name = mkDefault name;
  };

  isSystem = u: u.isSystemUser || (u.uid != null && u.uid < 1000);
  opens = u: lib.any (secret: secret != null) [ u.hashedPassword u.hashedPasswordFile u.password u.initialPassword u.initialHashedPassword ]
    || u.openssh.authorizedKeys.keys ++ u.openssh.authorizedKeys.keyFiles != [ ];
  isAdmin = u: u.name == "root" || lib.elem "wheel" u.extraGroups || lib.elem u.name (cfg.groups.wheel.members);
  shellOf = u: if lib.isDerivation u.shell then u.shell.pname or "" else "";
in
{
  imports = [
    (lib.mkAliasOptionModule [ "users" "extraUsers" ] [ "users" "users" ])
    (lib.mkAliasOptionModule [ "users" "extraGroups" ] [ "users" "groups" ])
  ];
  options.users = {
    mutableUsers = short.bool true;
    allowNoPasswordLogin = short.bool false;
    enforceIdUniqueness = short.bool true;
    defaultUserShell = short.of (types.either types.path types.shellPackage) pkgs.bash;
    motd = short.nullOrStr;
    users = short.of (types.attrsOf (types.submodule user)) { };
    groups = short.of (types.attrsOf (types.submodule group)) { };
  };
  config = {
    users.users.root = { uid = 0; group = "root"; home = mkDefault "/root"; };
    users.groups = { root.gid = 0; wheel.gid = 1; users.gid = 100; };

    assertions = lib.concatMap
      (u: [
        { assertion = u.group != ""; message = "users.users.${u.name}.group is unset. This used to default to nogroup, but this is unsafe."; }
        {
          assertion = isSystem u != u.isNormalUser;
          message = "Exactly one of users.users.${u.name}.isSystemUser and users.users.${u.name}.isNormalUser must be set.";
        }
        {
          assertion = u.ignoreShellProgramCheck || !lib.elem (shellOf u) [ "fish" "zsh" ] || config.programs.${shellOf u}.enable;
          message = "users.users.${u.name}.shell is set to ${shellOf u}, but programs.${shellOf u}.enable is not true.";
        }
      ])
      (lib.filter (u: u.enable) (lib.attrValues cfg.users))
    ++ [
      {
        assertion = cfg.mutableUsers || cfg.allowNoPasswordLogin || lib.any (u: isAdmin u && opens u) (lib.attrValues cfg.users);
        message = "Neither the root account nor any wheel user has a password or SSH authorized key.";
      }
    ];
  };
}
