# Our own fail2ban configuration folder: nothing in /etc/fail2ban is read.
{ lib, pkgs, ... }:

let
  names = import ./names.nix;
  socket = "/run/${names.bans}/socket";
  pidfile = "/run/${names.bans}/pid";

  # Without a network, fail2ban cannot tell whether there is IPv6 or which addresses are its own.
  daemon = pkgs.writeText "fail2ban.conf" ''
    [Definition]
    allowipv6 = yes
    dbfile = ${names.state}/fail2ban/bans.sqlite3
    dbmaxmatches = 0
    dbpurgeage = 1d
    loglevel = INFO
    logtarget = SYSOUT
    pidfile = ${pidfile}
    socket = ${socket}
    syslogsocket = auto

    [Thread]
    stacksize = 0
  '';

  # The settings come last and take precedence: maxretry, findtime, bantime.
  jails = pkgs.writeText "jail.conf" (''
    [INCLUDES]
    after = ${names.state}/settings/bans.conf

    [DEFAULT]
    backend = polling
    ignoreip = 127.0.0.1/8 ::1
    ignoreself = no
    logpath = ${names.offences}
    maxmatches = 0
    usedns = no
  '' + lib.concatMapStrings (jail: ''

    [immich-${jail}]
    enabled = true
    filter = immich-${jail}
    action = immich_ban.py[folder="${names.state}/bans/${jail}"]
  '') names.jails);

  folder = pkgs.runCommand "immich-bans-configuration" { actions = ../fail2ban/action.d; filters = ../fail2ban/filter.d; } ''
    mkdir -p "$out/action.d" "$out/filter.d"
    cp "$actions"/*.py "$out/action.d"
    cp "$filters"/*.conf "$out/filter.d"
    cp ${daemon} "$out/fail2ban.conf"
    cp ${jails} "$out/jail.conf"
  '';
  places = "-c ${folder} -s ${socket} -p ${pidfile}";
in
{
  server = "${pkgs.fail2ban}/bin/fail2ban-server ${places}";

  # fail2ban-client for our server.
  client = pkgs.writeShellApplication {
    name = "fail2ban-client";
    checkPhase = "";
    text = ''
      exec ${pkgs.fail2ban}/bin/fail2ban-client ${places} "$@"
    '';
  };
}
