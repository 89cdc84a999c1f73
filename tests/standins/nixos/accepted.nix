# What NixOS takes: why it is here -> a module that has to build (test_nixos_modules.py).
{
  "a user's own sites on Caddy" = {
    services.caddy = {
      enable = true;
      virtualHosts."a.example" = { serverAliases = [ "b.example" ]; extraConfig = "respond 200"; };
    };
  };

  "Caddy's other options" = { lib, ... }: {
    services.caddy = {
      enable = true;
      email = "me@a.example";
      resume = true;
      globalConfig = "grace_period 10s";
      extraConfig = ":81 { respond 204 }";
      logFormat = lib.mkForce "level INFO";
    };
  };

  "a Caddy configured as JSON" = { services.caddy = { enable = true; settings.apps.http.servers = { }; }; };

  "preStart where the unit has no ExecStartPre" = {
    services.caddy.enable = true;
    systemd.services.caddy.preStart = "true";
  };

  "the proxy of the wiki" = { config, ... }: {
    services.immich.enable = true;
    services.nginx = {
      enable = true;
      recommendedProxySettings = true;
      virtualHosts."p.example" = {
        forceSSL = true;
        sslCertificate = "/c";
        sslCertificateKey = "/k";
        locations."/" = { proxyPass = "http://[::1]:${toString config.services.immich.port}"; proxyWebsockets = true; extraConfig = "client_max_body_size 0;"; };
      };
    };
  };

  "bans that grow" = {
    services.fail2ban = { enable = true; bantime-increment = { enable = true; maxtime = "48h"; }; };
  };

  "a jail as text" = { services.fail2ban.jails.mine = "enabled = true\nfilter = sshd"; };

  "a filter as a set" = {
    services.fail2ban = {
      enable = true;
      jails.mine = { filter.Definition.failregex = "^<HOST>"; settings.backend = "auto"; };
    };
  };

  "accounts with passwords" = { pkgs, ... }: {
    users.mutableUsers = false;
    users.users.me = {
      isNormalUser = true;
      initialPassword = "x";
      extraGroups = [ "wheel" ];
      packages = [ pkgs.htop ];
      openssh.authorizedKeys.keys = [ "ssh-ed25519 A" ];
    };
  };

  "zsh with oh-my-zsh" = { pkgs, ... }: {
    programs.zsh = { enable = true; ohMyZsh = { enable = true; plugins = [ "git" ]; }; };
    users.users.me = { isNormalUser = true; shell = pkgs.zsh; };
  };

  "fish" = { pkgs, ... }: {
    programs.fish.enable = true;
    users.users.me = { isNormalUser = true; shell = pkgs.fish; };
  };

  "ranges of ports, and ports of one interface" = {
    networking.firewall = {
      allowedTCPPortRanges = [ { from = 1; to = 9; } ];
      interfaces.eth0.allowedUDPPorts = [ 53 ];
    };
  };

  "impermanence" = {
    fileSystems."/" = { device = "none"; fsType = "tmpfs"; };
    environment.persistence."/persist".directories = [ "/var/log" { directory = "/x"; mode = "0700"; } ];
  };

  "containers" = {
    virtualisation.podman.enable = true;
    virtualisation.oci-containers = {
      backend = "podman";
      containers.immich = {
        image = "ghcr.io/immich-app/immich-server:v3";
        ports = [ "127.0.0.1:2283:2283" ];
        dependsOn = [ "db" ];
      };
      containers.db.image = "postgres";
    };
  };

  "secrets of sops-nix" = { sops.secrets."immich/env" = { owner = "immich"; }; };

  "Immich's other settings" = { lib, ... }: {
    services.immich.enable = true;
    services.immich = {
      settings.server.externalDomain = "https://p.example";
      settings.ffmpeg.crf = 23;
      environment.IMMICH_LOG_LEVEL = "verbose";
      secretsFile = "/run/s";
      accelerationDevices = null;
      machine-learning = { enable = false; environment.MACHINE_LEARNING_WORKERS = lib.mkForce "2"; };
      database.enableVectors = false;
      redis.enable = true;
      user = "media";
      group = "media";
      mediaLocation = "/srv/photos";
    };
  };

  "a database elsewhere" = {
    services.immich.enable = true;
    services.immich = { database = { enable = false; host = "10.0.0.2"; }; secretsFile = "/s"; };
  };

  "postgres on another drive, started by hand" = { lib, ... }: {
    services.immich.enable = true;
    services.postgresql.dataDir = "/mnt/pg";
    systemd.services.postgresql.wantedBy = lib.mkForce [ ];
    systemd.services.immich-server.wantedBy = lib.mkForce [ ];
  };

  "another postgres" = { pkgs, ... }: {
    services.postgresql = { enable = true; package = pkgs.postgresql_16; settings.max_connections = 9; };
  };

  "a name on the LAN" = {
    services.avahi = { enable = true; nssmdns4 = true; publish = { enable = true; addresses = true; }; };
  };

  "updates by itself" = { system.autoUpgrade = { enable = true; dates = "04:40"; allowReboot = false; }; };

  "Nix's settings" = {
    nix = {
      settings.experimental-features = [ "nix-command" "flakes" ];
      settings.trusted-users = [ "me" ];
      gc = { automatic = true; dates = "weekly"; options = "-d"; };
    };
  };

  "sudo's options" = {
    security.sudo = {
      wheelNeedsPassword = false;
      execWheelOnly = true;
      extraRules = [ { users = [ "me" ]; commands = [ { command = "ALL"; options = [ "NOPASSWD" ]; } ]; } ];
    };
  };

  "sshd's options" = {
    services.openssh = {
      enable = true;
      ports = [ 22 2222 ];
      settings = { PermitRootLogin = "no"; PasswordAuthentication = false; MaxAuthTries = 3; };
    };
  };

  "what a hardware file says" = { lib, modulesPath, ... }: {
    imports = [ (modulesPath + "/installer/scan/not-detected.nix") ];
    boot.loader.grub.enable = false;
    boot.initrd.availableKernelModules = [ "xhci_pci" ];
    nixpkgs.hostPlatform = lib.mkDefault "aarch64-linux";
    swapDevices = [ ];
    hardware.enableRedistributableFirmware = true;
  };

  "place and time" = {
    time.timeZone = "Europe/Rome";
    i18n.defaultLocale = "it_IT.UTF-8";
    console.keyMap = "it";
  };

  "an option of the user's own" = {
    imports = [ ./module-other.nix ];
    mine.photos.enable = true;
  };

  "an option nobody sets and nobody uses" = { imports = [ ./module-empty.nix ]; };

  "a type that is not used" = { services.borgbackup.jobs.x.paths = "/srv"; };

  "a module switched off" = {
    disabledModules = [ "services/web-servers/nginx/default.nix" ];
    imports = [ ./module-nginx.nix ];
    services.nginx.mine = 1;
  };

  "an option by its old name" = { services.openssh.passwordAuthentication = false; };

  "sockets and templates" = {
    systemd.sockets."x@" = { listenStreams = [ "%I" ]; socketConfig.FreeBind = true; };
    systemd.services."x@".serviceConfig.ExecStart = "/bin/true";
  };

  "lists that add up" = { lib, ... }: {
    systemd.services.x.serviceConfig = lib.mkMerge [ { ExecStartPre = [ "/a" ]; } { ExecStartPre = [ "/b" ]; } ];
  };

  "preStart beside a list" = { systemd.services.x = { preStart = "true"; serviceConfig.ExecStartPre = [ "/a" ]; }; };

  "an overlay" = { pkgs, ... }: {
    nixpkgs.overlays = [ (final: prev: { mine = prev.writeText "m" ""; }) ];
    environment.etc.m.source = pkgs.mine;
  };

  "a package made on the spot" = { pkgs, ... }: { environment.systemPackages = [ (pkgs.writeShellScriptBin "hi" "echo hi") ]; };

  "a module that evaluates itself again" = { imports = [ ./module-again.nix ]; };

  "a list of options for Tailscale" = {
    services.tailscale = {
      enable = true;
      useRoutingFeatures = "server";
      extraUpFlags = [ "--ssh" ];
      permitCertUid = "caddy";
    };
  };

  "a masked unit" = { systemd.services.x.enable = false; };

  "a definition of less weight" = { lib, ... }: {
    services.immich.enable = true;
    services.immich.port = lib.mkMerge [ (lib.mkDefault 1) 2283 ];
  };
}
