# Homes in the likeness of real ones, in few words. Each has an immich-server (test_nixos_modules.py).
{
  "the book's: a drive opened by hand, zsh, an option of its own" = { config, lib, pkgs, ... }: {
    services.immich.enable = true;
    imports = [ ({ lib, ... }: { options.lanImmich = lib.mkOption { type = lib.types.bool; default = true; }; config.services.immich.host = "0.0.0.0"; }) ];
    services.immich = { mediaLocation = "/mnt/d/media"; secretsFile = "/mnt/d/env"; };
    services.postgresql.dataDir = "/mnt/d/pg";
    systemd.services.immich-server.wantedBy = lib.mkForce [ ];
    networking.firewall = { allowedTCPPorts = [ 2283 ]; trustedInterfaces = [ "tailscale0" ]; };
    users.users.admin = { isNormalUser = true; shell = pkgs.zsh; initialPassword = "x"; };
    programs.zsh.enable = true;
    users.users.immich.extraGroups = [ "users" ];
  };

  "Immich behind an option, another port, a group" = { config, lib, ... }: {
    imports = [ ({ lib, config, ... }: { options.my.pics = lib.mkEnableOption "p"; config = lib.mkIf config.my.pics { services.immich = { enable = true; port = 2290; group = "media"; }; users.groups.media = { }; }; }) ];
    my.pics = true;
  };

  "Caddy and fail2ban beside Immich" = {
    services.immich.enable = true;
    services.immich.host = "127.0.0.1";
    services.caddy = { enable = true; virtualHosts."pics.lan:80".extraConfig = "reverse_proxy localhost:2283"; };
    services.fail2ban = {
      enable = true;
      jails.web.settings = { filter = "sshd"; backend = "polling"; logpath = "/var/log/x"; };
    };
  };
}
