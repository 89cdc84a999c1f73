# Imported by every hardware-configuration.nix.
{ lib, ... }: { hardware.enableRedistributableFirmware = lib.mkDefault true; }
