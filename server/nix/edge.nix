# The edge: our Caddy on loopback, to which the funnel forwards connections from the internet.
{ config, lib, pkgs, exposedImmich, ... }:

let
  cfg = config.services.immich-exposure;
  names = import ./names.nix;
  scripts = import ./scripts.nix { inherit config pkgs; };

  caddy = lib.getExe cfg.package;

  # The Caddyfile and, next to it, the table that it names; nothing else, so that a changed script does not restart the edge.
  files = builtins.path {
    name = "immich-edge-configuration";
    path = ../.;
    filter = path: type: type == "regular" && lib.elem (baseNameOf path) [ "Caddyfile" "surface.toml" ];
  };
  configuration = "--adapter caddyfile --config ${files}/Caddyfile";

  # The edge runs this before it starts and before it reloads, with the settings that it is about to use.
  check = pkgs.writeShellApplication {
    name = "immich-edge-check";
    runtimeInputs = [ pkgs.coreutils pkgs.gnugrep ];
    # Checked in our own tests instead: a newer checker must not stop a rebuild.
    checkPhase = "";
    text = ''
      # A certificate that Caddy cannot read must fail here: Caddy itself first reports ready and then exits. The adapted
      # Caddyfile is requested at the same time.
      exec 3< <(${caddy} validate ${configuration} 2>&1 && echo accepted)
      adapted=$(${caddy} adapt ${configuration} 2>/dev/null) || adapted=
      said=$(cat <&3)
      if [ "$(tail -n 1 <<<"$said")" != accepted ]; then
        tail -n 3 <<<"$said" >&2
        echo "Caddy refuses its configuration (see above); correct the settings and run pulumi up." >&2
        exit 1
      fi
      # A misplaced option can drop these silently, and visitors could then choose their own address.
      occurrences() { grep -o -e "$1" <<<"$adapted" | wc -l || true; }
      listeners=$(occurrences '"listen":\[')
      for needed in '"listen":\["127\.0\.0\.1:[0-9]*"\]' '"protocols":\["h1","h2"\]' \
        '"listener_wrappers":\[{"fallback_policy":"REQUIRE",[^]]*"wrapper":"proxy_protocol"},{"wrapper":"few_connections"},{"wrapper":"bounded_handshakes"},{"wrapper":"tls"},{"wrapper":"early_handshakes"}\]'; do
        found=$(occurrences "$needed")
        if [ "$found" = 0 ] || [ "$found" != "$listeners" ]; then
          echo "A listener of Caddy lacks $needed, so it does not start; restore the Caddyfile by pulumi up." >&2
          exit 1
        fi
      done
    '';
  };
  # One command, because for each of them systemd makes the unit's sandbox anew. Without --force, a renewed certificate
  # would not be read.
  reload = pkgs.writeShellApplication {
    name = "immich-edge-reload";
    checkPhase = "";
    text = ''
      ${lib.getExe check}
      exec ${caddy} reload ${configuration} --force
    '';
  };
  prepare = scripts.program { name = "immich-exposure-prepare"; file = "state.sh"; };
in
{
  config = lib.mkIf cfg.enable {
    # Nothing reaches Immich past the edge, whatever else the configuration says.
    services.immich.host = lib.mkIf exposedImmich.closed (lib.mkOverride 10 "127.0.0.1");

    # Caddy must understand its file before anything is switched. The effect of the settings shows when it starts.
    system.preSwitchChecks.immich-edge = ''
      if ! said=$(${caddy} adapt ${configuration} 2>&1 >/dev/null); then
        printf '%s\n' "$said" >&2
        exit 1
      fi
    '';

    users.users.${names.edge} = {
      description = "The edge in front of Immich";
      isSystemUser = true;
      group = names.edge;
    };
    users.groups.${names.edge} = { };

    systemd.services.${names.edge} = {
      description = "The edge in front of Immich";
      documentation = [ "https://caddyserver.com/docs/" ];
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      unitConfig.ConditionPathExists = [ names.mark ] ++ map (name: "${names.state}/${name}") [
        "settings/edge.env"
        "domain.env"
        "tls/server.crt"
        "tls/server.key"
        "device-ca.crt"
      ];
      # Each closing of the funnel restarts the edge, and counts as a start: only give up on a Caddy that keeps exiting.
      startLimitIntervalSec = 60;
      startLimitBurst = 10;

      # The Caddyfile's values that are not settings. They contain no secret, because everybody can read a unit.
      environment = {
        IMMICH_EXPOSURE_IMMICH = exposedImmich.upstream;
        IMMICH_EXPOSURE_STATE = names.state;
        IMMICH_EXPOSURE_LOGS = names.logs;
        IMMICH_EXPOSURE_ADMIN = "unix//run/${names.edge}/admin.sock";
        # Go's memory limit; the kernel's connection buffers count towards MemoryMax as well.
        GOMEMLIMIT = "320MiB";
        # Caddy's own files are of no use after a restart.
        XDG_CONFIG_HOME = "/run/${names.edge}";
        XDG_DATA_HOME = "/run/${names.edge}";
      };

      serviceConfig = import ./sandbox-user.nix // {
        Type = "notify";
        User = names.edge;
        Group = names.edge;
        # Each command reads it again, so a reload picks up changes.
        EnvironmentFile = [ "${names.state}/settings/edge.env" "${names.state}/domain.env" ];
        ExecStartPre = [ "+${lib.getExe prepare} prepare" (lib.getExe check) ];
        ExecStart = [ "${caddy} run ${configuration}" ];
        ExecReload = [ (lib.getExe reload) ];
        Restart = "on-failure";
        RestartPreventExitStatus = [ 1 ];
        RestartSec = 5;
        TimeoutStopSec = 5;
        LimitNOFILE = 1048576;
        MemoryMax = "512M";

        LogsDirectory = [ names.edge ];
        LogsDirectoryMode = "0750";
        RuntimeDirectory = [ names.edge ];
        RuntimeDirectoryMode = "0700";
        UMask = "0027";

        # Caddy talks to tailscaled and to Immich.
        IPAddressAllow = [ "localhost" ] ++ lib.optional (!exposedImmich.isLoopback) exposedImmich.address;
        IPAddressDeny = [ "any" ];
        RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
        MemoryDenyWriteExecute = true;
      };
    };
  };
}
