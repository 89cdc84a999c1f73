# shellcheck shell=sh
# Runs after lib.sh. The exposure's own folder: the first thing made, the last thing removed.
#
#   prepare         STATE is there, with the folders that devices, bans and certificates lie in
#   begin NAME...   the same, and no device but these may come in any more. Somebody whose Pulumi state was lost begins
#                   anew, and nothing would ever withdraw what an earlier one enrolled and the config no longer names.
#   remove          STATE (devices, bans, certificate, lease), the access log and what interrupted runs left are gone
#
# Refuses while anything still stands on them: an open funnel, or the units of the NixOS module.

LOGS=$ROOT/var/log/caddy

refuse_while_open() {
  command -v tailscale >/dev/null || return 0
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  # A Tailscale that has gone away or is logged out serves nothing.
  timeout 20 tailscale status --json --peers=false >/dev/null 2>&1 </dev/null || return 0
  read_funnel "$1" "$2"
  case $FUNNEL in
    open | altered) die "The funnel on port $1 is still open; close it first with \"funnel.sh close $1 $2\"." ;;
    *) ;;
  esac
}

# `is_one_of WORD WORDS...`
is_one_of() {
  sought=$1
  shift
  for word; do [ "$word" != "$sought" ] || return 0; done
  return 1
}

withdraw_all_but() {
  for device_file in "$STATE/devices"/* "$STATE/ended"/*; do
    [ -f "$device_file" ] || continue
    device_name=
    read -r device_name <"$device_file" || :
    if is_one_of "$device_name" "$@"; then continue; fi
    rm -f "$device_file"
    say "Device $device_name is in no configuration and may no longer come in"
  done
}

remove_everything() {
  refuse_while_open
  ! active immich-exposure-lease.timer ||
    die "The NixOS configuration still exposes Immich on this server; restore the LAN configuration first."
  stop_lease_timer
  rm -rf "$STATE"
  rm -f "$LOGS"/immich-access.log "$LOGS"/immich-access-*.log* "$LOGS"/immich-access.log.*
  active caddy || rmdir --ignore-fail-on-non-empty "$LOGS" 2>/dev/null || :
  # What systemd notes down of a persistent timer outlives the timer.
  rm -f "$ROOT"/var/lib/systemd/timers/stamp-immich-exposure-*.timer
  rm -f "$LOCK"
}

need_root
case ${1:-} in
  prepare)
    lock
    make_state
    ;;
  begin)
    shift
    lock
    make_state
    withdraw_all_but "$@"
    ;;
  remove)
    lock
    remove_everything
    ;;
  *) die "state.sh knows the verbs prepare, begin and remove, not \"${1:-}\"; use one of them." ;;
esac
