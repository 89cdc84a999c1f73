# The root is wiped at each boot; only what is named survives, and /var/lib/immich-exposure is not.
{ ... }:

{
  imports = [ ./immich.nix ];

  fileSystems."/" = { device = "none"; fsType = "tmpfs"; options = [ "size=2G" "mode=755" ]; };
  environment.persistence."/persist" = {
    hideMounts = true;
    directories = [ "/etc/nixos" "/var/lib/immich" "/var/lib/nixos" "/var/lib/systemd" "/var/lib/tailscale" "/var/log" ];
    files = [ "/etc/machine-id" ];
  };
  services.openssh.enable = true;
  services.tailscale.enable = true;
  users.mutableUsers = false;
  security.sudo.wheelNeedsPassword = false;
  users.users.admin = {
    isNormalUser = true;
    extraGroups = [ "wheel" ];
    openssh.authorizedKeys.keyFiles = [ ./admin.pub ];
  };
  system.stateVersion = "25.11";
}
