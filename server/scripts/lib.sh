# shellcheck shell=sh
# What the scripts of this folder share. A script never sources this file: who runs one sends
#
#     lib.sh + payload() (only where files are sent) + SCRIPT.sh
#
# as one text to `sh -s -- VERB ARGUMENTS`, as root. So everything that two scripts need stands here: talking and
# failing, the lock, files, JSON, the exposure's own funnel, and the imports of configuration.nix.
#
# POSIX sh (dash and bash). Standard output is for the result alone: one JSON object on one line, or nothing. Progress and
# errors go to standard error. Every child gets </dev/null, because this very text is on standard input.
#
# IMMICH_EXPOSURE_ROOT and IMMICH_EXPOSURE_STATE move the files, for the tests. sudo and systemd pass neither on.

set -eu
umask 022
export LC_ALL=C
PATH=${PATH:+$PATH:}/run/wrappers/bin:/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

ROOT=${IMMICH_EXPOSURE_ROOT:-}
STATE=${IMMICH_EXPOSURE_STATE:-$ROOT/var/lib/immich-exposure}
LEASE=$STATE/lease
FUNNEL_RECORD=$STATE/funnel
LOCK=$ROOT/run/lock/immich-exposure.lock
# The jails of fail2ban, each with a folder of bans; what is banned by hand lies in "manual".
JAILS="auth keys scan"

# ---- Talking and failing

say() { printf '%s\n' "$*" >&2 || :; }

die() {
  say "error: $*"
  exit 1
}

# WORK is a private folder that goes with the script. A script that must take something back when it fails names a
# function in UNDO. /run is in memory: a funnel must be shut on a full disk as well.
UNDO=:
WORK=$(mktemp -d "$ROOT/run/immich-exposure.XXXXXX" 2>/dev/null) || WORK=$(mktemp -d)

leave() {
  leave_status=$?
  trap - EXIT
  set +e
  [ "$leave_status" = 0 ] || ("$UNDO")
  rm -rf "$WORK"
  exit "$leave_status"
}
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
# A lost connection must not stop a script half-way: it goes on, talking to nobody, and finishes or undoes its work.
trap : PIPE

need_root() {
  [ "$(id -u)" = 0 ] || die "This must run as root; use sudo."
}

# Root's alone: whoever can open the file could hold the lock, and keep a lost device from being withdrawn.
open_lock() {
  mkdir -p "${LOCK%/*}"
  umask 077
  exec 9>"$LOCK"
  umask 022
}

# Two runs never change the server at the same time: `lock` waits five minutes for the other one.
lock() {
  open_lock
  flock -w 300 9 ||
    die "Another run is still changing this server and holds $LOCK; wait until it has ended and run this again."
}

# `number NAME VALUE LOW HIGH`: arguments are checked before they reach any command.
number() {
  case $2 in
    '' | *[!0-9]* | ???????????*) die "$1 must be a whole number, not \"$2\"; correct it and run this again." ;;
  esac
  { [ "$2" -ge "$3" ] && [ "$2" -le "$4" ]; } ||
    die "$1 must lie between $3 and $4, not be $2; correct it and run this again."
}

port() { number "The $1" "$2" 1 65535; }

now() { date +%s; }

# `wait_for SECONDS COMMAND...`: until the command succeeds, twice a second.
wait_for() {
  wait_end=$(($(now) + $1))
  shift
  until "$@"; do
    [ "$(now)" -lt "$wait_end" ] || return 1
    sleep 0.5
  done
}

active() { systemctl is-active --quiet "$1" </dev/null; }

# ---- Files

# `write_file MODE PATH` takes the content from standard input and puts it in place whole or not at all. CHANGED tells
# whether it differs from what was there.
write_file() {
  write_temp=$(mktemp "${2%/*}/.immich-exposure.XXXXXX") ||
    die "Nothing can be written to ${2%/*}; make room on its disk and run this again."
  if ! cat >"$write_temp" || ! chmod "$1" "$write_temp"; then
    rm -f "$write_temp"
    die "$2 could not be written; make room on its disk and run this again."
  fi
  # shellcheck disable=SC2034
  if cmp -s "$write_temp" "$2"; then CHANGED=no; else CHANGED=yes; fi
  mv -f "$write_temp" "$2"
}

