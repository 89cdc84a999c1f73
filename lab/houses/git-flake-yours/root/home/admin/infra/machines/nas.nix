{ ... }:

{
  nixpkgs.hostPlatform = "aarch64-linux";
  networking.hostName = "nas";
  services.openssh.enable = true;
  services.tailscale.enable = true;
  networking.firewall.allowedTCPPorts = [ 2283 ];
  nix.settings.experimental-features = [ "nix-command" "flakes" ];
  security.sudo.wheelNeedsPassword = false;
  users.users.admin = { isNormalUser = true; extraGroups = [ "wheel" ]; };
  system.stateVersion = "26.05";
}
