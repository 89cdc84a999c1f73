# The edge: Caddy with our own modules, from ../caddy. Can be called with callPackage.
{ lib, pkgs }:

let
  versions = lib.importJSON ../versions.json;

  # Caddy needs a newer Go than the default one of some nixpkgs. Only the version is evaluated: nixpkgs keeps the names of
  # removed packages as errors, which `or` does not catch.
  wanted = versions.go.lowest;
  name = "buildGo${lib.concatStrings (lib.take 2 (lib.splitVersion wanted))}Module";
  buildGoModule =
    if lib.versionAtLeast pkgs.go.version wanted then pkgs.buildGoModule
    else pkgs.${name} or (throw "The edge needs Go ${wanted} or newer, and this nixpkgs has ${pkgs.go.version}; upgrade the channel.");

  # The program's sources, so that a changed test does not rebuild the program.
  isSource = path: lib.any (suffix: lib.hasSuffix suffix path) [ ".go" "/go.mod" "/go.sum" ]
    && !lib.hasSuffix "_test.go" path;
in
buildGoModule {
  pname = "immich-edge";
  version = versions.caddy.pinned;
  src = builtins.path {
    name = "immich-edge-source";
    path = ../caddy;
    filter = path: type: type == "regular" && isSource path;
  };
  # The hash of the modules after `go mod vendor`; a test recomputes it from go.mod and go.sum.
  vendorHash = "sha256-SudgHv7e9VoUhVI7nOk05YKXjnxrvfnPBYp1EQApDbU=";
  env.CGO_ENABLED = 0;
  ldflags = [ "-s" "-w" ];
  doCheck = false;
  meta = {
    description = "The edge in front of Immich: Caddy with rate limits, devices and bans";
    mainProgram = "caddy";
  };
}