# The folders of the exposure. The key's folder opens for Caddy only once its group exists (after the first rebuild).
make_state() {
  install -d -m 0755 "$STATE" "$STATE/devices" "$STATE/bans"
  for make_jail in $JAILS manual; do install -d -m 0755 "$STATE/bans/$make_jail"; done
  if caddy_group; then
    install -d -m 0750 "$STATE/tls"
    chown root:caddy "$STATE/tls"
  else
    install -d -m 0700 "$STATE/tls"
  fi
}

caddy_group() { getent group caddy >/dev/null </dev/null; }

reload_caddy() {
  active caddy || return 0
  # On NixOS this runs `caddy reload --force`. A configuration that cannot be loaded fails here and the old one stays.
  systemctl reload caddy </dev/null ||
    die "Caddy refused to reload and keeps what it had; see why with \"journalctl -u caddy\" and run this again."
}

# ---- JSON

# NixOS has no jq; its own evaluator reads JSON. `json_read FILE FUNCTION [FUNCTION_ARGUMENT_FILE]` applies the Nix
# function to the decoded file (and the second file) and prints the string, number or boolean it gives. Data stay data:
# nothing of them is evaluated, and an answer with a quote, backslash or control character is refused.
json_read() {
  json_text=$(nix-instantiate --store dummy:// --option restrict-eval false --eval --strict --json --argstr first "$1" \
    --argstr second "${3:-}" -E "{ first, second }:
      let read = file: if file == \"\" then null else builtins.fromJSON (builtins.readFile file);
      in ($2) (read first) (read second)" 2>"$WORK/nix.log" </dev/null) ||
    die "The JSON answer in ${1##*/} could not be read ($(tail -n 1 "$WORK/nix.log")); check that nix-instantiate works."
  json_text=${json_text#\"}
  json_text=${json_text%\"}
  case $json_text in
    *[\\\"]*) die "The JSON answer in ${1##*/} holds characters that do not belong there; look at it by hand." ;;
  esac
  printf '%s' "$json_text"
}

# Standard input as a JSON string, quotes included.
json_quote() {
  tr -d '\000-\010\013-\037\177' | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/	/\\t/g' |
    awk 'BEGIN { printf "\"" } { printf "%s%s", (NR > 1 ? "\\n" : ""), $0 } END { printf "\"" }'
}

json_string() { printf '%s\n' "$1" | json_quote; }

# ---- Tailscale

# Read what Tailscale says of this node: DOMAIN, TAILSCALE_STATE (Running, Stopped, NeedsLogin, ...), HTTPS_GRANTED,
# FUNNEL_GRANTED and, for the funnel port $1, PORT_GRANTED (true or false each). Words that are missing read "-".
read_tailscale() {
  timeout 20 tailscale status --json --peers=false >"$WORK/status.json" 2>"$WORK/tailscale.log" </dev/null ||
    die "Tailscale does not answer ($(tail -n 1 "$WORK/tailscale.log")); start it with \"systemctl start tailscaled\"."
  # The ports stand in the capability's name: .../cap/funnel-ports?ports=443,8080-8090
  # shellcheck disable=SC2016
  tailscale_words=$(json_read "$WORK/status.json" 'j: _: let
      word = v: if builtins.isString v && builtins.match "[A-Za-z0-9.-]+" v != null then v else "-";
      bool = b: if b then "true" else "false";
      set = v: if builtins.isAttrs v then v else { };
      caps = set (j.Self.CapMap or null);
      domains = if builtins.isList (j.CertDomains or null) then j.CertDomains else [ ];
      range = r: let m = builtins.match "([0-9]+)(-([0-9]+))?" r; low = builtins.fromJSON (builtins.elemAt m 0);
        high = if builtins.elemAt m 2 == null then low else builtins.fromJSON (builtins.elemAt m 2);
        in m != null && low <= '"$1"' && '"$1"' <= high;
      grants = name: let m = builtins.match ".*/cap/funnel-ports[?]ports=(.*)" name;
        in m != null && builtins.any (r: builtins.isString r && range r) (builtins.split "," (builtins.head m));
      in builtins.concatStringsSep " " [
        (word (j.BackendState or null))
        (word (if domains == [ ] then null else builtins.head domains))
        (bool (caps ? https)) (bool (caps ? funnel)) (bool (builtins.any grants (builtins.attrNames caps)))
      ]')
  # shellcheck disable=SC2086
  set -- $tailscale_words
  # shellcheck disable=SC2034
  TAILSCALE_STATE=$1 DOMAIN=$2 HTTPS_GRANTED=$3 FUNNEL_GRANTED=$4 PORT_GRANTED=$5
}

# `need_tailscale FUNNEL_PORT`: connected, and with HTTPS certificates for its name.
need_tailscale() {
  read_tailscale "$1"
  [ "$TAILSCALE_STATE" = Running ] ||
    die "Tailscale is not connected on this server (state $TAILSCALE_STATE); run \"sudo tailscale up\" there and log in."
  { [ "$HTTPS_GRANTED" = true ] && [ "$DOMAIN" != - ]; } ||
    die "HTTPS certificates are not enabled for this tailnet; enable MagicDNS and HTTPS Certificates at" \
      "https://login.tailscale.com/admin/dns and run this again."
}

# ---- The funnel of the exposure, and nobody else's

# Whose ports to look at when no argument says it: what `open` noted down, else the defaults.
recorded_ports() {
  if [ -s "$FUNNEL_RECORD" ]; then cat "$FUNNEL_RECORD"; else echo 443 8443; fi
}

# `read_funnel FUNNEL_PORT PROXY_PORT` sets FUNNEL to
#   open     raw TCP to the proxy with PROXY protocol 1, allowed from the internet: as wanted
#   altered  ours, but not as wanted (or only its flag is left)
#   foreign  something of another tool stands on this port
#   shut     nothing stands on this port
# and FUNNEL_SHARED to yes when tailscaled serves anything else on this node.
# What is asked is the configuration: the command's exit status and its text prove nothing (it can exit 0 undone).
read_funnel() {
  read_tailscale "$1"
  timeout 20 tailscale funnel status --json >"$WORK/funnel.json" 2>"$WORK/tailscale.log" </dev/null ||
    die "Tailscale does not tell its funnel's state ($(tail -n 1 "$WORK/tailscale.log")); run \"tailscale funnel status\"."
  # shellcheck disable=SC2016
  funnel_words=$(json_read "$WORK/funnel.json" 'config: status: let
      port = "'"$1"'";
      targets = [ "localhost:'"$2"'" "127.0.0.1:'"$2"'" ];
      set = v: if builtins.isAttrs v then v else { };
      part = name: c: set ((set c).${name} or null);
      names = builtins.attrNames;
      onPort = name: builtins.match ".*:${port}" name != null;
      domains = if builtins.isList (status.CertDomains or null) then status.CertDomains else [ ];
      flag = if domains == [ ] then null else "${builtins.head domains}:${port}";
      entry = set ((part "TCP" config).${port} or null);
      ours = builtins.elem (entry.TCPForward or "") targets;
      flags = names (part "AllowFunnel" config);
      flagged = if flag == null then builtins.any onPort flags else (part "AllowFunnel" config).${flag} or false == true;
      foreground = builtins.attrValues (part "Foreground" config);
      serves = c: part "TCP" c ? ${port} || builtins.any onPort (names (part "Web" c));
      foreign = (part "TCP" config ? ${port} && !ours) || builtins.any onPort (names (part "Web" config))
        || builtins.any serves foreground;
      wanted = (entry.ProxyProtocol or 0) == 1 && (entry.TerminateTLS or "") == "" && flag != null && flagged;
      shared = builtins.any (p: p != port) (names (part "TCP" config)) || part "Web" config != { }
        || part "Services" config != { } || foreground != [ ] || builtins.any (f: !(onPort f)) flags;
      in (if foreign then "foreign" else if ours && wanted then "open" else if ours || flagged then "altered" else "shut")
        + (if shared then " yes" else " no")' "$WORK/status.json")
  FUNNEL=${funnel_words% *}
  FUNNEL_SHARED=${funnel_words#* }
}

# `close_funnel FUNNEL_PORT PROXY_PORT`: take our entry away, see it gone, leave every other tool's in place.
close_funnel() {
  # Without a lease the timer on the server keeps closing, should the rest of this fail.
  rm -f "$LEASE"
  stop_lease_timer
  if ! command -v tailscale >/dev/null; then
    rm -f "$FUNNEL_RECORD"
    return 0
  fi
  close_found=
  for close_try in 1 2 3; do
    read_funnel "$1" "$2"
    : "${close_found:=$FUNNEL}"
    case $FUNNEL in shut | foreign) break ;; *) ;; esac
    [ "$close_try" = 1 ] || sleep 1
    say "Closing the funnel on port $1"
    if [ "$FUNNEL_SHARED" = no ]; then
      timeout 30 tailscale funnel reset >"$WORK/change.log" 2>&1 </dev/null || :
    else
      # `funnel --tcp off` would leave its flag behind, and may wait for a web page when the attribute is gone. Serving the
      # same port inside the tailnet takes the flag away and asks for no attribute; then that entry goes, alone.
      timeout 30 tailscale serve --bg --yes --tcp "$1" "tcp://localhost:$2" >"$WORK/change.log" 2>&1 </dev/null || :
      timeout 30 tailscale serve --yes --tcp "$1" off >>"$WORK/change.log" 2>&1 </dev/null || :
    fi
    read_funnel "$1" "$2"
  done
  case $FUNNEL in
    shut) [ "$close_found" = shut ] || cut_connections ;;
    foreign) say "Port $1 is in use by another tool's serve entry, which stays as it is" ;;
    *)
      # A stopped Tailscale lets its whole configuration be reset, but no part of it be changed.
      close_remedy="close it on the server with \"sudo tailscale funnel reset\""
      [ "$FUNNEL_SHARED" = no ] ||
        close_remedy="run \"sudo tailscale up\" on the server if it is stopped, then \"sudo immich-exposure close\""
      die "The funnel on port $1 is still configured ($(tr -s '\n' ' ' <"$WORK/change.log")); $close_remedy."
      ;;
  esac
  rm -f "$FUNNEL_RECORD"
}

# A closed funnel lets nobody in, but tailscaled goes on carrying what is connected already, for as long as both ends like. So
# the other end hangs up: behind a closed funnel nobody else needs Caddy.
cut_connections() {
  if active caddy; then
    systemctl restart caddy >/dev/null 2>&1 </dev/null || say "Caddy did not start again; see \"journalctl -u caddy\""
  fi
}

# The one-shot timer that ends a lease to the second; the minute's timer in the NixOS module is its safety net.
stop_lease_timer() {
  systemctl stop immich-exposure-lease-end.timer >/dev/null 2>&1 </dev/null || :
}

# ---- The imports of configuration.nix

# An awk function that blanks out comments and strings, so that only code is searched, and finds whole path words.
NIX_SCANNER='
  function code_of(line,   out, i, c, two, three, step) {
    out = ""
    for (i = 1; i <= length(line); i += step) {
      c = substr(line, i, 1); two = substr(line, i, 2); three = substr(line, i, 3); step = 1
      if (where == "block") { if (two == "*/") { where = ""; step = 2 } }
      else if (where == "string") { if (c == "\\") step = 2; else if (c == "\"") where = "" }
      else if (where == "indented") {
        if (three == "'"'''"'" || three == "'"''"'$" || three == "'"''"'\\") step = 3
        else if (two == "'"''"'") { where = ""; step = 2 }
      }
      else if (c == "#") break
      else if (two == "/*") { where = "block"; step = 2 }
      else if (c == "\"") where = "string"
      else if (two == "'"''"'" && substr(line, i - 1, 1) !~ /[A-Za-z0-9_]/) { where = "indented"; step = 2 }
      else { out = out c; continue }
      out = out substr("   ", 1, step)
    }
    return out
  }
  function find(code, word, start,   at) {
    at = index(substr(code, start), word)
    if (!at) return 0
    at += start - 1
    if (substr(" " code, at, 1) ~ /[A-Za-z0-9_.\/+~-]/ || substr(code, at + length(word), 1) ~ /[A-Za-z0-9_.\/+-]/)
      return find(code, word, at + 1)
    return at
  }'

# `import_state FILE PATH`: active, commented (or in a string) or absent.
import_state() {
  [ -f "$1" ] || {
    printf absent
    return 0
  }
  awk -v word="$2" "$NIX_SCANNER"'
    { if (find(code_of($0), word, 1)) active = 1; if (find($0, word, 1)) mentioned = 1 }
    END { printf "%s", active ? "active" : mentioned ? "commented" : "absent" }' "$1"
}

# `swap_import FILE FROM TO` prints FILE with every active import of FROM naming TO; all other bytes stay.
swap_import() {
  awk -v from="$2" -v to="$3" "$NIX_SCANNER"'
    {
      line = $0; code = code_of(line); done = ""
      while (at = find(code, from, 1)) {
        done = done substr(line, 1, at - 1) to
        line = substr(line, at + length(from)); code = substr(code, at + length(from))
      }
      print done line
    }' "$1" >"$WORK/swapped"
  # awk ends the last line with a newline, whether the file did or not.
  if [ -n "$(tail -c 1 "$1")" ]; then head -c -1 "$WORK/swapped"; else cat "$WORK/swapped"; fi
}
