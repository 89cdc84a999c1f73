{ pkgs, ... }:

{
  imports = [
    # ./lan-immich.nix
    ./expose-immich.nix
  ];

  networking.hostName = "immich";
  services.immich = {
    enable = true;
    port = 2283;
  };
  services.openssh.enable = true;
  services.tailscale.enable = true;

  security.sudo.wheelNeedsPassword = false;
  users.users.admin = { isNormalUser = true; extraGroups = [ "wheel" ]; };
  environment.systemPackages = [ pkgs.curl ];
  system.stateVersion = "26.05";
}
