# Containers: an image of Immich's server is the lab's stub on the published address, as unit podman-NAME or docker-NAME; every other image
# is a unit that only runs.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  short = import ../short.nix lib;
  cfg = config.virtualisation.oci-containers;

  container = { name, ... }: {
    options = {
      image = mkOption { type = types.str; };
      imageFile = short.nullOr types.package;
      imageStream = short.nullOr types.package;
      serviceName = short.str "${cfg.backend}-${name}";
      login = { username = short.nullOrStr; passwordFile = short.nullOrStr; registry = short.nullOrStr; };
      cmd = short.strings;
      labels = short.environment;
      entrypoint = short.nullOrStr;
      environment = short.environment;
      environmentFiles = short.of (types.listOf types.path) [ ];
      log-driver = short.str "journald";
      ports = short.strings;
      user = short.nullOrStr;
      volumes = short.strings;
      workdir = short.nullOrStr;
      dependsOn = short.strings;
      hostname = short.nullOrStr;
      preRunExtraOptions = short.strings;
      extraOptions = short.strings;
      autoStart = short.bool true;
      autoRemoveOnStop = short.bool true;
      podman = short.nullOr (short.submodule { sdnotify = short.of (types.enum [ "conmon" "healthy" "container" ]) "conmon"; user = short.str "root"; });
      pull = short.of (types.enum [ "always" "missing" "never" "newer" ]) "missing";
      capabilities = short.of (types.lazyAttrsOf (types.nullOr types.bool)) { };
      devices = short.strings;
      privileged = short.bool false;
      networks = short.strings;
    };
  };

  # "IP:HOST:CONTAINER[/tcp]", "[V6]:HOST:CONTAINER", "HOST:CONTAINER" -> --host and --port of the stub
  published = port:
    let
      bare = lib.head (lib.splitString "/" port);
      withAddress = builtins.match "\\[?([^]]*)]?:([0-9]+):[0-9]+" bare;
      without = builtins.match "([0-9]+):[0-9]+" bare;
    in
    if without != null then "--host 0.0.0.0 --port ${lib.head without}"
    else if withAddress != null then "--host ${lib.elemAt withAddress 0} --port ${lib.elemAt withAddress 1}"
    else throw "The lab's containers understand ports as [ADDRESS:]HOST:CONTAINER, not ${port}.";
  where = c:
    if c.ports != [ ] then published (lib.head c.ports)
    else if lib.elem "--network=host" c.extraOptions || lib.elem "host" c.networks then
      "--host ${c.environment.IMMICH_HOST or "0.0.0.0"} --port ${c.environment.IMMICH_PORT or "2283"}"
    else null;
  isImmich = c: lib.hasInfix "immich-server" c.image && where c != null;
  service = name: c: {
    description = "${cfg.backend} container ${name} (the lab's stub)";
    wantedBy = lib.optional c.autoStart "multi-user.target";
    after = map (other: "${cfg.containers.${other}.serviceName}.service") c.dependsOn;
    requires = map (other: "${cfg.containers.${other}.serviceName}.service") c.dependsOn;
    environment = c.environment;
    serviceConfig = {
      ExecStart = if isImmich c then "${pkgs.immichStub} ${where c}" else "${pkgs.coreutils}/bin/sleep infinity";
      Restart = "always";
      EnvironmentFile = c.environmentFiles;
    };
  };
in
{
  imports = [ (lib.mkRenamedOptionModule [ "docker-containers" ] [ "virtualisation" "oci-containers" "containers" ]) ];
  options.virtualisation.oci-containers = {
    backend = short.of (types.enum [ "podman" "docker" ]) (if lib.versionAtLeast config.system.stateVersion "22.05" then "podman" else "docker");
    containers = short.of (types.attrsOf (types.submodule container)) { };
  };
  config.systemd.services = lib.mapAttrs' (name: c: lib.nameValuePair c.serviceName (service name c)) cfg.containers;
}
