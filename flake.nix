{
  description = "Expose a home Immich through Tailscale Funnel with client certificates";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      servers = [ "x86_64-linux" "aarch64-linux" ];
      operators = servers ++ [ "x86_64-darwin" "aarch64-darwin" ];
      forEach = systems: make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in
    {
      # The module: services.immich-exposure, for the configuration of a server.
      nixosModules.default = ./server/nix;

      # The edge alone, for whoever builds it on another machine or keeps it in a binary cache.
      packages = forEach servers (pkgs: rec {
        edge = import ./server/nix/package.nix { inherit (pkgs) lib; inherit pkgs; };
        default = edge;
      });

      # For an operator on NixOS or a Mac: `nix develop`, then `pulumi install`.
      devShells = forEach operators (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.gnumake
            pkgs.openssh
            pkgs.pulumi
            pkgs.pulumiPackages.pulumi-python
            pkgs.python3
          ];
          # The wheel of grpcio looks for libstdc++ where NixOS has none.
          LD_LIBRARY_PATH = lib.makeLibraryPath [ pkgs.stdenv.cc.cc.lib ];
        };
      });

      # A virtual machine with the module: `nix flake check`.
      checks = forEach servers (pkgs: {
        exposure = pkgs.testers.runNixOSTest (import ./tests/nixos/exposure.nix { module = self.nixosModules.default; });
      });
    };
}
