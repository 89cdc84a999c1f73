# Other sites on one Caddy, one of them a way to Immich, and a jail that has the name of one of ours.
{ ... }:

{
  imports = [ ./hardware-configuration.nix ./services/immich.nix ];

  services.openssh.enable = true;
  services.tailscale.enable = true;
  services.caddy = {
    enable = true;
    email = "me@home.example";
    globalConfig = "grace_period 10s";
    virtualHosts."http://notes.home.example".extraConfig = ''respond "their notes"'';
    # At the home's addresses: Tailscale has the port at its own while the funnel is open.
    virtualHosts."https://git.home.example".extraConfig = ''
      bind 10.213.1.2 127.0.0.1
      tls internal
      respond "their code"
    '';
    virtualHosts."photos.lan:80".extraConfig = "reverse_proxy localhost:2283";
  };
  systemd.services.caddy.preStart = "true";
  services.fail2ban = {
    enable = true;
    bantime-increment.enable = true;
    jails.sshd.settings.enabled = false;
    jails.scan.settings = {
      filter = "mine";
      backend = "polling";
      logpath = "/var/log/mine.log";
      maxretry = 4;
    };
  };
  environment.etc."fail2ban/filter.d/mine.conf".text = ''
    [Definition]
    failregex = ^bad guest from <HOST>$
  '';
  networking.firewall.allowedTCPPorts = [ 80 443 ];

  security.sudo.wheelNeedsPassword = false;
  users.users.admin = { isNormalUser = true; extraGroups = [ "wheel" ]; };
  system.stateVersion = "25.11";
}
