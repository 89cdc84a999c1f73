{ lib, ... }: {
  imports = [ ./lan-immich.nix ];
  security.sudo.enable = false;
  services.openssh = { enable = true; settings.PermitRootLogin = lib.mkForce "prohibit-password"; };
  services.tailscale.enable = true;
  services.immich.enable = true;
  system.stateVersion = "25.11";
}
