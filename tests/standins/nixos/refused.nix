# What NixOS refuses: why it is here -> the module, and what is said of it (test_nixos_modules.py).
{
  "a typing error, with a suggestion" = {
    said = "Did you mean `services.caddy'?";
    module = { services.cady.enable = true; };
  };

  "an option that another module has" = {
    said = "option `services.immich.hosts' does not exist";
    module = { services.immich.hosts = [ ]; };
  };

  "a typing error in a site" = {
    said = "does not exist";
    module = { services.caddy.virtualHosts."a".extraConf = ""; };
  };

  "a typing error in a location" = {
    said = "proxypass' does not exist";
    module = { services.nginx.virtualHosts.a.locations."/".proxypass = ""; };
  };

  "a typing error in a container" = {
    said = "does not exist";
    module = { virtualisation.oci-containers.containers.a = { image = "x"; port = [ ]; }; };
  };

  "a text for a number" = {
    said = "is not of type `16 bit unsigned";
    module = { services.immich.port = "2283"; };
  };

  "a number out of range" = {
    said = "is not of type `16 bit unsigned";
    module = { services.immich.port = 70000; };
  };

  "a path that is none" = {
    said = "is not of type `path'";
    module = { services.immich.mediaLocation = "photos"; };
  };

  "a path literal for a secret" = {
    said = "is not of type";
    module = { services.immich.secretsFile = ./secret; };
  };

  "two answers to one question" = {
    said = "conflicting definition values";
    module = { lib, ... }: { services.immich = lib.mkMerge [ { port = 1; } { port = 2; } ]; };
  };

  "the host said twice" = {
    said = "IMMICH_HOST' has conflicting";
    module = {
      services.immich.enable = true;
      services.immich.environment.IMMICH_HOST = "0.0.0.0";
    };
  };

  "a number for a variable" = {
    said = "is not of type `string'";
    module = { services.immich.environment.IMMICH_WORKERS = 2; };
  };

  "a list and a text for one setting" = {
    said = "a mix of list and non-list";
    module = { lib, ... }: {
      systemd.services.x.serviceConfig = lib.mkMerge [ { ExecStart = "/a"; } { ExecStart = [ "/b" ]; } ];
    };
  };

  "the same with a default of the module" = {
    said = "a mix of list and non-list";
    module = {
      services.immich.enable = true;
      systemd.services.immich-server.serviceConfig.RestrictAddressFamilies = "AF_INET";
    };
  };

  "preStart beside a text" = {
    said = "a mix of list and non-list";
    module = { systemd.services.x = { preStart = "true"; serviceConfig.ExecStartPre = "/a"; }; };
  };

  "script beside ExecStart" = {
    said = "conflicting definition values";
    module = { systemd.services.x = { script = "true"; serviceConfig.ExecStart = "/a"; }; };
  };

  "two settings that differ" = {
    said = "conflicting definition values";
    module = {
      services.immich.enable = true;
      systemd.services.immich-server.serviceConfig.Restart = "always";
    };
  };

  "PATH beside path" = {
    said = "PATH' has conflicting definition values";
    module = { systemd.services.x.environment.PATH = "/bin"; };
  };

  "a unit without its ending" = {
    said = "is not of type `string matching the pattern";
    module = { systemd.services.x.after = [ "network" ]; };
  };

  "a set for a setting" = {
    said = "is not of type";
    module = { systemd.paths.x.pathConfig.PathChanged = { }; };
  };

  "an endless oneshot" = {
    said = "cannot have 'Restart=always'";
    module = { systemd.services.x.serviceConfig = { Type = "oneshot"; Restart = "always"; }; };
  };

  "a list in a jail" = {
    said = "is not of type";
    module = { services.fail2ban.jails.x.settings.maxretry = [ 1 ]; };
  };

  "the default jail switched off" = {
    said = "is read-only";
    module = { services.fail2ban = { enable = true; jails.DEFAULT.enabled = false; }; };
  };

  "two ways for bans to grow" = {
    said = "cannot be both specified";
    module = {
      services.fail2ban = { enable = true; bantime-increment = { formula = "1"; multipliers = "1"; }; };
    };
  };

  "options of old" = {
    said = "no longer has any effect";
    module = { services.fail2ban.daemonConfig = ""; };
  };

  "a system user without a group" = {
    said = "users.users.x.group is unset";
    module = { users.users.x.isSystemUser = true; };
  };

  "neither a person nor a system user" = {
    said = "Exactly one of users.users.x.isSystemUser";
    module = { users.users.x.group = "x"; };
  };

  "a shell that is not switched on" = {
    said = "programs.zsh.enable is not true";
    module = { pkgs, ... }: { users.users.me = { isNormalUser = true; shell = pkgs.zsh; }; };
  };

  "everybody locked out" = {
    said = "Neither the root account nor any wheel user";
    module = { users.mutableUsers = false; };
  };

  "an adapter for a file of NixOS" = {
    said = "please provide your own configuration";
    module = { services.caddy = { enable = true; adapter = "nginx"; }; };
  };

  "two kinds of SSL" = {
    said = "mutually exclusive";
    module = { services.nginx = { enable = true; virtualHosts.a = { addSSL = true; onlySSL = true; }; }; };
  };

  "a database without a password" = {
    said = "A secrets file containing at least";
    module = {
      services.immich.enable = true;
      services.immich.database.host = "db";
    };
  };

  "two lists where there is one answer" = {
    said = "is not of type";
    module = { services.redis.servers = 3; };
  };

  "an old package" = {
    said = "has been removed";
    module = { pkgs, ... }: { environment.systemPackages = [ (pkgs.buildGo118Module or pkgs.curl) ]; };
  };

  "a package that is not there" = {
    said = "attribute 'cadyy' missing";
    module = { pkgs, ... }: { environment.systemPackages = [ pkgs.cadyy ]; };
  };

  "a file that is not there" = {
    said = "missing.nix";
    module = { imports = [ ./missing.nix ]; };
  };

  "config beside plain definitions" = {
    said = "has an unsupported attribute `services'";
    module = { config, ... }: {
      config = { };
      services.immich.enable = true;
    };
  };

  "an option declared twice" = {
    said = "is already declared";
    module = { lib, ... }: {
      imports = [ { options.services.immich.host = lib.mkOption { default = 1; }; } ];
    };
  };

  "an argument that is not there" = {
    said = "which does not exist";
    module = { imports = [ ({ inputs, ... }: { networking.hostName = inputs.name; }) ]; };
  };

  "a file without text or source" = {
    said = "environment.etc.\"x\" has neither text nor source";
    module = { environment.etc.x = { }; };
  };

  "a number where a set belongs" = {
    said = "A definition for `services.immich' is not an attribute set";
    module = { services.immich = 3; };
  };

  "a name that is none" = {
    said = "is not of type `string matching the pattern";
    module = { networking.hostName = "my pi"; };
  };

  "an option used, and set by nobody" = {
    said = "has no value defined";
    module = { config, ... }: {
      imports = [ ./module-empty.nix ];
      networking.hostName = config.mine.name;
    };
  };
}
