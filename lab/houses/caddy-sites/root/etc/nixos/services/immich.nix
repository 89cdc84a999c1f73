{ ... }:

{
  services.immich = {
    enable = true;
    host = "127.0.0.1";
    settings.server.externalDomain = "https://photos.lan";
  };
}
