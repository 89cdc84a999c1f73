{ pkgs, ... }:

{
  imports = [ ./hardware-configuration.nix ];

  services.openssh.enable = true;
  services.tailscale.enable = true;
  services.immich.enable = true;

  security.sudo.wheelNeedsPassword = false;
  programs.fish.enable = true;
  users.users.me = {
    isNormalUser = true;
    extraGroups = [ "wheel" ];
    shell = pkgs.fish;
  };

  system.stateVersion = "25.11";
}
