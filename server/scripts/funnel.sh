# shellcheck shell=sh
# Runs after lib.sh. The funnel: raw TCP from the internet to the proxy, with PROXY protocol 1, never longer than its lease.
#
#   open FUNNEL_PORT PROXY_PORT LEASE_SECONDS   open it for LEASE_SECONDS; prints {"openedAt":EPOCH,"url":URL}
#   confirm [UNTIL_EPOCH]                       keep it open, for ever or until then; prints {"lease":"confirmed"|"until EPOCH"}
#   close FUNNEL_PORT PROXY_PORT                close it and see it closed
#   enforce                                     close it unless a lease allows it (each minute, by a timer of the NixOS module)
#   status FUNNEL_PORT PROXY_PORT               prints {"state":open|altered|foreign|shut,"shared":BOOL,"url":URL,"lease":LEASE}
#
# The lease stands in STATE/lease before the funnel opens: `until EPOCH` or `confirmed`. No lease, or one that makes no
# sense, means shut. While the funnel is open Immich is closed at home, where the module says so; after it, open again.

url() {
  if [ "$DOMAIN" = - ]; then return 0; fi
  if [ "$1" = 443 ]; then echo "https://$DOMAIN/"; else echo "https://$DOMAIN:$1/"; fi
}

# Closing waits for nobody for long: it is safe at any moment, and must work while a rebuild holds the lock.
lock_briefly() {
  if ! can_lock; then
    say "$LOCK cannot be opened; closing all the same"
    return 0
  fi
  open_lock
  flock -w 15 9 || say "Another run holds $LOCK; closing without waiting for it"
}

need_free_port() {
  need_tailscale "$1"
  [ "$FUNNEL_GRANTED" = true ] ||
    die "This node has no funnel attribute; add {\"target\": [\"*\"], \"attr\": [\"funnel\"]} to nodeAttrs in the tailnet's" \
      "policy file (https://tailscale.com/s/no-funnel) and run this again."
  [ "$PORT_GRANTED" = true ] ||
    die "Tailscale does not allow a funnel on port $1; set funnelPort to 443, 8443 or 10000."
  active immich-exposure-lease.timer ||
    die "The timer immich-exposure-lease.timer does not run here, so nothing would end the funnel's lease; apply the NixOS" \
      "configuration first."
}

# The timer counts seconds, whatever becomes of the clock: when it fires, its lease is over. (systemd would expand a "$".)
arm_lease_timer() {
  stop_lease_timer
  lease_line=$(cat "$LEASE")
  systemd-run --quiet --collect --unit=immich-exposure-lease-end --on-active="$1" --timer-property=AccuracySec=100ms \
    --setenv=PATH="$PATH" sh -c "! grep -qx '$lease_line' '$LEASE' || rm '$LEASE'; systemctl start immich-exposure-lease.service" \
    >"$WORK/timer.log" 2>&1 </dev/null ||
    die "The timer that ends the lease could not be set ($(tail -n 1 "$WORK/timer.log")); look at \"systemctl --failed\"."
}

# A funnel that stands on other ports since an earlier run is ours to close as well.
close_former() {
  if [ -s "$FUNNEL_RECORD" ] && [ "$(recorded_ports)" != "$1 $2" ]; then
    # shellcheck disable=SC2046
    close_funnel $(recorded_ports)
  fi
}

shut_again() { close_funnel "$FUNNEL_PORT" "$PROXY_PORT"; }

# What nobody answers behind shall not be opened; what is open already stays, and the edge goes on refusing strangers. An Immich
# that slept through the preflight was not asked for its administrator there.
need_immich() {
  if [ "$FUNNEL" = open ]; then return 0; fi
  upstream=$(module_word immich)
  [ -n "$upstream" ] || return 0
  wait_for 20 immich_answers "$upstream" ||
    die "Immich does not answer at $upstream, so the funnel stays shut; everything is prepared, and the next \"pulumi up\" opens" \
      "it once Immich answers."
  [ "$(immich_initialized "$upstream")" = true ] ||
    die "Immich has no administrator yet, so the first visitor could make themselves one; open Immich on the LAN and create the" \
      "administrator account first."
}

