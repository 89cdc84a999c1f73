{ config, lib, pkgs, ... }:

{
  imports =
    [
      ./hardware-configuration.nix
    ]
    ++ lib.optional (builtins.pathExists ./immich.nix) ./immich.nix;

  boot.loader = {
    grub.enable = false;
    generic-extlinux-compatible.enable = true;
  };
  services.openssh.enable = true;
  services.tailscale.enable = true;
  security.sudo.wheelNeedsPassword = false;
  users.users.admin = { isNormalUser = true; extraGroups = [ "wheel" ]; };
  system.stateVersion = "25.11";
}
