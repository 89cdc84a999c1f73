# What the configuration would be with one thing changed, asked from within.
{ lib, extendModules, config, ... }: {
  options.again = lib.mkOption { type = lib.types.bool; default = false; };
  config.assertions = [ {
    assertion = config.again || (extendModules { modules = [ { again = true; } ]; }).config.again;
    message = "It does not see itself changed.";
  } ];
}
