# Parts of NixOS (and, below, of other people's modules) that homes set and that change nothing in the lab. Whatever is written below
# these names is taken; they are not checked, other than everything else here.
{ config, lib, ... }:
let short = import ../short.nix lib; in
{
  options = short.recordedAll [
    "boot" "console" "containers" "documentation" "fonts" "hardware" "i18n" "location" "power" "powerManagement" "time" "xdg" "zramSwap"
    # agenix, disko, home-manager, sops-nix, vscode-server
    "age" "disko" "home-manager" "sops"
  ] // {
    swapDevices = short.of (lib.types.listOf short.anyTree) [ ];
    fileSystems = short.of (lib.types.attrsOf (short.submodule (
      { device = short.nullOrStr; fsType = short.str "auto"; options = short.of (lib.types.listOf lib.types.str) [ "defaults" ]; neededForBoot = short.bool false; }
      // short.recordedAll [ "autoFormat" "autoResize" "depends" "encrypted" "label" "mountPoint" "noCheck" "overlay" ]
    ))) { };
    programs = short.recordedAll [
      "bash-completion" "command-not-found" "dconf" "direnv" "git" "gnupg" "htop" "mosh" "mtr" "neovim" "nh" "nix-index" "nix-ld" "ssh" "starship" "tmux" "vim"
    ];
    security = short.recordedAll [ "apparmor" "audit" "auditd" "doas" "pam" "pki" "polkit" "rtkit" "sudo-rs" "tpm2" "wrappers" ];
    services = short.recordedAll [
      "adguardhome" "auto-cpufreq" "blocky" "borgbackup" "btrbk" "btrfs" "cloudflared" "cron" "dbus" "ddclient" "dnsmasq" "displayManager" "duplicati" "forgejo"
      "fstrim" "fwupd" "getty" "gitea" "grafana" "hardware" "home-assistant" "homepage-dashboard" "immich-public-proxy" "irqbalance" "jellyfin" "journald"
      "kanidm" "keycloak" "libinput" "logind" "logrotate" "loki" "mosquitto" "murmur" "mysql" "netbird" "netdata" "nextcloud" "nfs" "ntfy-sh" "oauth2-proxy"
      "ollama" "openvpn" "paperless" "pihole-ftl" "pipewire" "plex" "printing" "prometheus" "qemuGuest" "radarr" "resolved" "restic" "rpcbind" "samba"
      "samba-wsdd" "sanoid" "scrutiny" "smartd" "snapper" "sonarr" "sshguard" "syncoid" "syncthing" "tlp" "timesyncd" "traefik" "transmission" "udev" "udisks2"
      "unbound" "uptime-kuma" "vaultwarden" "vscode-server" "wg-easy" "xserver" "zfs" "zigbee2mqtt"
    ];
    virtualisation = short.recordedAll [ "containers" "docker" "libvirtd" "podman" ];
    system = short.recordedAll [ "activationScripts" "autoUpgrade" "extraDependencies" "userActivationScripts" ] // {
      copySystemConfiguration = short.bool false;
      switch.enable = short.bool true;
    };
  };
  config.assertions = [
    {
      assertion = !config.system.copySystemConfiguration || config.nixpkgs.flake.source == null;
      message = "system.copySystemConfiguration is not supported with flakes";
    }
  ];
}
