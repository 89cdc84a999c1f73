# The wiki's recipe: nginx in front of Immich at [::1].
{ config, ... }:

{
  imports = [ ./hardware-configuration.nix ];

  services.immich = {
    enable = true;
    openFirewall = true;
    accelerationDevices = null;
  };
  services.nginx = {
    enable = true;
    recommendedProxySettings = true;
    virtualHosts."photos.home.example".locations."/" = {
      proxyPass = "http://[::1]:${toString config.services.immich.port}";
      proxyWebsockets = true;
    };
  };
  services.openssh.enable = true;
  services.tailscale = {
    enable = true;
    useRoutingFeatures = "server";
    permitCertUid = "caddy";
  };
  networking.firewall.allowedTCPPorts = [ 80 443 2283 ];

  security.sudo.wheelNeedsPassword = false;
  users.users.admin = { isNormalUser = true; extraGroups = [ "wheel" ]; };
  system.stateVersion = "25.11";
}
