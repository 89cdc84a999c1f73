# shellcheck shell=sh
# Runs after lib.sh. The command `immich-exposure` for whoever sits at the server; its output is for people.
#
#   status   the address, the funnel and its lease, devices, bans, services
#   close    shut the funnel now; it stays shut until the next `pulumi up`

count() { find "$1" -maxdepth 1 -type f 2>/dev/null | wc -l | tr -d ' '; }

lease_in_words() {
  lease_line=
  [ ! -r "$LEASE" ] || read -r lease_line <"$LEASE" || :
  case $lease_line in
    confirmed) echo "confirmed, stays open" ;;
    until\ *[!0-9]*) echo "unreadable, will be closed" ;;
    until\ ?*) echo "ends $(date -d "@${lease_line#until }")" ;;
    *) echo none ;;
  esac
}

device_names() {
  for device_file in "$STATE"/devices/*; do
    [ -f "$device_file" ] || continue
    device_name=
    read -r device_name <"$device_file" || :
    printf ' %s' "$device_name"
  done
}

row() { printf '%-10s %s\n' "$1" "$2"; }

print_status() {
  read_funnel "$1" "$2"
  row address "https://$DOMAIN/"
  case $FUNNEL in
    open) row funnel "open to the internet on port $1" ;;
    altered) row funnel "altered by hand on port $1: run pulumi up, or immich-exposure close" ;;
    foreign) row funnel "shut; port $1 serves another tool" ;;
    *) row funnel shut ;;
  esac
  row lease "$(lease_in_words)"
  row devices "$(count "$STATE/devices")$(device_names)"
  row bans "$(count "$STATE/bans/auth") auth, $(count "$STATE/bans/scan") scan, $(count "$STATE/bans/manual") manual"
  for service in caddy.service fail2ban.service immich-exposure-lease.timer immich-exposure-certificate.timer; do
    if active "$service"; then row "$service" active; else row "$service" "NOT active"; fi
  done
}

need_root
verb=${1:-status}
# shellcheck disable=SC2046
set -- $(recorded_ports)
case $verb in
  status) print_status "$1" "$2" ;;
  close)
    close_funnel "$1" "$2"
    say "The funnel is shut; pulumi up opens it again"
    ;;
  *) die "immich-exposure knows the verbs status and close, not \"$verb\"; use one of them." ;;
esac
