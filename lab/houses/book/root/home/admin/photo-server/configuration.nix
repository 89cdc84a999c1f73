# Linked from /etc/nixos; the modules lie beside this file only. Immich and PostgreSQL wait for a person who opens the drive.
{ config, lib, pkgs, ... }:

{
  imports = [
    ./zsh.nix
    ./lan-immich.nix
    # ./expose-immich.nix
  ];

  nix.settings.experimental-features = "nix-command";
  networking.hostName = "immich";
  networking.firewall.enable = true;
  services.openssh.enable = true;
  services.tailscale.enable = true;
  services.avahi = {
    enable = true;
    nssmdns4 = true;
    publish = { enable = true; addresses = true; };
  };

  services.immich = {
    enable = true;
    port = 2283;
    mediaLocation = "/mnt/drive/media";
    secretsFile = "/mnt/drive/secrets/immich";
  };
  services.postgresql.dataDir = "/mnt/drive/postgres";
  systemd.services.postgresql.wantedBy = lib.mkForce [ ];
  systemd.services.immich-server.wantedBy = lib.mkForce [ ];

  users.mutableUsers = true;
  users.users.admin = {
    isNormalUser = true;
    initialPassword = "change-me";
    extraGroups = [ "wheel" "networkmanager" ];
  };
  users.users.immich.extraGroups = [ "users" ];

  system.stateVersion = "26.05";
}
