{ lib, ... }: { options.services.nginx.mine = lib.mkOption { type = lib.types.int; }; }
