# shellcheck shell=sh
# Runs after lib.sh. The funnel: raw TCP from the internet to the proxy, with PROXY protocol 1, never longer than its lease.
#
#   trial FUNNEL_PORT PROXY_PORT SECONDS yes|no DIGEST
#                                 what is behind the funnel is about to change to what DIGEST identifies: from here on nothing is
#                                 proven, and an open funnel is on a lease of SECONDS; another stack's funnel only with yes. Prints
#                                 {"funnel":trial|closed,"at":TIME}
#   prove FUNNEL_PORT PROXY_PORT SECONDS always|+SECONDS|EPOCH CONFIG_DIR|- DIGEST
#                                 opens it on a lease of SECONDS, prints {"openedAt":EPOCH,"url":URL}, and waits for a line on
#                                 standard input. If it is "proven", the funnel may be open for ever, for so long, or until then: the
#                                 state is recorded (see drift.sh), and {"lease":"confirmed","left":SECONDS|null} printed. If it is
#                                 anything else, or none comes within SECONDS, the funnel is closed
#   close FUNNEL_PORT PROXY_PORT [WHY]          closes it and verifies that it is closed
#   enforce                                     closes it unless a lease allows it (a timer of the NixOS module runs this every minute)
#   reopen                                      opens again what was proven and then closed (the module starts this for
#                                               `immich-exposure open`)
#
# The lease is written before the funnel opens (see lib.sh). While the funnel is open, Immich is closed at home if the module
# says so; afterwards it is open again.

need_free_port() {
  need_tailscale "$1"
  [ "$FUNNEL_GRANTED" = true ] ||
    die "This node has no funnel attribute; add {\"target\": [\"*\"], \"attr\": [\"funnel\"]} to nodeAttrs in the tailnet's" \
      "policy file (https://tailscale.com/s/no-funnel) and run this again."
  [ "$PORT_GRANTED" = true ] ||
    die "Tailscale does not allow a funnel on port $1; set funnelPort to 443, 8443 or 10000."
  active "$LEASE_TIMER" ||
    die "The timer $LEASE_TIMER is not running, so nothing would end the funnel's lease; apply the NixOS" \
      "configuration first."
}

close_again() { close_funnel "$FUNNEL_PORT" "$PROXY_PORT" check; }

# A funnel with nothing behind it must not be opened; one that is open already stays open, and the edge keeps refusing
# strangers. If Immich did not run during the preflight, its administrator was not checked there.
need_immich() {
  if [ "$FUNNEL" = open ]; then return 0; fi
  upstream=$(module_word immich)
  [ -n "$upstream" ] || return 0
  wait_for 20 immich_answers "$upstream" ||
    die "Immich does not answer at $upstream, so the funnel stays closed; everything is prepared, and the next \"pulumi up\" opens" \
      "it once Immich answers."
  [ "$(immich_initialized "$upstream")" = true ] ||
    die "Immich has no administrator yet, so the first visitor could make themselves one; open Immich on the LAN and create the" \
      "administrator account first."
}

# Only the owner may override the emergency stop.
need_leave_to_open() {
  ! is_closed_by_hand ||
    die "The funnel was closed on the server by \"immich-exposure close\", and stays closed; run" \
      "\"sudo immich-exposure open\" there, then run this again."
}

need_edge() {
  rm -f "$EDGE_STOPPED"
  ! active immich-edge || restart_hanging_edge
  if active immich-edge || systemctl start immich-edge </dev/null; then return 0; fi
  ! is_masked immich-edge || die "The funnel stays closed: immich-edge $(at_rest immich-edge)."
  die "The edge does not start, so the funnel stays closed; see why with \"journalctl -u immich-edge\" and run this again."
}

