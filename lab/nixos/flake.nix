{
  description = "The lab's stand-in for nixpkgs";

  outputs = { self }:
    let
      lib = import ./lib;
      # What a flake knows of its nixpkgs; on NixOS as well, it then is what NIX_PATH and the registry say.
      source = { nixpkgs.flake.source = self.outPath; };
    in
    {
      lib = lib // {
        nixosSystem = args: import ./nixos/lib/eval-config.nix ({ system = null; } // args // { modules = args.modules ++ [ source ]; });
      };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: import ./. { inherit system; });
      nixosModules.notDetected = ./nixos/modules/installer/scan/not-detected.nix;
    };
}
