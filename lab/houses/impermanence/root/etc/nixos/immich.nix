{ services.immich.enable = true; }
