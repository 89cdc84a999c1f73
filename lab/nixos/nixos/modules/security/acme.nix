# Certificates are recorded; nothing fetches them.
{ lib, ... }:
let short = import ../short.nix lib; in
{
  options.security.acme = {
    acceptTerms = short.bool false;
    defaults = short.recorded;
    certs = short.of (lib.types.attrsOf (lib.types.submodule ({ name, ... }: {
      freeformType = lib.types.attrsOf short.anyTree;
      options = { directory = short.str "/var/lib/acme/${name}"; domain = short.str name; group = short.str "acme"; };
    }))) { };
  };
}
