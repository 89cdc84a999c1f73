{ lib, ... }: { options.mine.name = lib.mkOption { type = lib.types.str; }; }
