# shellcheck shell=sh
# Runs after lib.sh. The exposure's own folder: created first, removed last.
#
#   prepare [OWNER]       creates STATE, with the folders for devices, bans and certificates, each with its owner. The units run
#                         this before they start, also while another run holds the lock and waits for them. With OWNER, the
#                         operator runs it: if the state was deleted, its owner is recorded again.
#   begin OWNER TAKE_OVER NAME...
#                         the same, and makes it the state of the stack OWNER (with the id that the run began with). Revokes all
#                         devices except these: nothing else would ever revoke what an earlier stack enrolled and this config does
#                         not name. Takes over another stack's server only if TAKE_OVER is yes, not no.
#   whose                 prints the id of the stack that owns this server, if any
#   remove                removes STATE (devices, bans, certificate, lease), the logs and what interrupted runs left behind
#
# Refuses while anything still needs them: an open funnel, or the edge. Only removes what is ours.

refuse_while_open() {
  command -v tailscale >/dev/null || return 0
  # An open funnel is still the one from before the exposure.
  [ ! -f "$BY_HAND" ] || return 0
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  # Something is left over because Tailscale did not respond.
  if [ -e "$FUNNEL_RECORD" ] && ! lease_holds; then close_at_last "$1" "$2"; fi
  # A Tailscale that is gone or logged out serves nothing.
  tailscale_runs || return 0
  read_funnel "$1" "$2"
  case $FUNNEL in
    open | altered) die "The funnel on port $1 is still open; close it first with \"sudo tailscale funnel --tcp=$1 off\"." ;;
    *) ;;
  esac
}

# `close_at_last FUNNEL_PORT PROXY_PORT`: nothing of ours will be left to close the funnel when Tailscale comes back, so
# Tailscale is started for a moment, or restarted if it hangs: if its owner has not stopped it, it must run afterwards, too.
# Nothing is behind the funnel any more.
close_at_last() {
  if ! tailscale_answers; then
    case $(systemctl is-active tailscaled 2>/dev/null </dev/null) in
      inactive | failed)
        say "Starting Tailscale briefly, to remove the entries that it still has of ours"
        close_started=yes
        systemctl start tailscaled >/dev/null 2>&1 </dev/null || :
        ;;
      *)
        say "Restarting Tailscale, which is running but does not respond, to remove the entries that it still has of ours"
        timeout 60 systemctl restart tailscaled >/dev/null 2>&1 </dev/null || :
        ;;
    esac
    wait_for 30 tailscale_has_started || :
  fi
  close_funnel "$1" "$2" destroy
  [ "${close_started:-}" != yes ] || systemctl stop tailscaled >/dev/null 2>&1 </dev/null || :
  [ ! -e "$FUNNEL_RECORD" ] ||
    say "The funnel on port $1 leads nowhere now, but Tailscale still has it; remove it once Tailscale runs again:" \
      "\"sudo tailscale funnel --tcp=$1 off\""
}

tailscale_has_started() { ask_tailscale && tailscale_knows; }

withdraw_all_but() {
  for device_file in "$STATE/devices"/* "$STATE/ended"/*; do
    [ -f "$device_file" ] || continue
    device_name=
    read -r device_name <"$device_file" || :
    if is_one_of "$device_name" "$@"; then continue; fi
    rm -f "$device_file"
    say "Device $device_name is not in the configuration and is no longer enrolled"
  done
}

# Tailscale keeps what it serves for each account that the server was logged in to, and changes only the current one's.
tell_of_other_accounts() {
  tell_state=$ROOT/var/lib/tailscale/tailscaled.state
  [ -r "$tell_state" ] || return 0
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  sed -n 's|.*"_serve/\([0-9a-f]*\)": *"\([A-Za-z0-9+/=]*\)".*|\1 \2|p' "$tell_state" | while read -r tell_id tell_serves; do
    # Those of an account that was logged out stay in the file, and nothing reads them.
    grep -q "\"profile-$tell_id\"" "$tell_state" || continue
    printf '%s' "$tell_serves" | base64 -d 2>/dev/null | grep -q "\"127\.0\.0\.1:$2\"" || continue
    say "Tailscale still has the funnel's entry in another account of this server. To remove it, switch to that account with" \
      "\"sudo tailscale switch $tell_id\" and run \"sudo tailscale funnel reset\", which also removes all else that is served there"
  done
}

# If the node was renamed and serves anything else, Tailscale's commands leave behind that the former name's port is public.
tell_of_former_name() {
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  timeout 20 tailscale funnel status --json >"$WORK/funnel.json" 2>/dev/null </dev/null || return 0
  # What another tool serves on this port is its own.
  # shellcheck disable=SC2016
  former_name=$(json_ask "$WORK/funnel.json" '
    for (path in K) {
      split(path, part, "\t"); at = part[3]; sub(/.*:/, "", at)
      if (part[2] == "TCP" && part[3] == port) served = 1
      if (part[2] == "AllowFunnel" && at == port && V[path] == "true") name = part[3]
    }
    if (!served && name ~ /^[A-Za-z0-9.-]+:[0-9]+$/) print name' '' -v port="$1") 2>/dev/null || return 0
  [ -z "$former_name" ] ||
    say "Tailscale still lists $former_name, under this server's former name, as public; nothing is served there. Only" \
      "\"sudo tailscale funnel reset\" removes that, with all else that is served"
}

remove_everything() {
  refuse_while_open
  ! active immich-edge ||
    die "The edge is still running on this server; remove the module first (\"module.sh restore\" or \"module.sh leave\")."
  stop_lease_timer
  rm -f "$CLOSED_BY_HAND_TOO" "$EDGE_STOPPED"
  tell_of_other_accounts
  tell_of_former_name
  # Before the state: without it, the logs would count as somebody else's.
  if has_our_logs; then
    set --
    for log in access devices offences; do
      set -- "$@" "$LOGS/$log.log" "$LOGS/$log"-*.log "$LOGS/$log"-*.log.gz
    done
    rm -f "$@"
    # The mark goes last, so that a run that is cut off here can be finished.
    rm -f "$LOGS/$MARK"
  fi
  remove_empty "$LOGS"
  remove_state
  # systemd's stamp of a persistent timer survives the timer, so it is removed, except for timers that still exist.
  for stamp in "$ROOT"/var/lib/systemd/timers/stamp-immich-exposure-*.timer; do
    stamped=${stamp##*/stamp-}
    active "$stamped" || rm -f "$stamp"
  done
  # Leftovers of killed runs in memory.
  for work_left in "$ROOT/run" "$ROOT/dev/shm"; do
    find "$work_left" -maxdepth 1 -type d -name 'immich-exposure.??????' ! -path "$WORK" -exec rm -rf {} + 2>/dev/null || :
  done
  rm -rf "${ROOM%/*}"
  rm -f "$LOCK"
}

