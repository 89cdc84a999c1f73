# Every file of this folder is a module.
{ ... }:

{
  imports = map (name: ./. + "/${name}") (
    builtins.filter (name: name != "default.nix") (builtins.attrNames (builtins.readDir ./.))
  );
}
