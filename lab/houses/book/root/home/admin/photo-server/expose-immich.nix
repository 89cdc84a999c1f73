# The owner's own file of this name, for the day when it is imported instead of lan-immich.nix.
{ config, ... }:

{
  assertions = [
    {
      assertion = !(config.lanImmich or false);
      message = "Import lan-immich.nix or expose-immich.nix, not both.";
    }
  ];
  services.caddy.enable = true;
  services.caddy.virtualHosts.":8443".extraConfig = "respond 403";
  services.immich.host = "127.0.0.1";
}
