# An edge that was compiled elsewhere (`make edge`), for a server that is too small for it. It is taken by its hash alone:
# whoever can write the file cannot change what runs.
{ lib, pkgs, file, sha256 }:

let
  versions = lib.importJSON ../versions.json;
  found = builtins.hashFile "sha256" file;
  checked =
    if builtins.pathExists file && found != sha256 then
      throw "${toString file} is not the edge that the configuration names (its SHA-256 is ${found}, not ${sha256}); make it anew with make edge."
    # The hash goes with the copy: what was hashed above may be another file by now. And where the store has the copy already,
    # a file that is gone does not keep anybody from rebuilding.
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
