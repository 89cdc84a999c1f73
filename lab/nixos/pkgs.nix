# Stand-ins for the packages that the lab's configuration and our module name.
#
# A package of programs is a folder of links to what the machine has, holding only the programs that the real package holds: a service
# whose `path` forgets one fails here as it would on NixOS.
#
# facts:  what facts.nix describes
# system: the platform that the configuration is for; the builders are the machine's own whatever it says
# pkgs:   the packages themselves, with the overlays of the configuration
{ lib, facts, system, pkgs }:
let
  # A derivation run by the machine's own shell and tools; there is no sandbox.
  run = name: attrs: script: derivation (attrs // {
    inherit name;
    system = facts.builder;
    builder = "/bin/sh";
    args = [ "-euc" script ];
    PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
  });

  writeText = name: text: run name { inherit text; passAsFile = [ "text" ]; } ''cat "$textPath" >"$out"'';
  writeTextDir = path: text: run (baseNameOf path) { inherit text; passAsFile = [ "text" ]; } ''mkdir -p "$out/${dirOf path}"; cat "$textPath" >"$out/${path}"'';
  writeTextFile = { name, text, executable ? false, destination ? "", ... }:
    run name { inherit text; passAsFile = [ "text" ]; } ''
      mkdir -p "$(dirname "$out${destination}")"
      cat "$textPath" >"$out${destination}"
      ${lib.optionalString executable ''chmod 0555 "$out${destination}"''}
    '';

  writeScript = name: text: run name { inherit text; passAsFile = [ "text" ]; } ''cat "$textPath" >"$out"; chmod 0555 "$out"; bash -n "$out"'';
  writeShellScript = name: text: writeScript name "#!/bin/bash\n${text}";

  runCommand = name: attrs: script: run name attrs ''export TMPDIR=$PWD; ${script}'';

  linked = { name, programs, version ? "0-stand-in", mainProgram ? name, script ? "" }:
    run "${name}-${version}" { programs = lib.concatStringsSep " " programs; } ''
      mkdir -p "$out/bin"
      for program in $programs; do
        for folder in /usr/bin /usr/sbin; do
          if [ -x "$folder/$program" ]; then ln -s "$folder/$program" "$out/bin/$program"; break; fi
        done
      done
      ${script}
    ''
    // { pname = name; inherit version; meta = { inherit mainProgram; }; };

  # A program of the lab's own builds. It lies outside the store, so its hash stands in the name: a new build is a new package.
  prebuilt = { name, version, program ? name, attrs ? { }, script ? "" }:
    let binary = "${facts.programs}/${program}"; in
    run "${name}-${version}-${builtins.substring 0 12 facts.hashes.${program}}" (attrs // { inherit binary; }) ''
      mkdir -p "$out/bin"
      ln -s "$binary" "$out/bin/${name}"
      ${script}
    ''
    // { pname = name; inherit version; meta.mainProgram = name; };

  # As Caddy ships it (caddyserver/dist, init/caddy.service); @out@ is the package.
  caddyUnit = ''
    [Unit]
    Description=Caddy
    Documentation=https://caddyserver.com/docs/
    After=network.target network-online.target
    Requires=network-online.target

    [Service]
    Type=notify
    User=caddy
    Group=caddy
    ExecStart=@out@/bin/caddy run --environ --config /etc/caddy/Caddyfile
    ExecReload=@out@/bin/caddy reload --config /etc/caddy/Caddyfile --force
    TimeoutStopSec=5s
    LimitNOFILE=1048576
    PrivateTmp=true
    ProtectSystem=full
    AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE

    [Install]
    WantedBy=multi-user.target
  '';

  postgresql = version: linked { name = "postgresql"; inherit version; programs = [ "psql" ]; mainProgram = "psql"; };

  # The real one compiles `src`; this one checks what it is given and takes the Caddy that the lab built from the same source.
  buildGoModule =
    { pname, version, src, vendorHash, meta ? { }, env ? { }, ldflags ? [ ], tags ? [ ], subPackages ? [ "." ], doCheck ? true, postInstall ? "" }:
    if !lib.pathExists (src + "/go.mod") then throw "buildGoModule: ${toString src} holds no go.mod."
    else if !lib.hasPrefix "sha256-" vendorHash then throw "buildGoModule: vendorHash of ${pname} is not a sha256 hash."
    else prebuilt { name = meta.mainProgram or pname; program = "caddy"; inherit version; script = postInstall; };

  # `shellcheck` is left to the tests.
  writeShellApplication =
    { name, text, runtimeInputs ? [ ], bashOptions ? [ "errexit" "nounset" "pipefail" ], excludeShellChecks ? [ ], checkPhase ? null, meta ? { } }:
    run name
      {
        passAsFile = [ "text" ];
        text = ''
          #!/bin/bash
          ${lib.concatMapStrings (option: "set -o ${option}\n") bashOptions}
          export PATH="${lib.concatMapStringsSep ":" (input: "${input}/bin") runtimeInputs}:$PATH"
          ${text}
        '';
      }
      ''
        mkdir -p "$out/bin"
        cat "$textPath" >"$out/bin/${name}"
        chmod 0555 "$out/bin/${name}"
        bash -n "$out/bin/${name}"
      ''
    // { meta = { mainProgram = name; } // meta; };

  scriptPackage = package: name: text: run package { inherit text; passAsFile = [ "text" ]; }
    ''mkdir -p "$out/bin"; cat "$textPath" >"$out/bin/${name}"; chmod 0555 "$out/bin/${name}"'' // { meta.mainProgram = name; };
  writeScriptBin = name: scriptPackage name name;
  symlinkJoin = { name, paths, ... }: run name { paths = map toString paths; }
    ''mkdir -p "$out"; for path in $paths; do cp -rsn "$path/." "$out/"; done'';

  # Structured settings: a type, and how it is written.
  formats =
    let
      inherit (lib) types;
      atom = types.nullOr (types.oneOf [ types.bool types.int types.float types.str types.path ]);
      tree = types.either atom (types.either (types.attrsOf tree) (types.listOf tree)) // { description = "JSON value"; };
      sections = types.attrsOf (types.attrsOf (types.either atom (types.listOf atom)));
    in
    {
      json = { }: { type = tree; generate = name: value: writeText name (builtins.toJSON value); };
      yaml = { }: { type = tree; generate = name: value: writeText name (builtins.toJSON value); };
      toml = { }: { type = types.attrsOf tree; generate = name: _: throw "The lab's pkgs.formats.toml writes no file (${name})."; };
      ini = given: { type = sections; generate = name: value: writeText name (lib.generators.toINI given value); };
      keyValue = given: { type = types.attrsOf atom; generate = name: value: writeText name (lib.generators.toKeyValue given value); };
    };

  # Packages that homes name and that do nothing here; the machine's program of that name, where there is one.
  others = lib.genAttrs (lib.concatMap lib.words [
    "age bat bottom btop btrfs-progs cryptsetup deploy-rs dig dnsutils docker docker-compose e2fsprogs ethtool exiftool eza fastfetch fd ffmpeg file fzf git gnupg"
    "gnumake gnutar gptfdisk gzip hdparm htop immich-cli immich-go inetutils iotop iputils jellyfin-ffmpeg just killall libraspberrypi lm_sensors lsof mdadm micro mosh"
    "ncdu neovim nettools nfs-utils nh nixos-rebuild nmap nvd nvme-cli openssl parted pciutils podman podman-compose powertop procps psmisc pv python3 raspberrypi-eeprom rclone redis"
    "restic ripgrep rsync screen shadow smartmontools sops sqlite ssh-to-age strace sudo tcpdump tmux tree unzip usbutils vim wget which wireguard-tools xz yq zip zstd"
  ]) (name: linked { inherit name; programs = [ name ]; });
  shells = lib.genAttrs [ "fish" "nushell" "zsh" ] (name: linked { inherit name; programs = [ name ]; } // { shellPath = "/bin/${name}"; });
in
others // shells // {
  inherit lib writeText writeTextDir writeTextFile writeScript writeScriptBin writeShellScript writeShellApplication runCommand symlinkJoin formats buildGoModule;
  writeShellScriptBin = name: text: writeScriptBin name "#!/bin/bash\n${text}";
  runCommandLocal = runCommand;
  buildGo126Module = buildGoModule;
  # As on nixpkgs, an old name is a trap that `or` does not catch.
  buildGo118Module = throw "buildGo118Module has been removed, as Go 1.18 is end-of-life.";
  callPackage = file: given:
    let f = if lib.isFunction file then file else import file; in
    lib.makeOverridable f (lib.intersectAttrs (lib.functionArgs f) pkgs // given);
  stdenv = {
    hostPlatform = { inherit system; isLinux = true; isAarch64 = lib.hasPrefix "aarch64" system; isx86_64 = lib.hasPrefix "x86_64" system; isDarwin = false; };
    buildPlatform = { inherit system; };
    isLinux = true;
  };
  config = { };
  vimPlugins = { };

  inherit system;
  inherit (facts) builder immichStub;
  go = { pname = "go"; version = "1.26.0"; };

  tailscale = prebuilt { name = "tailscale"; version = facts.tailscaleVersion; };

  # The stock server; here it is the same program as ours.
  caddy = prebuilt {
    name = "caddy";
    version = "2.11.9";
    attrs = { unit = caddyUnit; passAsFile = [ "unit" ]; };
    script = ''
      mkdir -p "$out/lib/systemd/system"
      sed "s|@out@|$out|" "$unitPath" >"$out/lib/systemd/system/caddy.service"
    '';
  } // { withPlugins = _: pkgs.caddy; };
  # The stub says that it is 3.1.0.
  immich = scriptPackage "immich-3.1.0" "server" "#!/bin/sh\nexec ${facts.immichStub} \"$@\"\n" // { pname = "immich"; version = "3.1.0"; };
  nginx = linked { name = "nginx"; programs = [ "nginx" ]; };
  postgresql = postgresql "17.5";
  postgresql_15 = postgresql "15.13";
  postgresql_16 = postgresql "16.9";
  postgresql_17 = postgresql "17.5";
  linuxPackages_latest = { };
  linuxPackages = { };
  linuxKernel.packages = { };
  nixos-rebuild-ng = pkgs.nixos-rebuild;

  bash = linked { name = "bash"; programs = [ "bash" "sh" ]; } // { shellPath = "/bin/bash"; };
  bashInteractive = pkgs.bash;
  coreutils = linked {
    name = "coreutils";
    programs = lib.concatMap lib.words [
      "[ b2sum base32 base64 basename basenc cat chcon chgrp chmod chown chroot cksum comm cp csplit cut date dd df dir dircolors dirname du"
      "echo env expand expr factor false fmt fold groups head hostid id install join link ln logname ls md5sum mkdir mkfifo mknod mktemp mv"
      "nice nl nohup nproc numfmt od paste pathchk pinky pr printenv printf ptx pwd readlink realpath rm rmdir runcon seq sha1sum sha224sum"
      "sha256sum sha384sum sha512sum shred shuf sleep sort split stat stdbuf stty sum sync tac tail tee test timeout touch tr true truncate"
      "tsort tty uname unexpand uniq unlink users vdir wc who whoami yes"
    ];
  };
  curl = linked { name = "curl"; programs = [ "curl" ]; };
  diffutils = linked { name = "diffutils"; programs = [ "cmp" "diff" "diff3" "sdiff" ]; };
  fail2ban = linked { name = "fail2ban"; programs = [ "fail2ban-client" "fail2ban-server" "fail2ban-regex" ]; mainProgram = "fail2ban-client"; };
  findutils = linked { name = "findutils"; programs = [ "find" "xargs" ]; };
  gawk = linked { name = "gawk"; programs = [ "awk" "gawk" ]; };
  getent = linked { name = "getent"; programs = [ "getent" ]; };
  gnugrep = linked { name = "gnugrep"; programs = [ "grep" "egrep" "fgrep" ]; mainProgram = "grep"; };
  gnused = linked { name = "gnused"; programs = [ "sed" ]; mainProgram = "sed"; };
  iproute2 = linked { name = "iproute2"; programs = [ "ip" "ss" "tc" ]; };
  iptables = linked { name = "iptables"; programs = [ "iptables" "ip6tables" ]; };
  jq = linked { name = "jq"; programs = [ "jq" ]; };
  nano = linked { name = "nano"; programs = [ "nano" ]; };
  nix = linked {
    name = "nix";
    version = builtins.nixVersion;
    programs = lib.words "nix nix-build nix-channel nix-collect-garbage nix-copy-closure nix-env nix-hash nix-instantiate nix-shell nix-store";
  };
  nftables = linked { name = "nftables"; programs = [ "nft" ]; };
  systemd = linked {
    name = "systemd";
    version = "252";
    mainProgram = "systemctl";
    programs = lib.words "busctl journalctl loginctl networkctl systemctl systemd-analyze systemd-cat systemd-notify systemd-run systemd-sysusers systemd-tmpfiles";
    script = ''mkdir -p "$out/lib/systemd"; ln -s /lib/systemd/systemd-socket-proxyd "$out/lib/systemd"'';
  };
  util-linux = linked {
    name = "util-linux";
    programs = lib.words "blkid findmnt flock fsfreeze getopt ionice kill logger lsblk mount mountpoint nsenter setpriv setsid taskset umount unshare uuidgen";
  };
}