# `open_on_lease LEASE_COMMAND...` opens the funnel on the lease that the command writes.
open_on_lease() {
  need_leave_to_open
  need_free_port "$FUNNEL_PORT"
  close_former "$FUNNEL_PORT" "$PROXY_PORT"
  ask_module
  read_serving "$FUNNEL_PORT" "$PROXY_PORT"
  close_what "$FUNNEL_PORT"
  if [ -s "$WORK/to-close" ]; then
    say "Port $(awk '{ print $2 }' "$WORK/to-close" | sort -un | paste -s -d ' ' -) bypasses our rules; closing that first"
    (close_entries "$FUNNEL_PORT" "$PROXY_PORT") || exit 1
    read_serving "$FUNNEL_PORT" "$PROXY_PORT"
  fi
  [ "$FUNNEL" != foreign ] ||
    die "Port $FUNNEL_PORT of this node already serves something else (see \"tailscale funnel status\"); remove that entry or set" \
      "funnelPort to another of 443, 8443 and 10000."
  need_immich
  UNDO=close_again
  "$@"
  write_line 0644 "$FUNNEL_RECORD" "$FUNNEL_PORT $PROXY_PORT"
  close_home
  need_edge
  if [ "$FUNNEL" = open ]; then
    say "The funnel on port $FUNNEL_PORT is already open; its lease was replaced"
  else
    # The command can wait for ever for a visit to a web page, and can exit 0 without effect. The address is numeric because
    # tailscaled tries [::1] first for "localhost", where the edge does not listen and any account of the server may.
    timeout 30 tailscale funnel --bg --yes --proxy-protocol 1 --tcp "$FUNNEL_PORT" "tcp://127.0.0.1:$PROXY_PORT" \
      >"$WORK/change.log" 2>&1 </dev/null || :
    read_serving "$FUNNEL_PORT" "$PROXY_PORT"
    [ "$FUNNEL" = open ] ||
      die "Tailscale did not open the funnel ($(tr -s '\n' ' ' <"$WORK/change.log")); fix that and run this again."
  fi
  # It may have been closed by hand at this very moment.
  need_leave_to_open
}

open_funnel() {
  FUNNEL_PORT=$1 PROXY_PORT=$2
  open_on_lease begin_trial "$3"
  TO_PROVE=$(exposed_digest)
  say "The funnel on port $1 is open for at most $3 seconds unless it is proven"
  note_change open trial
  printf '{"openedAt":%s,"url":%s}\n' "$(now)" "$(json_string "$(url "$DOMAIN" "$1")")"
}

# `note_term always|+SECONDS|EPOCH`: the same term continues; a different one starts now.
note_term() {
  # shellcheck disable=SC2046
  set -- "$1" $(words_of "$LEASE_TERM")
  term_new=
  case $1:${2:-}:${3:-} in
    "+${3:-}:hours:${3:-}" | "${3:-}:date:${3:-}") [ "$(term_left)" != 0 ] || term_new=yes ;;
    *) term_new=yes ;;
  esac
  [ -n "$term_new" ] || return 0
  case $1 in
    always) term_new=always ;;
    +*) term_new="hours ${1#+} $(rest "${1#+}")" ;;
    *) term_new="date $1 $(now) $(rest "$(($1 - $(now)))")" ;;
  esac
  write_line 0644 "$LEASE_TERM" "$term_new"
}

# Only a funnel that is open as configured, and still within its lease, can be kept.
confirm_funnel() {
  need_leave_to_open
  # shellcheck disable=SC2046
  set -- "$1" $(recorded_ports)
  know_module
  read_funnel "$2" "$3"
  { [ "$FUNNEL" = open ] && lease_holds; } ||
    die "The funnel is no longer open ($FUNNEL), so it cannot be confirmed; open it again."
  case $1 in
    always | +*) ;;
    *)
      [ "$1" -gt "$(now)" ] ||
        die "The funnel cannot stay open until a time that has passed; set exposeUntil to a later one."
      ;;
  esac
  note_term "$1"
  write_line 0644 "$PROVEN" "$2 $3 $(exposed_digest)"
  write_line 0644 "$LEASE" confirmed
  read_lease
  arm_lease_timer "$LEASE_LEFT"
  read_serving "$2" "$3"
  if [ "$FUNNEL" != open ] || is_closed_by_hand; then
    close_funnel "$2" "$3"
    die "The funnel was closed just now; open it again."
  fi
  note_change open proven
  case $LEASE_LEFT in always) LEASE_LEFT=null ;; *) ;; esac
  printf '{"lease":"confirmed","left":%s}\n' "$LEASE_LEFT"
}

