# Requirements for exposing Immich.
{ config, lib, exposedImmich, ... }:

let
  cfg = config.services.immich-exposure;
  versions = lib.importJSON ../versions.json;

  tailscaleVersion = config.services.tailscale.package.version;
  accepted = program: version:
    lib.versionAtLeast version versions.${program}.lowest && !(versions.${program}.refused ? ${version});

  # A package without a version is the owner's own, and the owner's responsibility.
  package = config.services.immich.package;
  immichVersion = package.version or versions.immich.lowest;
  immichFaults = package.meta.knownVulnerabilities or [ ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = config.services.tailscale.enable;
        message = "The exposure of Immich needs Tailscale on this server; set services.tailscale.enable = true.";
      }
      {
        assertion = accepted "tailscale" tailscaleVersion;
        message = "Tailscale ${tailscaleVersion} rejects funnel connections with a PROXY header; set"
          + " services.tailscale.package to version ${versions.tailscale.lowest} or newer, other than"
          + " ${lib.concatStringsSep " and " (lib.attrNames versions.tailscale.refused)}.";
      }
      {
        assertion = exposedImmich.isAddress;
        message = "The edge must know Immich's IP address, and \"${exposedImmich.address}\" is not one; set "
          + (if !cfg.immich.managed then "services.immich-exposure.immich.address"
             else if exposedImmich.listensOn != config.services.immich.host then "IMMICH_HOST in the environment of immich-server"
             else "services.immich.host")
          + " to one like 127.0.0.1.";
      }
    ] ++ lib.optionals cfg.immich.managed [
      {
        assertion = config.services.immich.enable;
        message = "There is no services.immich in this configuration; for an Immich that runs otherwise, in a container for"
          + " example, set services.immich-exposure.immich.managed = false and its address and port.";
      }
      {
        assertion = accepted "immich" immichVersion;
        message = "Immich ${immichVersion} has known faults in what visitors see"
          + " (${lib.concatMapStringsSep ", " (reason: reason.id) versions.immich.advisories}); set"
          + " services.immich.package to version ${versions.immich.lowest} or newer.";
      }
      {
        assertion = exposedImmich.closed -> exposedImmich.listensOn == "127.0.0.1";
        message = "IMMICH_HOST = \"${exposedImmich.listensOn}\" in the environment of immich-server keeps Immich open past the edge; set"
          + " services.immich.host instead, or services.immich-exposure.lan = \"keep\".";
      }
    ];

    # nixpkgs refuses such a package unless the owner has permitted it, and owners forget to undo that.
    warnings = lib.optional (cfg.immich.managed && immichFaults != [ ]) ("nixpkgs marks Immich ${immichVersion} as insecure"
      + " (${lib.concatStringsSep "; " immichFaults}), and it is open to the internet; upgrade the channel, or run pulumi"
      + " destroy until it is mended.");
  };
}
