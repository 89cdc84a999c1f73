{ ... }:

{
  services.immich = {
    enable = true;
    host = "localhost";
    port = 3001;
    machine-learning.enable = false;
  };
}