# `await_proof SECONDS`: no other run has to wait for the proof, so the lock is not held meanwhile. Afterwards the owner of the
# server is checked again before anything is undone. What another run (with a copy of Pulumi's state) or a rebuild of the owner's
# has changed meanwhile, the proof may not have seen.
await_proof() {
  UNDO=:
  exec 9>&-
  proof=$(timeout "$1" head -n 1) || :
  if [ "$proof" = proven ]; then
    lock
    # shellcheck disable=SC2034
    UNDO=close_again
    ask_module
    [ "$(exposed_digest)" = "$TO_PROVE" ] ||
      die "What the funnel exposes was changed while it was being proven, so the funnel is closed; run \"pulumi up\" again."
    return 0
  fi
  lock_briefly
  check_stack
  close_funnel "$FUNNEL_PORT" "$PROXY_PORT" check
  die "The exposure was not proven, so the funnel is closed; run \"pulumi up\" again."
}

# ---- Before a change

# Applies to a closed funnel as well: `reopen` must not open what is not proven. A funnel that was opened by hand before the
# exposure is handled elsewhere (see adopt.sh).
trial() {
  trial_state=closed
  if is_ours "$STATE" && [ ! -f "$BY_HAND" ] && is_this_stacks "$4"; then
    rm -f "$PROVEN" || die "$PROVEN cannot be removed; check its disk and run this again."
    if lease_holds; then
      begin_trial "$3"
      trial_state=trial
      say "The funnel is on a lease of $3 seconds until this change is proven"
      note_change open trial
    else
      # shellcheck disable=SC2046
      close_unproven $(recorded_ports)
    fi
    if is_closed_by_hand; then
      say "The funnel was closed on the server by \"immich-exposure close\", and stays closed until \"sudo immich-exposure open\""
    fi
  elif is_free "$STATE"; then
    # Somebody has deleted the state while the edge was running.
    close_unproven "$1" "$2"
  fi
  printf '{"funnel":"%s","at":"%s %s"}\n' "$trial_state" "$(now)" "$(seconds)"
}

# `is_this_stacks yes|no`: later steps refuse another stack's server, or take it over.
is_this_stacks() { [ -z "$STACK" ] || ! read_owner || [ "$OWNER_ID" = "$STACK" ] || [ "$1" = yes ]; }

# `close_unproven FUNNEL_PORT PROXY_PORT`: closes every unproven funnel to our edge, whoever opened it.
close_unproven() {
  if leads_to_our_edge "$1" "$2"; then close_funnel "$1" "$2"; fi
}

# ---- Opening again

reopen() {
  is_ours "$STATE" || die "Nothing is exposed from this server, so there is nothing to open; run \"pulumi up\"."
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  read_funnel "$1" "$2"
  if [ "$FUNNEL" = open ] && lease_holds; then
    say "The funnel is already open"
    return 0
  fi
  rm -f "$CLOSED_BY_HAND" "$CLOSED_BY_HAND_TOO" ||
    die "$CLOSED_BY_HAND cannot be removed; check its disk and run this again."
  [ "$(words_of "$PROVEN")" = "$1 $2 $(exposed_digest)" ] ||
    die "What the funnel exposes has changed since it was proven, or was never proven, so the funnel stays closed; run" \
      "\"pulumi up\", which opens it and proves it."
  if [ "$(term_left)" = 0 ]; then renew_term; fi
  FUNNEL_PORT=$1 PROXY_PORT=$2
  open_on_lease write_confirmed
  note_change open hand
  read_lease
  say "The funnel on port $1 is open again$(case $LEASE_LEFT in always) ;; *) printf ' for %s' "$(span "$LEASE_LEFT")" ;; esac)"
}

# If the hours are used up, they start again when the owner opens the funnel; a date that has passed stays so.
renew_term() {
  # shellcheck disable=SC2046
  set -- $(words_of "$LEASE_TERM")
  { [ "${1:-}" = hours ] && is_count "${2:-}"; } ||
    die "The time until which the funnel may be open (exposeUntil) has passed, or this server's clock is wrong; set a later one" \
      "and run \"pulumi up\"."
  write_line 0644 "$LEASE_TERM" "hours $2 $(rest "$2")"
}

write_confirmed() {
  write_line 0644 "$LEASE" confirmed
  arm_lease_timer "$(term_left)"
}

