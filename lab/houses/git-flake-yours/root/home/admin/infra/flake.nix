{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = inputs: {
    nixosConfigurations.nas = inputs.nixpkgs.lib.nixosSystem {
      modules = [
        ./machines/nas.nix
        ./immich-exposure
        ({ ... }: {
          services.immich.enable = true;
          services.immich.host = "0.0.0.0";
          services.immich-exposure.enable = true;
        })
      ];
    };
  };
}
