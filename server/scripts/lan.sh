# shellcheck shell=sh
# Runs after lib.sh. Immich at home, behind an edge that reaches it on loopback: one socket for each address on which Immich
# would listen without the module, with a proxy behind it.
#
#   sync HOST PORT   if home access is open (see STATE/lan), the sockets are those of HOST and PORT; otherwise there are none
#
# A unit of the module runs this: at boot, when STATE/lan changes, and every minute, because addresses come and go. It does not
# take the lock: a script that changes STATE/lan holds the lock and waits for this.

SOCKET=immich-exposure-lan@

# `listen_addresses HOST PORT`: where an Immich with this host would listen, one per line, except 127.0.0.1, where it does
# listen. Wildcards are expanded, because Immich holds the port on loopback.
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
      # A name, which may have several addresses.
      getent ahosts "$1" </dev/null | awk '$2 == "STREAM" && $1 !~ /^127\./ { print $1 }' |
        sed -e "/:/s/.*/[&]:$2/" -e "/:/!s/\$/:$2/"
      ;;
    *) echo "$1:$2" ;;
  esac | sort -u
}

# An instance is the address as systemd escapes it, with its dots escaped as well: a NixOS switch takes everything after the
# first dot of a unit's name for the unit's type, and would neither stop nor restart the others.
instances() { sed -e 's/\[/\\x5b/g' -e 's/\]/\\x5d/g' -e 's/\./\\x2e/g'; }

present_sockets() {
  systemctl list-units --all --plain --no-legend --full "$SOCKET*.socket" </dev/null |
    awk '{ print $1 }' | sed -e "s/^$SOCKET//" -e 's/\.socket$//' | sort -u
}

# The socket and the proxy, so that existing connections end as well.
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
    # If another program holds an address, this is tried again in a minute; no unit stays failed because of it.
    if ! systemctl start "$SOCKET$instance.socket" >/dev/null 2>&1 </dev/null; then
      say "Immich cannot be reached at home on $(printf '%s' "$instance" | plain_instances): something else uses that address"
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
