# Immich behind the edge instead of on the LAN. Imported by configuration.nix in place of ./lan-immich.nix.
#
# What decides who gets in lies in plain files beside this one, in ./immich-exposure: the Caddyfile, the fail2ban files,
# the scripts. This module puts them to work. The folder and this file are written by `pulumi up`; do not edit them here.
{ config, lib, options, pkgs, ... }:

let
  files = ./immich-exposure;
  settings = builtins.fromJSON (builtins.readFile (files + "/settings.json"));
  versions = builtins.fromJSON (builtins.readFile (files + "/versions.json"));
  domainFile = files + "/domain";
  domain = lib.optionalString (builtins.pathExists domainFile) (lib.fileContents domainFile);

  state = "/var/lib/immich-exposure";
  accessLog = "/var/log/caddy/immich-access.log";
  loopback = "127.0.0.1";

  # --- Caddy ----------------------------------------------------------------------------------------------------------

  # The modules as `go mod vendor` leaves them; tests/server/test_nix_module.py computes it anew from go.mod and go.sum.
  vendorHash = "sha256-agDetngFF7Bkg4LqjaXm/NhH1JGD6MhV1bdCjtKdV6I=";

  # services.caddy only adds to the unit that the package ships; without one Caddy would not be of Type=notify.
  caddyUnit = pkgs.writeText "caddy.service" ''
    [Unit]
    Description=Caddy, the edge in front of Immich
    Documentation=https://caddyserver.com/docs/
    After=network.target

    [Service]
    Type=notify
    TimeoutStopSec=5s
    LimitNOFILE=1048576
  '';

  # Caddy 2.11.9 needs Go 1.26, which is not every nixpkgs' default.
  caddy = (pkgs.buildGo126Module or pkgs.buildGoModule) {
    pname = "immich-exposure-caddy";
    version = versions.caddy.pinned;
    src = files + "/caddy";
    inherit vendorHash;
    env.CGO_ENABLED = 0;
    ldflags = [ "-s" "-w" ];
    doCheck = false;
    postInstall = ''
      install -D -m 0444 ${caddyUnit} "$out/lib/systemd/system/caddy.service"
    '';
    meta.mainProgram = "caddy";
  };

  caddyfile = files + "/Caddyfile";

  # No secret is among these: the store is readable by everybody.
  caddySettings = {
    DOMAIN = domain;
    PROXY_PORT = settings.proxyPort;
    IMMICH_PORT = settings.immichPort;
    UPLOADS = if settings.uploads then "on" else "off";
    UPLOAD_SIZE = "${toString settings.uploadMegabytes}MB";
    STRANGERS = settings.strangers;
    BAN_PREFIX = settings.bans.ipv6Prefix;
    REQUESTS = settings.rateLimits.requests;
    REQUESTS_WINDOW = "${toString settings.rateLimits.windowSeconds}s";
    PASSWORD_ATTEMPTS = settings.rateLimits.passwordAttempts;
    PASSWORD_WINDOW = "${toString settings.rateLimits.passwordWindowSeconds}s";
    BUNDLES = settings.rateLimits.bundles;
    BUNDLES_WINDOW = "${toString settings.rateLimits.bundleWindowSeconds}s";
    STATE = state;
    LOG = accessLog;
    ADMIN = "unix//run/caddy/admin.sock";
  } // lib.mapAttrs'
    (name: on: lib.nameValuePair "FEATURE_${lib.toUpper name}" (if on then "on" else "off"))
    settings.features;
  caddyEnvironment = pkgs.writeText "immich-exposure.env" (lib.concatStrings
    (lib.mapAttrsToList (name: value: "IMMICH_EXPOSURE_${name}=${toString value}\n") caddySettings));

  # Runs as root before anything is switched, with the files as they will be used. What Caddy writes while it validates
  # goes to a scratch folder: a log made by root would shut the caddy user out.
  checkEdge = pkgs.writeShellApplication {
    name = "immich-exposure-check-edge";
    runtimeInputs = [ caddy pkgs.coreutils pkgs.gnugrep ];
    text = ''
      scratch=$(mktemp -d)
      trap 'rm -rf "$scratch"' EXIT
      set -a
      # shellcheck disable=SC1091
      . ${caddyEnvironment}
      set +a
      export IMMICH_EXPOSURE_LOG="$scratch/access.log"
      export HOME="$scratch" XDG_DATA_HOME="$scratch" XDG_CONFIG_HOME="$scratch"
      if ! caddy validate --adapter caddyfile --config ${caddyfile} >"$scratch/output" 2>&1; then
        tail -n 3 "$scratch/output" >&2
        echo "Caddy refuses its configuration (see above), so the switch is refused; correct it and rebuild." >&2
        exit 1
      fi
      caddy adapt --adapter caddyfile --config ${caddyfile} >"$scratch/adapted" 2>/dev/null
      # A misplaced option can drop these without a word, and visitors could then choose the address they come from.
      occurrences() { grep -o -e "$1" "$scratch/adapted" | wc -l; }
      for needed in '"listen":\["${loopback}:${toString settings.proxyPort}"\]' '"protocols":\["h1","h2"\]' \
        '"listener_wrappers":\[{"fallback_policy":"REQUIRE",[^]]*"wrapper":"proxy_protocol"},{"wrapper":"tls"}\]'; do
        if [ "$(occurrences "$needed")" = 0 ] || [ "$(occurrences "$needed")" != "$(occurrences '"listen":\[')" ]; then
          echo "A listener of Caddy lacks $needed, so the switch is refused; restore the Caddyfile by pulumi up." >&2
          exit 1
        fi
      done
    '';
  };

  # --- Scripts --------------------------------------------------------------------------------------------------------

  # A script is lib.sh and its own text in one, the same as `pulumi up` runs over SSH.
  script = { name, file }: pkgs.writeShellApplication {
    inherit name;
    runtimeInputs = [
      config.services.tailscale.package
      pkgs.coreutils
      pkgs.curl
      pkgs.diffutils
      pkgs.findutils
      pkgs.gawk
      pkgs.gnugrep
      pkgs.gnused
      pkgs.nix
      pkgs.systemd
      pkgs.util-linux
    ];
    # The script sets its own options. It is checked where it is written: a newer checker must not stop a rebuild.
    bashOptions = [ ];
    checkPhase = "";
    text = builtins.readFile (files + "/scripts/lib.sh") + builtins.readFile (files + "/scripts/${file}");
  };

  command = script { name = "immich-exposure"; file = "exposure.sh"; };
  renew = script { name = "immich-exposure-renew"; file = "certificate.sh"; };
  enforce = script { name = "immich-exposure-enforce"; file = "funnel.sh"; };
  expire = script { name = "immich-exposure-expire"; file = "devices.sh"; };

  # Root, but with nothing to write except the exposure's own folder and what all services share below /run.
  rootSandbox = {
    Type = "oneshot";
    ProtectSystem = "strict";
    ReadWritePaths = [ state "/run" ];
    ProtectHome = true;
    PrivateTmp = true;
    PrivateDevices = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectControlGroups = true;
    ProtectClock = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_NETLINK" "AF_UNIX" ];
    RestrictNamespaces = true;
    SystemCallArchitectures = "native";
    NoNewPrivileges = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    LockPersonality = true;
  };

  # --- fail2ban -------------------------------------------------------------------------------------------------------

  # As /etc files: services.fail2ban.filters would make .local files out of attribute sets.
  fail2banFiles = lib.listToAttrs (lib.concatMap
    (folder: map
      (name: lib.nameValuePair "fail2ban/${folder}/${name}" { source = files + "/fail2ban/${folder}/${name}"; })
      (lib.filter (name: lib.hasSuffix ".conf" name || lib.hasSuffix ".py" name)
        (lib.attrNames (builtins.readDir (files + "/fail2ban/${folder}")))))
    [ "action.d" "filter.d" ]);

  # The filter is named in `settings`, because `jails.NAME.filter = "name"` has no effect.
  jail = kind: {
    settings = {
      filter = "immich-${kind}";
      action = ''immich_ban.py[folder="${state}/bans/${kind}"]'';
      logpath = accessLog;
      # The default, systemd, reads the journal.
      backend = "polling";
      usedns = "no";
      maxretry = settings.bans.maxRetry;
      findtime = settings.bans.findTime;
      bantime = settings.bans.banTime;
    };
  };

  # --- Assertions -----------------------------------------------------------------------------------------------------

  tailscaleVersion = config.services.tailscale.package.version;
  accepted = program: version:
    lib.versionAtLeast version versions.${program}.lowest && !(versions.${program}.refused ? ${version});
  # A package without a version is of the owner's own making, and theirs to judge.
  immichVersion = config.services.immich.package.version or versions.immich.lowest;
  immichFaults = config.services.immich.package.meta.knownVulnerabilities or [ ];
  definedBy = name: lib.any (file: baseNameOf (toString file) == name) options.services.immich.enable.files;