# The owner's emergency stop is nobody else's to overrule.
need_leave_to_open() {
  [ ! -e "$SHUT_BY_HAND" ] ||
    die "The funnel was shut on the server by \"immich-exposure close\", and stays shut; allow it again there with" \
      "\"sudo immich-exposure open\" and run this again."
}

open_funnel() {
  FUNNEL_PORT=$1 PROXY_PORT=$2
  need_leave_to_open
  need_free_port "$1"
  close_former "$1" "$2"
  read_funnel "$1" "$2"
  [ "$FUNNEL" != foreign ] ||
    die "Port $1 of this node already serves something else (see \"tailscale funnel status\"); remove that entry or set" \
      "funnelPort to another of 443, 8443 and 10000."
  need_immich
  UNDO=shut_again
  opened_at=$(now)
  echo "until $((opened_at + $3))" | write_file 0644 "$LEASE"
  echo "$1 $2" | write_file 0644 "$FUNNEL_RECORD"
  arm_lease_timer "$3"
  close_home
  if [ "$FUNNEL" = open ]; then
    say "The funnel on port $1 is open already; its lease starts anew"
  else
    say "Opening the funnel on port $1 for at most $3 seconds"
    # It can wait for ever for a web page to be visited, and can exit 0 with nothing done. The address is spelled out: for
    # "localhost" tailscaled asks [::1] first, where the edge does not listen and any account of the server may.
    timeout 30 tailscale funnel --bg --yes --proxy-protocol 1 --tcp "$1" "tcp://127.0.0.1:$2" \
      >"$WORK/change.log" 2>&1 </dev/null || :
    read_funnel "$1" "$2"
    [ "$FUNNEL" = open ] ||
      die "Tailscale did not open the funnel ($(tr -s '\n' ' ' <"$WORK/change.log")); mend that and run this again."
  fi
  printf '{"openedAt":%s,"url":%s}\n' "$opened_at" "$(json_string "$(url "$1")")"
}

# Only a funnel that is open as wanted, and still within its lease, can be kept.
confirm_funnel() {
  # shellcheck disable=SC2046
  set -- "$1" $(recorded_ports)
  read_funnel "$2" "$3"
  { [ "$FUNNEL" = open ] && lease_holds; } ||
    die "The funnel is not open any more ($FUNNEL, lease $(lease_word)), so it cannot be confirmed; open it again."
  [ "$1" = confirmed ] || [ "${1#until }" -gt "$(now)" ] ||
    die "The funnel cannot stay open until a moment that has passed; set exposeUntil to a later one."
  echo "$1" | write_file 0644 "$LEASE"
  if [ "$1" = confirmed ]; then stop_lease_timer; else arm_lease_timer "$((${1#until } - $(now)))"; fi
  read_funnel "$2" "$3"
  [ "$FUNNEL" = open ] || die "The funnel was closed in this very moment; open it again."
  printf '{"lease":"%s"}\n' "$1"
}

# A funnel that cannot be shut, or not be seen shut, may at least lead nowhere.
stop_edge() {
  active immich-edge || return 0
  say "The edge is stopped, so that nobody gets in; \"pulumi destroy\" and then \"pulumi up\" start anew"
  systemctl stop immich-edge </dev/null
}

# Logged out, switched off, not started or not answering, tailscaled lets nobody in, whatever its configuration says.
tailscale_runs() {
  timeout 20 tailscale status --json --peers=false 2>/dev/null </dev/null | grep -q '"BackendState": *"Running"'
}

# `funnel_may_stand FUNNEL_PORT`, without the evaluator: the port is mentioned at all.
funnel_may_stand() {
  timeout 20 tailscale funnel status --json >"$WORK/mentioned" 2>/dev/null </dev/null || return 0
  grep -q "[\":]$1\"" "$WORK/mentioned"
}

