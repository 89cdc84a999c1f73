# shellcheck shell=sh
# Runs after lib.sh, with IMMICH_EDGE naming the edge's program and FLOORS the versions below which a program is not
# safe, a line `PROGRAM LOWEST [REFUSED]...` for each (from server/versions.json).
#
# The guard: repeatedly checks from outside that an exposure is still as it was when `pulumi up` ended.
#
#   look   while the funnel is open, check it as a stranger would; heal it if it is dead, close it if it is unsafe, and notify the
#          owner of both and of what expires soon (a timer of the NixOS module runs this every five minutes)
#   now    the same, and print what was seen (`immich-exposure guard`)
#
# STATE/guard is one line, for status: the time of the last look in seconds since 1970, the result as a word (see
# server/caddy/stranger.go), and a sentence. STATE/guard.memory is what a look must know about earlier ones: "WORD VALUE".
#
# If the exposure is dead, the funnel is removed and set up again; at the next check tailscaled is restarted. Then the owner is
# notified, and nothing is done for an hour, and for twice as long each time after that, up to a day. When it answers again, the
# owner is notified once.

GUARD=$STATE/guard
MEMORY=$STATE/guard.memory
CERTIFICATE=$STATE/tls/server.crt

# A funnel that has just opened: its name may not be in public DNS yet, and `pulumi up` checks it itself.
YOUNG_SECONDS=900
LONGEST_WAIT=86400
RESTART_EVERY=3600
# How long to wait for a repair to take effect.
HEAL_SECONDS=60
# After how many checks in a row the owner is notified that shared links do not work, or that the guard cannot check.
AILING_LOOKS=2
BLIND_LOOKS=12
# New bans within an hour. Every home is always being scanned by a few addresses.
MANY_BANS=20
# Days before an expiry at which the owner is notified; 0 is the expiry itself.
ENDING_DAYS="14 3 0"

# ---- Memory

recall() {
  [ -r "$MEMORY" ] || return 0
  # A word may have a device's name in it, so it is no pattern.
  while read -r recall_word recall_value; do
    [ "$recall_word" != "$1" ] || {
      printf '%s\n' "$recall_value"
      return 0
    }
  done <"$MEMORY"
}

# `remember WORD VALUE`, or `remember WORD` to forget. What cannot be written is only checked again next time.
remember() {
  {
    if [ -r "$MEMORY" ]; then
      while read -r remember_line; do
        [ "${remember_line%% *}" = "$1" ] || printf '%s\n' "$remember_line"
      done <"$MEMORY"
    fi
    [ -z "${2:-}" ] || printf '%s %s\n' "$1" "$2"
  } >"$WORK/memory"
  (write_file 0600 "$MEMORY" <"$WORK/memory") 2>/dev/null || :
}

forget() { for forget_word; do remember "$forget_word"; done; }

# `recall_number WORD`: 0 if there is none.
recall_number() {
  recall_found=$(recall "$1")
  case $recall_found in '' | *[!0-9]* | ???????????*) echo 0 ;; *) echo "$recall_found" ;; esac
}

# `count WORD` adds one and prints the result.
count() {
  count_now=$(($(recall_number "$1") + 1))
  remember "$1" "$count_now"
  echo "$count_now"
}

# `since WORD SECONDS`: at least this many seconds ago, or never, or noted while the clock was ahead.
since() {
  since_then=$(recall_number "$1") since_now=$(now)
  [ "$since_then" -gt "$since_now" ] || [ $((since_now - since_then)) -ge "$2" ]
}

note_look() {
  (printf '%s %s %s\n' "$(now)" "$VERDICT" "$SENTENCE" | write_file 0644 "$GUARD") 2>/dev/null ||
    say "$GUARD cannot be written"
}

# ---- Checking

# `meet FUNNEL_PORT` looks once, and sets VERDICT and SENTENCE.
meet() {
  meet_line=$(timeout 90 "$IMMICH_EDGE" stranger --name "$(recorded_domain)" --port "$1" --certificate "$CERTIFICATE" \
    2>"$WORK/stranger.log" </dev/null) || meet_line=
  VERDICT=${meet_line%% *} SENTENCE=${meet_line#* }
  case $VERDICT in
    healthy | ailing | dead | unsafe | blind) ;;
    *) VERDICT=blind SENTENCE="the check from outside itself failed ($(tail -n 1 "$WORK/stranger.log" | head -c 200))" ;;
  esac
}

