# An edge that was compiled elsewhere (`make edge`), for a server that is too small for it. It is taken by its hash alone:
# whoever can write the file cannot change what runs.
{ lib, pkgs, file, sha256 }:

let
  versions = lib.importJSON ../versions.json;
  found = builtins.hashFile "sha256" file;
  checked =
    # The hash goes with the copy: what is hashed above may be another file by the time it is copied.
    if found == sha256 then builtins.path { name = "caddy"; path = file; recursive = false; inherit sha256; }
    else throw "${toString file} is not the edge that the configuration names (its SHA-256 is ${found}, not ${sha256}); make it anew with make edge.";
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
