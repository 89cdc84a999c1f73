# Immich in a container, published on the machine's own loopback.
{ ... }:

{
  imports = [ ./hardware-configuration.nix ];

  virtualisation.podman.enable = true;
  virtualisation.oci-containers.backend = "podman";
  virtualisation.oci-containers.containers.immich = {
    image = "ghcr.io/immich-app/immich-server:release";
    ports = [ "127.0.0.1:2283:2283" ];
    volumes = [ "/srv/photos:/data" ];
  };

  services.openssh.enable = true;
  services.tailscale.enable = true;
  security.sudo.wheelNeedsPassword = false;
  users.users.admin = { isNormalUser = true; extraGroups = [ "wheel" ]; };
  system.stateVersion = "25.11";
}