# While the lease holds, the home still follows what comes in from outside: Immich would else be open to nobody when the owner
# shuts the funnel with Tailscale's own command, or when Tailscale is down; and it is closed again once the funnel is back.
# `open` closes the home before the funnel stands, so it is only looked at while no other run is under way; and with the
# evaluator only when the first look says that something is to be done.
home_follows_funnel() {
  if home_is_by_hand; then return 0; fi
  home_was=$(lan_line)
  [ "$home_was" = closed ] || has_lan_unit || return 0
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  if tailscale_runs && funnel_may_stand "$1"; then home_wanted=closed; else home_wanted=open; fi
  case $home_was:$home_wanted in
    closed:closed) return 0 ;;
    closed:open) ;;
    *:closed) [ -e "$FUNNEL_RECORD" ] || return 0 ;;
    *) return 0 ;;
  esac
  can_lock || return 0
  open_lock
  flock -n 9 || return 0
  FUNNEL=shut
  if tailscale_runs; then read_funnel "$1" "$2"; fi
  case $FUNNEL:$home_wanted in
    shut:open) open_home ;;
    open:closed) if lease_holds; then close_home; fi ;;
    *) ;;
  esac
}

# The ports are those that `open` noted down. Where it never did, there is nothing of ours to close.
enforce_lease() {
  is_ours "$STATE" || return 0
  if lease_holds; then
    home_follows_funnel
    return 0
  fi
  if [ ! -e "$FUNNEL_RECORD" ]; then
    # A run that was killed after it shut the funnel may have left this undone.
    open_home
    return 0
  fi
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  lock_briefly
  if lease_holds; then return 0; fi
  UNDO=stop_edge
  # While tailscaled is down nothing comes in, and this runs again in a minute.
  if ! timeout 20 tailscale funnel status --json >"$WORK/tailscale.log" 2>&1 </dev/null; then
    say "Tailscale does not answer ($(tail -n 1 "$WORK/tailscale.log")), so nothing is open now"
    open_home
    return 0
  fi
  read_funnel "$1" "$2"
  if [ "$TAILSCALE_STATE" != Running ] && [ "$FUNNEL_SHARED" = yes ]; then
    say "Tailscale is not connected (state $TAILSCALE_STATE), so nothing is open now"
    open_home
    return 0
  fi
  close_funnel "$1" "$2"
}

print_status() {
  read_funnel "$1" "$2"
  case $FUNNEL_SHARED in yes) shared=true ;; *) shared=false ;; esac
  printf '{"state":"%s","shared":%s,"url":%s,"lease":"%s"}\n' "$FUNNEL" "$shared" "$(json_string "$(url "$1")")" \
    "$(lease_word)"
}

need_root
verb=${1:-}
[ $# = 0 ] || shift
case $verb in
  open)
    port funnelPort "${1:-}"
    port proxyPort "${2:-}"
    number "The lease in seconds" "${3:-}" 1 604800
    lock
    make_state
    open_funnel "$1" "$2" "$3"
    ;;
  confirm)
    lease=confirmed
    if [ -n "${1:-}" ]; then
      number "The end of the lease" "$1" 1 9999999999
      lease="until $1"
    fi
    lock
    confirm_funnel "$lease"
    ;;
  enforce)
    [ $# = 0 ] || die "\"enforce\" takes its ports from $FUNNEL_RECORD; leave the arguments out."
    enforce_lease
    ;;
  close | status)
    port funnelPort "${1:-}"
    port proxyPort "${2:-}"
    case $verb in
      close)
        lock_briefly
        check_stack
        close_former "$1" "$2"
        close_funnel "$1" "$2"
        ;;
      *) print_status "$1" "$2" ;;
    esac
    ;;
  *) die "funnel.sh knows the verbs open, confirm, close, enforce and status, not \"$verb\"; use one of them." ;;
esac
