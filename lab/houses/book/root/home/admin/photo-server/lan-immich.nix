# For home. Has an option of its own, so that the other module can see it.
{ lib, ... }:

{
  options.lanImmich = lib.mkOption {
    type = lib.types.bool;
    default = true;
  };

  config = {
    services.immich.host = "0.0.0.0";
    networking.firewall.allowedTCPPorts = [ 2283 ];
    networking.firewall.trustedInterfaces = [ "tailscale0" ];
  };
}
