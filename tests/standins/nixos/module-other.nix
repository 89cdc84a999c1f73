{ lib, config, ... }: {
  options.mine.photos.enable = lib.mkEnableOption "photos";
  config = lib.mkIf config.mine.photos.enable { services.immich.enable = true; };
}