# Removes everything that the scripts and the units ever put there, and nothing else; the mark goes last.
remove_state() {
  if ! is_ours "$STATE"; then
    # Left by a killed run that had just started, or a mount point, which stays.
    remove_empty "$STATE"
    return 0
  fi
  set --
  for name in devices ended revoked bans lists tls settings notices who fail2ban module.before module.before.new; do
    set -- "$@" "${STATE:?}/$name"
  done
  rm -rf "$@"
  set --
  for name in domain.env owner lease term proven standing last-change funnel guard guard.memory lan closed-by-hand adopted by-hand device-ca.crt .device-ca.unloaded rebuild.log rollback.sh \
    configuration.nix.before configuration.nix.after configuration.nix.rollback configuration.nix.written; do
    set -- "$@" "$STATE/$name"
  done
  # This includes the edge's program, if the operator's machine built it.
  rm -f "$@" "$STATE"/.immich-exposure.?????? "$STATE"/edge-*
  # Last, so that an interrupted run can be finished.
  if [ "$(ls -A "$STATE")" = "$MARK" ]; then
    rm -f "$STATE/$MARK"
    remove_empty "$STATE"
  else
    rm -f "$STATE/$MARK"
    say "$STATE contains files that are not ours, which stay"
  fi
}

# A mount point stays, and is empty.
remove_empty() { [ ! -d "$1" ] || rmdir "$1" 2>/dev/null || :; }

# `check_names OWNER`. They are words without blanks, such as organization/project/stack; the id is what counts.
check_names() {
  case $1 in
    '' | *[!A-Za-z0-9._/@+-]*)
      die "The owner of an exposure is a stack, not \"$1\"; name one such as organization/project/stack."
      ;;
  esac
  case $STACK in
    '' | *[!A-Za-z0-9_-]*) die "The id of a stack cannot be \"$STACK\"; pass its id as --stack=ID first." ;;
  esac
}

# `claim OWNER TAKE_OVER`
claim() {
  check_names "$1"
  if read_owner && [ "$OWNER_ID" != "$STACK" ] && [ "$2" != yes ]; then
    die "This server is already exposed by the stack $OWNER_NAME, so nothing was changed; run \"pulumi destroy\" with that stack" \
      "first, or set takeOver: true to replace it with this one (also if it is this same stack, and Pulumi's state was lost)."
  fi
}

note_owner() { write_line 0644 "$OWNER" "$STACK $1"; }

need_root
case ${1:-} in
  prepare)
    if [ $# = 1 ]; then
      make_state
      if counts_opens; then make_who; fi
    else
      lock
      check_names "$2"
      make_state
      # shellcheck disable=SC2086
      unmask $SERVICES
      read_owner || note_owner "$2"
    fi
    ;;
  begin)
    shift
    case ${2:-} in
      yes | no) ;;
      *) die "\"begin\" takes OWNER, yes or no, and the names of devices, not \"$*\"; correct the arguments." ;;
    esac
    lock_for_anybody
    claim "$1" "$2"
    make_state
    # shellcheck disable=SC2086
    unmask $SERVICES
    note_owner "$1"
    shift 2
    withdraw_all_but "$@"
    ;;
  whose) ! read_owner || printf '%s\n' "$OWNER_ID" ;;
  remove)
    lock
    remove_everything
    ;;
  *) die "state.sh knows the verbs prepare, begin, whose and remove, not \"${1:-}\"; use one of them." ;;
esac