# Unsafe and dead are checked twice: a certificate may just be being renewed, or a packet may get lost.
meet_twice() {
  meet "$1"
  case $VERDICT in
    unsafe)
      # A new certificate that is not loaded yet would look foreign: the edge still shows the previous one.
      if [ -e "$STATE/tls/.unloaded" ]; then systemctl reload immich-edge >/dev/null 2>&1 </dev/null || :; fi
      sleep 2
      meet "$1"
      ;;
    dead)
      sleep 10
      meet "$1"
      ;;
    *) ;;
  esac
}

young() {
  young_since=$(date -r "$FUNNEL_RECORD" +%s 2>/dev/null) || return 1
  [ $(($(now) - young_since)) -lt "$YOUNG_SECONDS" ]
}

# tailscaled has started and has not reached its control server yet, which may be down. Until then it serves nothing and reports
# that nothing is configured (reloadServeConfigLocked in tailscale.com/ipn/ipnlocal).
connecting() { case ${TAILSCALE_STATE:-Running} in NoState | Starting) ;; *) return 1 ;; esac }

tailscaled_answers() { timeout 20 tailscale status --json --peers=false >/dev/null 2>&1 </dev/null; }

# ---- Reacting

# Does the same as `immich-exposure close`; only an `up` that proves the exposure opens it again.
close_unsafe() {
  say "The exposure is not safe ($SENTENCE); closing it"
  if ! (close_funnel "$1" "$2" unsafe); then
    say "The funnel cannot be closed; stopping the edge"
    stop_edge
  fi
  tell unsafe "The exposure was closed, because it was not safe: $SENTENCE. It stays closed until pulumi up proves it again."
}

# `step FUNNEL_PORT PROXY_PORT` takes the next step that may help and sets STEPPED, or does nothing. A Tailscale that is
# switched off or logged out is for the owner to repair.
step() {
  STEPPED=
  since wait_since "$(recall_number wait)" || return 0
  step_number=$(count steps)
  STEPPED=yes
  if ! active immich-edge || edge_hangs; then
    say "The edge is not running or does not respond; starting it again"
    systemctl reset-failed immich-edge >/dev/null 2>&1 </dev/null || :
    systemctl restart immich-edge </dev/null || say "The edge does not start; see \"journalctl -u immich-edge\""
  elif ! tailscaled_answers; then
    restart_tailscaled
  elif connecting; then
    # Removing the funnel now would lose it: tailscaled does not know of it yet.
    if [ $((step_number % 2)) = 1 ]; then STEPPED=; else restart_tailscaled; fi
  elif [ "${TAILSCALE_STATE:-Running}" != Running ]; then
    STEPPED=
    step_number=2
    remember steps 2
  elif [ $((step_number % 2)) = 1 ]; then
    off_and_on "$1" "$2"
  else
    restart_tailscaled
  fi
  [ $((step_number % 2)) = 1 ] || wait_longer
}

# Every second step is followed by a pause.
wait_longer() {
  wait_seconds=$(recall_number wait)
  if [ "$wait_seconds" = 0 ]; then wait_seconds=3600; else wait_seconds=$((wait_seconds * 2)); fi
  [ "$wait_seconds" -le "$LONGEST_WAIT" ] || wait_seconds=$LONGEST_WAIT
  remember wait "$wait_seconds"
  remember wait_since "$(now)"
}

restart_tailscaled() {
  since restarted "$RESTART_EVERY" || return 0
  # If it was stopped by hand, it stays stopped.
  active tailscaled || systemctl is-failed --quiet tailscaled </dev/null || return 0
  remember restarted "$(now)"
  say "The exposure does not answer; restarting tailscaled"
  timeout 60 systemctl restart tailscaled </dev/null || say "tailscaled does not start; see \"journalctl -u tailscaled\""
}

# A run that is killed in between leaves its word in the memory; the next one opens the funnel again.
off_and_on() {
  say "The exposure does not answer; closing the funnel and opening it again"
  remember reopen yes
  if [ "$FUNNEL_SHARED" = no ]; then
    timeout 30 tailscale funnel reset >"$WORK/change.log" 2>&1 </dev/null || :
  else
    # As close_entries does if other tools have entries (see lib.sh).
    timeout 30 tailscale serve --bg --yes --tcp "$1" "tcp://127.0.0.1:$2" >"$WORK/change.log" 2>&1 </dev/null || :
    timeout 30 tailscale serve --yes --tcp "$1" off >>"$WORK/change.log" 2>&1 </dev/null || :
  fi
  sleep 2
  on_again "$1" "$2"
}

