# Immich for everybody at home, and for nobody else.
{ ... }:

{
  services.immich = {
    host = "0.0.0.0";
    openFirewall = true;
  };
}
