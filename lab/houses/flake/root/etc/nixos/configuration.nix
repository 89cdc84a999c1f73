# From before the flake; nothing reads it any more.
{ ... }:

{
  imports = [ ./lan-immich.nix ];
  networking.hostName = "old-pi";
}