on_again() {
  timeout 30 tailscale funnel --bg --yes --proxy-protocol 1 --tcp "$1" "tcp://127.0.0.1:$2" >"$WORK/change.log" 2>&1 </dev/null || :
  read_funnel "$1" "$2"
  if [ "$FUNNEL" = open ]; then
    forget reopen
  else
    say "Tailscale did not open the funnel again ($(tr -s '\n' ' ' <"$WORK/change.log"))"
  fi
  # It may have been closed by hand, or its lease may have ended, at this very moment.
  lease_holds || (close_funnel "$1" "$2")
}

# Bounded in time, so that a look ends before the next one is due, however long the edge keeps a stranger waiting.
healed_soon() {
  healed_end=$(($(seconds) + HEAL_SECONDS))
  while [ "$(seconds)" -lt "$healed_end" ]; do
    sleep 10
    meet "$FUNNEL_PORT"
    [ "$VERDICT" = dead ] || return 0
  done
  return 1
}

# `renamed FUNNEL_PORT PROXY_PORT`: nobody has proven the new name, so healing must not open the funnel under it.
renamed() {
  if [ "$FUNNEL" = open ]; then
    VERDICT=unsafe
    SENTENCE="the funnel is open under this server's new name, $DOMAIN, which nobody has proven"
    close_unsafe "$1" "$2"
    note_look
    return 0
  fi
  VERDICT=dead
  SENTENCE="this server's name has changed from $RENAMED_FROM to $DOMAIN, so nobody gets in; run pulumi up, or give it its old name back"
  bad
  forget reopen
  told_once dead dead "The exposure does not answer: $SENTENCE."
  note_look
  say "Seen from here: $VERDICT, $SENTENCE"
}

# ---- Notices

# `told_once WORD KIND SENTENCE` sends a notice once, until WORD is forgotten.
told_once() {
  [ -z "$(recall "told_$1")" ] || return 0
  remember "told_$1" yes
  tell "$2" "$3"
}

well_again() {
  if [ -n "$(recall told_dead)$(recall told_ailing)" ]; then
    tell healed "The exposure answers again, after $((($(now) - $(recall_number bad_since)) / 60 + 1)) minutes."
  elif [ "$(recall_number steps)" -gt 0 ]; then
    tell healed "The exposure did not answer, and works again."
  fi
  forget told_dead told_ailing told_blind bad_since steps wait wait_since ailing_looks blind_looks
}

bad() { [ -n "$(recall bad_since)" ] || remember bad_since "$(now)"; }

dead() {
  # The lease may still be there, on a disk that cannot be written to.
  if [ -e "$EDGE_STOPPED" ] || is_closed_by_hand; then return 0; fi
  if young || [ "${LEASE_IS:-confirmed}" = trial ]; then return 0; fi
  bad
  step "$1" "$2"
  if [ -n "$STEPPED" ] && healed_soon; then
    act_on "$1" "$2"
    return 0
  fi
  case ${TAILSCALE_STATE:-Running} in
    Running) ;;
    *) SENTENCE="Tailscale is not connected on this server (state $TAILSCALE_STATE)" ;;
  esac
  [ "$(recall_number steps)" -lt 2 ] ||
    told_once dead dead "The exposure does not answer: $SENTENCE. Automatic repairs have not helped; they are tried again from time to time."
}

# `act_on FUNNEL_PORT PROXY_PORT` acts on the result of the look.
act_on() {
  case $VERDICT in
    healthy) well_again ;;
    unsafe) close_unsafe "$1" "$2" ;;
    dead) dead "$1" "$2" ;;
    ailing)
      bad
      [ "$(count ailing_looks)" -lt "$AILING_LOOKS" ] ||
        told_once ailing ailing "Strangers are refused as they should be, but shared links do not work: $SENTENCE."
      ;;
    blind)
      [ "$(count blind_looks)" -lt "$BLIND_LOOKS" ] ||
        told_once blind blind "For an hour the server could not check the exposure from outside: $SENTENCE."
      ;;
    *) ;;
  esac
}

