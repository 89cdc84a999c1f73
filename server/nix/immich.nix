# Where Immich listens, for the edge and for the home network.
{ config, lib, extendModules, ... }:

let
  cfg = config.services.immich-exposure;
  immich = config.services.immich;

  # If a configuration overrides what Immich's module sets, the override counts, whatever the options say.
  environment = config.systemd.services.immich-server.environment or { };

  # An address as written in front of a port.
  bracketed = address: if lib.hasInfix ":" address then "[${address}]" else address;

  # The address to reach what listens on a host. Node takes the first address of localhost, which is ::1 if there is IPv6.
  reached = host:
    if lib.elem host [ "" "0.0.0.0" "::" ] then "127.0.0.1"
    else if host == "localhost" then (if config.networking.enableIPv6 then "::1" else "127.0.0.1")
    else host;

  # The same configuration without this module; only one of its values is evaluated.
  without = extendModules { modules = [ { services.immich-exposure.enable = lib.mkOverride 0 false; } ]; };
in
rec {
  # What Immich listens on while it is exposed, as written in its own configuration.
  listensOn = environment.IMMICH_HOST or immich.host;

  # Whether Immich is taken off the home network.
  closed = cfg.immich.managed && cfg.lan == "close";

  address =
    if !cfg.immich.managed then cfg.immich.address
    else if closed then "127.0.0.1"
    else reached listensOn;
  port =
    if !cfg.immich.managed then cfg.immich.port
    else if environment ? IMMICH_PORT then lib.toInt environment.IMMICH_PORT
    else immich.port;
  upstream = "${bracketed address}:${toString port}";

  isAddress = builtins.match "[0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]*" address != null;
  isLoopback = lib.hasPrefix "127." address || address == "::1";

  # What Immich listened on before; null if that has not changed.
  home =
    let host = without.config.services.immich.host; in
    if !closed then null
    else if host == "" then "0.0.0.0"
    else if host == "localhost" && !config.networking.enableIPv6 then "127.0.0.1"
    else host;
}
