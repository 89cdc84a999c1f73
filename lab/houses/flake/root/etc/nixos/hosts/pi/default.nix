{ ... }:

{
  networking.hostName = "pi";
  services.openssh.enable = true;
  services.tailscale.enable = true;
  services.immich-exposure.enable = true;
  nix.settings.experimental-features = [ "nix-command" "flakes" ];
  security.sudo.wheelNeedsPassword = false;
  users.users.admin = { isNormalUser = true; extraGroups = [ "wheel" ]; };
  system.stateVersion = "26.05";
}
