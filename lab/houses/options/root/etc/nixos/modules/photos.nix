{ lib, config, ... }:

{
  options.mine.services.photos.enable = lib.mkEnableOption "photos";

  config = lib.mkIf config.mine.services.photos.enable {
    services.immich = {
      enable = true;
      port = 2284;
      host = "0.0.0.0";
      group = "media";
    };
    users.groups.media = { };
    networking.firewall.allowedTCPPortRanges = [ { from = 2280; to = 2290; } ];
  };
}
