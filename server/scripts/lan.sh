# shellcheck shell=sh
# Runs after lib.sh. Immich at home, behind an edge that has it on loopback: one socket for each address on which Immich
# would listen without the module, and a proxy behind it.
#
#   sync HOST PORT   the sockets are those of HOST and PORT when home access is open (see STATE/lan), else there is none
#
# A unit of the module runs this: at boot, when STATE/lan changes, and each minute, because addresses come and go. It waits
# for no lock: who changes STATE/lan holds it, and waits for this.

SOCKET=immich-exposure-lan@

# `listen_addresses HOST PORT`: where an Immich with this host would listen, one a line, but for 127.0.0.1, where it does. The
# wildcards are expanded, because Immich holds the port on loopback.
listen_addresses() {
  case $1 in
    127.*) ;;
    0.0.0.0) own_addresses | sed "s/\$/:$2/" ;;
    ::)
      echo "[::]:$2"
      own_addresses | sed "s/\$/:$2/"
      ;;
    localhost | ::1) echo "[::1]:$2" ;;
    *:*) echo "[$1]:$2" ;;
    *[!0-9.]*)
      # A name, which may have many addresses.
      getent ahosts "$1" </dev/null | awk '$2 == "STREAM" && $1 !~ /^127\./ { print $1 }' |
        sed -e "/:/s/.*/[&]:$2/" -e "/:/!s/\$/:$2/"
      ;;
    *) echo "$1:$2" ;;
  esac | sort -u
}

# An instance is the address escaped as systemd does it, and its dots as well: a switch of NixOS takes what follows the first dot of
# a unit's name for its kind, and would neither stop nor restart the others.
instances() { sed -e 's/\[/\\x5b/g' -e 's/\]/\\x5d/g' -e 's/\./\\x2e/g'; }

present_sockets() {
  systemctl list-units --all --plain --no-legend --full "$SOCKET*.socket" </dev/null |
    awk '{ print $1 }' | sed -e "s/^$SOCKET//" -e 's/\.socket$//' | sort -u
}

# Both, so that existing connections end as well.
stop_socket() {
  systemctl stop "$SOCKET$1.socket" "$SOCKET$1.service" </dev/null || :
  systemctl reset-failed "$SOCKET$1.socket" >/dev/null 2>&1 </dev/null || :
}

sync() {
  : >"$WORK/wanted"
  if ! home_is_closed; then listen_addresses "$1" "$2" | instances >"$WORK/wanted"; fi
  present_sockets >"$WORK/present"
  while read -r instance; do
    grep -qxF -e "$instance" "$WORK/wanted" || stop_socket "$instance"
  done <"$WORK/present"
  while read -r instance; do
    if active "$SOCKET$instance.socket"; then continue; fi
    # An address that another program holds is tried again in a minute; no unit stays failed for it.
    if ! systemctl start "$SOCKET$instance.socket" >/dev/null 2>&1 </dev/null; then
      say "Immich cannot be reached at home on $(printf '%s' "$instance" | plain_instances): something else holds that address"
      systemctl reset-failed "$SOCKET$instance.socket" >/dev/null 2>&1 </dev/null || :
    fi
  done <"$WORK/wanted"
}

need_root
case ${1:-}:${2:-} in
  sync:?*)
    check_address "$2"
    port "immich.port" "${3:-}"
    ;;
  *) die "lan.sh takes \"sync HOST PORT\"; correct the arguments." ;;
esac
sync "$2" "$3"
