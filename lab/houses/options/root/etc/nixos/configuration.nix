{ lib, config, ... }:

{
  imports = [ ./modules ];

  mine.services.photos.enable = true;
  services.openssh = { enable = true; ports = [ 2222 ]; };
  services.tailscale.enable = true;
  security.sudo.wheelNeedsPassword = false;
  users.users.admin = { isNormalUser = true; extraGroups = [ "wheel" ]; };
  system.stateVersion = "25.11";
}