# ---- Every minute

# While the lease holds, home access still follows the funnel. Otherwise nobody could reach Immich when the owner closes the
# funnel with Tailscale's own command, or when Tailscale is down; once the funnel is back, home access closes again. `open`
# closes home access before the funnel opens, so this only looks while no other run is in progress.
look_at_open_funnel() {
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  can_lock || return 0
  open_lock
  flock -n 9 || return 0
  note_rest "$LEASE"
  note_rest "$LEASE_TERM"
  FUNNEL=closed
  : >"$WORK/past"
  if tailscale_runs; then
    read_status "$1"
    read_serving "$1" "$2"
  fi
  # Whoever set it up, it lets strangers get past our rules.
  if grep -q "^[a-z]* $1 " "$WORK/past"; then
    say "Port $1 bypasses the edge; closing it"
    close_funnel "$1" "$2" unsafe
    return 0
  fi
  case $FUNNEL:$(words_of "$LAST_CHANGE") in
    open:*" open "*) ;;
    open:*) note_change open elsewhere ;;
    *) note_change closed elsewhere ;;
  esac
  home_follows "$FUNNEL"
}

# `home_follows FUNNEL`
home_follows() {
  if home_is_by_hand; then return 0; fi
  case $1:$(lan_line) in
    closed:closed) open_home ;;
    open:closed) ;;
    open:*) if has_lan_unit && [ -e "$FUNNEL_RECORD" ] && lease_holds; then close_home; fi ;;
    *) ;;
  esac
}

# `note_rest FILE` records how much of a lease is left, for the next boot. On a disk that cannot be written to, the lease counts
# down all the same, but not across reboots.
note_rest() {
  # shellcheck disable=SC2046
  set -- "$1" $(words_of "$1")
  case ${2:-}:$# in
    trial:5) note_head=trial ;;
    hours:6) note_head="hours $3" ;;
    date:7) note_head="date $3 $4" ;;
    *) return 0 ;;
  esac
  note_file=$1
  shift $(($# - 3))
  (write_line 0644 "$note_file" "$note_head $(rest "$(seconds_left "$1" "$2" "$3")")") 2>/dev/null || :
}

enforce_lease() {
  if [ -f "$BY_HAND" ]; then return 0; fi
  if lease_holds; then look_at_open_funnel; else end_lease; fi
}

check_term() {
  case $1 in
    always) ;;
    +*) number "The lease in seconds" "${1#+}" 1 99999999 ;;
    *) number "The end of the lease" "$1" 1 9999999999 ;;
  esac
}

need_root
verb=${1:-}
[ $# = 0 ] || shift
case $verb in
  trial)
    port funnelPort "${1:-}"
    port proxyPort "${2:-}"
    number "The lease in seconds" "${3:-}" 1 604800
    case ${4:-} in yes | no) ;; *) die "\"trial\" takes yes or no, not \"${4:-}\"; correct the arguments." ;; esac
    lock_for_anybody
    trial "$@"
    ;;
  prove)
    [ $# = 6 ] || die "\"prove\" takes ports, a lease, a term, a folder and a digest; correct the arguments."
    port funnelPort "$1"
    port proxyPort "$2"
    number "The lease in seconds" "$3" 1 604800
    check_term "$4"
    lock
    make_state
    open_funnel "$1" "$2" "$3"
    await_proof "$3"
    confirm_funnel "$4"
    record "$1" "$2" "$5" "$6"
    ;;
  enforce | reopen)
    [ $# = 0 ] || die "\"$verb\" takes its ports from $STATE; leave the arguments out."
    if [ "$verb" = enforce ]; then
      enforce_lease
    else
      lock
      reopen
    fi
    ;;
  close)
    port funnelPort "${1:-}"
    port proxyPort "${2:-}"
    case ${3:-run} in
      run | check | destroy | unsafe | lease) ;;
      *) die "The reason for closing a funnel is run, check, destroy, unsafe or lease, not \"$3\"; use one of them." ;;
    esac
    close_exposure "$1" "$2" "${3:-run}"
    ;;
  *)
    die "funnel.sh knows the verbs trial, prove, close, enforce and reopen, not \"$verb\"; use one of them."
    ;;
esac