look_outside() {
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  FUNNEL_PORT=$1
  if [ -r "$STATE/settings/guard.conf" ] && grep -qx 'guard off' "$STATE/settings/guard.conf"; then
    rm -f "$GUARD"
    return 0
  fi
  if ! lease_holds || [ ! -s "$CERTIFICATE" ]; then
    forget reopen
    return 0
  fi
  FUNNEL=
  if tailscaled_answers; then
    read_funnel "$1" "$2"
    if is_renamed; then
      renamed "$1" "$2"
      return 0
    fi
    case $TAILSCALE_STATE:$FUNNEL:$(recall reopen) in
      Running:closed:yes) on_again "$1" "$2" ;;
      # Closed with Tailscale's own command, or another tool's: not ours to open.
      Running:closed: | *:foreign:*) return 0 ;;
      *) ;;
    esac
  fi
  meet_twice "$1"
  act_on "$1" "$2"
  note_look
  [ "$VERDICT" = healthy ] || say "Seen from outside: $VERDICT, $SENTENCE"
}

# ---- The lease

# Its timer may have been stopped or masked by hand. While a lease holds, it is started again; if it does not start, each look
# ends a lease that has expired. (A destroy closes the funnel before it stops the timer, so this does not start it again.)
keep_lease() {
  if [ -f "$BY_HAND" ]; then return 0; fi
  if ! lease_holds; then
    # If a funnel cannot be closed, the rest is looked at all the same.
    (end_lease) || :
  elif active "$LEASE_TIMER"; then
    forget told_lease
  else
    restore_lease_timer
  fi
}

restore_lease_timer() {
  say "$LEASE_TIMER, which ends the funnel's lease, is not running; starting it again"
  # The mask may be where this unit cannot write.
  (unmask "$LEASE_TIMER") 2>/dev/null || :
  systemctl start "$LEASE_TIMER" >/dev/null 2>&1 </dev/null || :
  if active "$LEASE_TIMER"; then
    tell lease "The timer that ends the funnel's lease had been stopped, and runs again."
  else
    told_once lease lease "$LEASE_TIMER $(at_rest "$LEASE_TIMER"). Until then a lease may end up to five minutes late."
  fi
}

# ---- Expiries, bans and devices

# `ending NAME END SENTENCE` sends one notice at each of the days before the end; a later end starts over.
ending() {
  case $2 in '' | *[!0-9]*) return 0 ;; *) ;; esac
  ending_left=$((($2 - $(now) + 86399) / 86400)) ending_at=
  for ending_days in $ENDING_DAYS; do [ "$ending_left" -gt "$ending_days" ] || ending_at=$ending_days; done
  if [ -z "$ending_at" ]; then
    [ -z "$(recall "ends_$1")" ] || remember "ends_$1"
  elif [ "$(recall "ends_$1")" != "$ending_at" ]; then
    remember "ends_$1" "$ending_at"
    if [ "$ending_at" = 0 ]; then ending_word="has expired"; else ending_word="expires within $ending_left days"; fi
    tell ending "$3 $ending_word."
  fi
}

