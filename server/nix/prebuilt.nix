# An edge that was compiled elsewhere (`make edge`), for a server that is too small to do it. It is identified by its hash, so
# write access to the file is not enough to change what runs.
{ lib, pkgs, file, sha256 }:

let
  versions = lib.importJSON ../versions.json;
  found = builtins.hashFile "sha256" file;
  checked =
    if builtins.pathExists file && found != sha256 then
      throw "${toString file} is not the edge that the configuration names (its SHA-256 is ${found}, not ${sha256}); make it anew with make edge."
    # The copy is checked against the hash, because the file may have changed since it was hashed above. And if the store has
    # the copy already, a missing file does not prevent a rebuild.
    else builtins.path { name = "caddy"; path = file; recursive = false; inherit sha256; };
in
pkgs.runCommand "immich-edge-${versions.caddy.pinned}" { edge = checked; } ''
  mkdir -p "$out/bin"
  cp "$edge" "$out/bin/caddy"
  chmod 0555 "$out/bin/caddy"
''
// {
  pname = "immich-edge";
  version = versions.caddy.pinned;
  meta.mainProgram = "caddy";
}