in
{
  config = {
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
        assertion = accepted "immich" immichVersion;
        message = "Immich ${immichVersion} has known faults in what visitors see"
          + " (${lib.concatMapStringsSep ", " (reason: reason.id) versions.immich.because}); set"
          + " services.immich.package to version ${versions.immich.lowest} or newer.";
      }
      {
        assertion = !definedBy "lan-immich.nix";
        message = "./lan-immich.nix and ./expose-immich.nix exclude each other; import only one of them in"
          + " configuration.nix.";
      }
      {
        assertion = !lib.elem settings.immichPort config.networking.firewall.allowedTCPPorts;
        message = "Immich's port ${toString settings.immichPort} is open in the firewall, but behind the edge Immich is"
          + " reached through Caddy alone; remove services.immich.openFirewall and the port from"
          + " networking.firewall.allowedTCPPorts.";
      }
      {
        assertion = settings.proxyPort >= 1024 && settings.proxyPort != settings.immichPort;
        message = "Caddy runs without privileges beside Immich; set proxyPort to a free port from 1024 on, not"
          + " ${toString settings.proxyPort}.";
      }
      {
        assertion = domain != "";
        message = "The server's name is not known yet (immich-exposure/domain is missing or empty); run pulumi up,"
          + " which writes it.";
      }
    ];

    # nixpkgs refuses such a package unless the owner has permitted it, which is forgotten sooner than it is undone.
    warnings = lib.optional (immichFaults != [ ]) ("nixpkgs marks Immich ${immichVersion} as insecure"
      + " (${lib.concatStringsSep "; " immichFaults}), and it is open to the internet; upgrade the channel, or run pulumi"
      + " destroy until it is mended.");

    services.immich = {
      enable = true;
      # Whatever else the configuration says: past the edge nothing reaches Immich.
      host = lib.mkForce loopback;
      port = lib.mkForce settings.immichPort;
    };

    services.caddy = {
      enable = true;
      package = caddy;
      configFile = caddyfile;
      adapter = "caddyfile";
      environmentFile = caddyEnvironment;
    };

    systemd.services.caddy.serviceConfig = {
      # A certificate or key that Caddy cannot read must fail the start. Caddy itself reports ready first and exits then.
      ExecStartPre = "${lib.getExe caddy} validate --adapter caddyfile --config /etc/caddy/caddy_config";
      LogsDirectoryMode = "0750";
      RuntimeDirectory = "caddy";
      RuntimeDirectoryMode = "0700";
      UMask = "0027";
      # Caddy talks to tailscaled and to Immich, both on this machine.
      IPAddressAllow = "localhost";
      IPAddressDeny = "any";
      RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
      AmbientCapabilities = "";
      CapabilityBoundingSet = "";
      LockPersonality = true;
      MemoryDenyWriteExecute = true;
      PrivateTmp = true;
      ProtectClock = true;
      ProtectControlGroups = true;
      ProtectHostname = true;
      ProtectKernelLogs = true;
      ProtectKernelModules = true;
      ProtectKernelTunables = true;
      ProtectProc = "invisible";
      ProtectSystem = "strict";
      RestrictNamespaces = true;
      RestrictRealtime = true;
      RestrictSUIDSGID = true;
      SystemCallArchitectures = "native";
      SystemCallErrorNumber = "EPERM";
      # Caddy gives a fresh log the owner of the old one.
      SystemCallFilter = [ "@system-service" "~@privileged" "@chown" ];
    };

    system.preSwitchChecks.immich-exposure = lib.getExe checkEdge;

    services.fail2ban = {
      enable = true;
      jails.immich-auth = jail "auth";
      jails.immich-keys = jail "keys";
      jails.immich-scan = jail "scan";
    };
    environment.etc = fail2banFiles;
    systemd.services.fail2ban = {
      # The module restarts fail2ban for its own files only.
      restartTriggers = lib.mapAttrsToList (_: file: "${file.source}") fail2banFiles;
      # Nothing that another jail of this server could need is taken away: firewalls, sockets, commands.
      serviceConfig = {
        ReadWritePaths = [ "${state}/bans" ];
        LockPersonality = true;
        ProtectClock = true;
        ProtectKernelLogs = true;
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
      };
    };

    # fail2ban does not start without its log, and Caddy must be able to open, but not to write, devices and bans.
    systemd.tmpfiles.rules = [
      "d ${state} 0755 root root -"
      "d ${state}/devices 0755 root root -"
      "d ${state}/bans 0755 root root -"
      "d ${state}/bans/auth 0755 root root -"
      "d ${state}/bans/keys 0755 root root -"
      "d ${state}/bans/scan 0755 root root -"
      "d ${state}/bans/manual 0755 root root -"
      "d ${state}/tls 0750 root caddy -"
      "z ${state}/tls/server.crt 0644 root root -"
      "z ${state}/tls/server.key 0640 root caddy -"
      "z ${state}/device-ca.crt 0644 root root -"
      "d /var/log/caddy 0750 caddy caddy -"
      "f ${accessLog} 0640 caddy caddy -"
    ];

    systemd.services.immich-exposure-certificate = {
      description = "Renew the certificate that the edge shows";
      wants = [ "network-online.target" ];
      after = [ "network-online.target" "tailscaled.service" ];
      serviceConfig = rootSandbox // { ExecStart = "${lib.getExe renew} renew"; };
    };
    systemd.timers.immich-exposure-certificate = {
      description = "Renew the certificate that the edge shows, daily";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = "daily";
        Persistent = true;
        RandomizedDelaySec = "1h";
      };
    };

    systemd.services.immich-exposure-lease = {
      description = "Close the funnel unless a lease allows it";
      after = [ "tailscaled.service" ];
      serviceConfig = rootSandbox // {
        ExecStart = "${lib.getExe enforce} enforce ${toString settings.funnelPort} ${toString settings.proxyPort}";
      };
    };
    systemd.timers.immich-exposure-lease = {
      description = "Close the funnel unless a lease allows it, each minute";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnBootSec = "20s";
        OnUnitActiveSec = "1min";
        AccuracySec = "1s";
      };
    };

    systemd.services.immich-exposure-devices = {
      description = "Shut out certificates of devices that have ended";
      # Only files are looked at, so it needs no network.
      serviceConfig = rootSandbox // {
        ExecStart = "${lib.getExe expire} expire";
        PrivateNetwork = true;
        RestrictAddressFamilies = [ "AF_UNIX" ];
      };
    };
    systemd.timers.immich-exposure-devices = {
      description = "Shut out certificates of devices that have ended, hourly";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = "hourly";
        Persistent = true;
        RandomizedDelaySec = "5min";
      };
    };

    environment.systemPackages = [ command ];
  };
}