look_at_ends() {
  ending server "$(timeout 30 "$IMMICH_EDGE" certificate-end --file "$CERTIFICATE" 2>/dev/null </dev/null)" \
    "The server's certificate was not renewed (see \"journalctl -u immich-exposure-certificate\") and"
  timeout 20 tailscale status --json --peers=false >"$WORK/status.json" 2>/dev/null </dev/null || :
  node_end=$(node_key_end)
  # Empty if the owner has disabled key expiry.
  [ -z "$node_end" ] || node_end=$(date -d "$node_end" +%s 2>/dev/null) || node_end=
  ending node "$node_end" \
    "The node key of this server, without which Tailscale closes the funnel (disable its expiry at login.tailscale.com),"
  # Where no device is enrolled, awk finds no file.
  { awk 'FNR == 1' "$STATE"/devices/* 2>/dev/null || :; } | sort | uniq -d >"$WORK/renewed"
  for device_file in "$STATE"/devices/*; do
    [ -f "$device_file" ] || continue
    read_device "$device_file"
    # If a device was just renewed, only its newer certificate matters.
    ! grep -qxF -e "$DEVICE_NAME" "$WORK/renewed" || continue
    ending "device_$DEVICE_NAME" "$DEVICE_END" "The certificate of the device $DEVICE_NAME"
  done
}

# Servers are upgraded and downgraded without an operator, and a newer module knows of vulnerabilities that this one did not.
look_at_versions() {
  printf '%s\n' "$FLOORS" >"$WORK/floors"
  while read -r floor_of floor_lowest floor_refused; do
    case $floor_of in
      immich) floor_name=Immich floor_runs=$(immich_version "$(immich_behind)") ;;
      tailscale) floor_name=Tailscale floor_runs=$(tailscale_version) ;;
      caddy) floor_name="Caddy in the edge" floor_runs=$(edge_version "$IMMICH_EDGE") ;;
      *) continue ;;
    esac
    if [ -z "$floor_runs" ] || is_safe "$floor_runs" "$floor_lowest" "$floor_refused"; then continue; fi
    [ "$(recall "outdated_$floor_of")" != "$floor_runs" ] || continue
    remember "outdated_$floor_of" "$floor_runs"
    tell outdated "$floor_name is version $floor_runs, which has known vulnerabilities; upgrade it to $floor_lowest or newer."
  done <"$WORK/floors"
}

# `is_safe VERSION LOWEST REFUSED`
is_safe() {
  case " $3 " in *" $1 "*) return 1 ;; *) ;; esac
  [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

look_at_bans() {
  # shellcheck disable=SC2086
  bans_count=$( (cd "$STATE/bans" && find $JAILS -type f -cmin -60) 2>/dev/null | wc -l)
  if [ "$bans_count" -gt "$MANY_BANS" ] && since bans_told 21600; then
    remember bans_told "$(now)"
    tell bans "$bans_count addresses were banned within an hour (see \"immich-exposure bans\")."
  fi
}

look_at_log() {
  log_full=$(full_log)
  if [ -n "$log_full" ]; then told_once log_full log "$log_full"; else forget told_log_full; fi
}

# Each list is reported once, until it is in order again.
look_at_lists() {
  for list_name in $(lists_wanted); do
    read_report "$list_name" || :
    active "$(list_unit "$list_name")" || REPORT=stopped REPORT_SAID="$(list_unit "$list_name") is not running"
    if [ "$REPORT" = good ]; then
      [ -z "$(recall "told_list_$list_name")" ] || tell lists "The ban list $list_name is up to date again."
      forget "told_list_$list_name"
    elif [ "$REPORT" = none ]; then
      told_once "list_$list_name" lists "The ban list $list_name bans nobody: $REPORT_SAID."
    else
      told_once "list_$list_name" lists "The ban list $list_name is out of date, and what it bans stays banned: $REPORT_SAID."
    fi
  done
}

# The names are those of certificates that the edge has verified. The log belongs to the edge's user, so nothing else is taken
# from it.
look_at_devices() {
  device_log=$LOGS/devices.log
  if [ ! -f "$device_log" ] || [ -L "$device_log" ]; then return 0; fi
  tail -c 2000000 "$device_log" 2>/dev/null |
    sed -n 's/.*"client_common_name":"\([A-Za-z0-9 ._-]\{1,64\}\)".*"client_serial":"\([0-9]\{1,60\}\)".*/\2 \1/p' | sort -u >"$WORK/seen"
  while read -r seen_serial seen_name; do
    [ -z "$(recall "seen_$seen_serial")" ] || continue
    remember "seen_$seen_serial" yes
    tell seen "The device $seen_name connected for the first time."
  done <"$WORK/seen"
}

look() {
  if ! is_ours "$STATE" || ! can_lock; then return 0; fi
  open_lock
  # A server that is being changed is checked when the change is done. If tailscaled hangs, the minute timer takes this long,
  # too.
  flock -w 60 9 || return 0
  # shellcheck disable=SC2034
  LOCK_HELD=yes
  keep_lease
  look_outside
  look_at_ends
  look_at_versions
  look_at_bans
  look_at_log
  look_at_lists
  look_at_devices
}

# Prints the result of the last check, from the record, for people.
print_look() {
  if [ -r "$GUARD" ]; then
    read -r print_time print_rest <"$GUARD"
    printf '%s: %s\n' "$(date -d "@$print_time")" "$print_rest"
  else
    say "Nothing was checked: the exposure is closed, or the config says guard: false"
  fi
}

need_root
case ${1:-} in
  look) look ;;
  now)
    look
    print_look
    ;;
  *) die "guard.sh knows the verbs look and now, not \"${1:-}\"; use one of them." ;;
esac
