# The server's own configuration, as a person with a Raspberry Pi might have it.
{ config, pkgs, ... }:

{
  imports = [
    ./lan-immich.nix
    # ./expose-immich.nix
  ];

  networking.hostName = "immich";
  time.timeZone = "UTC";

  services.immich = {
    enable = true;
    port = 2283;
  };
  services.openssh = {
    enable = true;
    settings.PasswordAuthentication = false;
  };
  services.tailscale.enable = true;

  users.users.admin = {
    isNormalUser = true;
    extraGroups = [ "wheel" ];
  };

  environment.systemPackages = [ pkgs.curl ];

  system.stateVersion = "26.05";
}
