# shellcheck shell=sh
# Runs after lib.sh. The NixOS configuration, changed so that a mistake cannot stay.
#
#   apply CONFIG_DIR PROXY_PORT IMMICH_PORT   Immich behind the edge: ./expose-immich.nix instead of ./lan-immich.nix
#   restore CONFIG_DIR IMMICH_PORT            Immich on the LAN as before; configuration.nix is byte for byte what it was
#
# Both print {"generation":N}. The story is the same: swap the import, build, pre-switch checks (the module lets Caddy
# validate its real files there), activate as a test with a roll-back timer armed, look at the result from the server
# itself, and only then make it the generation that boots. Anything else ends in the generation and the configuration.nix
# from before. NixOS itself does none of this: `nixos-rebuild switch` sets the profile first and leaves it there.

PROFILE=$ROOT/nix/var/nix/profiles/system
CURRENT_SYSTEM=$ROOT/run/current-system
REBUILD_LOG=$STATE/rebuild.log
# The user's configuration.nix from before our change, what we made of it, and what it was when this run began.
BEFORE=$STATE/configuration.nix.before
AFTER=$STATE/configuration.nix.after
AT_START=$STATE/configuration.nix.rollback
ROLLBACK=$STATE/rollback.sh
# Longer than an activation and all the waiting below can take.
ROLLBACK_SECONDS=900

# ---- configuration.nix

replace_configuration() {
  replace_temp=$(mktemp "${CONFIG%/*}/.immich-exposure.XXXXXX")
  cp -p "$CONFIG" "$replace_temp"
  if ! cat "$1" >"$replace_temp"; then
    rm -f "$replace_temp"
    die "$CONFIG could not be written; make room on its disk and run this again."
  fi
  mv -f "$replace_temp" "$CONFIG"
}

# Copies may hold whatever the user keeps in configuration.nix, so they are root's alone.
keep_copy() {
  cat "$1" >"$WORK/copy"
  write_file 0600 "$2" <"$WORK/copy"
}

swap_in() {
  case $(import_state "$CONFIG" ./lan-immich.nix):$(import_state "$CONFIG" ./expose-immich.nix) in
    active:active)
      die "$CONFIG imports both ./lan-immich.nix and ./expose-immich.nix, which exclude each other; remove one of them."
      ;;
    *:active) say "$CONFIG imports ./expose-immich.nix already" ;;
    active:*)
      say "Swapping the import of ./lan-immich.nix for ./expose-immich.nix in $CONFIG"
      swap_import "$CONFIG" ./lan-immich.nix ./expose-immich.nix >"$WORK/after"
      keep_copy "$CONFIG" "$BEFORE"
      keep_copy "$WORK/after" "$AFTER"
      SWAPPED=yes
      replace_configuration "$AFTER"
      ;;
    *)
      die "$CONFIG imports neither ./lan-immich.nix nor ./expose-immich.nix (a commented line does not count); add" \
        "./lan-immich.nix to its imports and run this again."
      ;;
  esac
}

swap_out() {
  if [ -f "$BEFORE" ] && cmp -s "$CONFIG" "$AFTER"; then
    say "Putting $CONFIG back as it was"
    replace_configuration "$BEFORE"
  elif [ "$(import_state "$CONFIG" ./expose-immich.nix)" = active ]; then
    [ "$(import_state "$CONFIG" ./lan-immich.nix)" != active ] ||
      die "$CONFIG imports both ./lan-immich.nix and ./expose-immich.nix; remove ./expose-immich.nix and run this again."
    say "$CONFIG was edited since; only its import goes back to ./lan-immich.nix"
    swap_import "$CONFIG" ./expose-immich.nix ./lan-immich.nix >"$WORK/after"
    replace_configuration "$WORK/after"
  fi
}

# ---- Building and activating

fail_with_log() {
  tail -n 15 "$REBUILD_LOG" | cut -c 1-400 | sed 's/^/  | /' >&2 || :
  die "$* The lines above are the end of $REBUILD_LOG."
}

# `reject REASON`: what was looked at is not as it must be.
reject() {
  [ "$STARTED" = yes ] || die "This configuration was active before, but $1; mend that and run this again."
  fail_with_log "The new configuration was taken back, because $1."
}

build() {
  say "Building the configuration (the first time on a small machine this can take a while)"
  mkdir "$WORK/build"
  build_with=
  [ "$CONFIG_DIR" = /etc/nixos ] || build_with="-I nixos-config=$CONFIG_DIR/configuration.nix"
  # shellcheck disable=SC2086
  (cd "$WORK/build" && nixos-rebuild build $build_with) >>"$REBUILD_LOG" 2>&1 </dev/null ||
    fail_with_log "The configuration does not build; correct what Nix reports and run this again."
  RESULT=$(readlink -f "$WORK/build/result")
  [ -x "$RESULT/bin/switch-to-configuration" ] ||
    fail_with_log "nixos-rebuild left no system to activate; run \"nixos-rebuild build\" in $CONFIG_DIR to see why."
}

already_running() {
  [ "$(readlink -f "$CURRENT_SYSTEM")" = "$RESULT" ] && [ "$(readlink -f "$PROFILE")" = "$RESULT" ]
}

# `in_unit NAME COMMAND...`: away from the SSH connection, which the change may cut.
in_unit() {
  unit_name=$1
  shift
  systemd-run --quiet --wait --collect --service-type=exec --unit="immich-exposure-$unit_name-$$" --setenv=PATH="$PATH" \
    --setenv=NIXOS_INSTALL_BOOTLOADER= --property=StandardOutput="append:$REBUILD_LOG" \
    --property=StandardError="append:$REBUILD_LOG" "$@" </dev/null
}

failed_units() { systemctl --failed --plain --no-legend --full </dev/null | awk '{ print $1 }' | sort; }

check_before_switch() {
  "$RESULT/bin/switch-to-configuration" check >>"$REBUILD_LOG" 2>&1 </dev/null ||
    fail_with_log "The checks before the switch failed, and nothing was changed; correct what they report and run this again."
}

activate_as_test() {
  failed_units >"$WORK/failed-before"
  say "Activating it as a test"
  STARTED=yes
  activate_status=0
  in_unit rebuild "$RESULT/bin/switch-to-configuration" test || activate_status=$?
  case $activate_status in
    0) ;;
    4)
      # Also given for a unit that had failed long before; only new failures count.
      failed_units >"$WORK/failed-after"
      newly_failed=$(comm -13 "$WORK/failed-before" "$WORK/failed-after" | tr '\n' ' ')
      [ -z "$newly_failed" ] ||
        reject "these units failed in it: ${newly_failed% }"
      # After a reload that failed Caddy runs on with its old configuration, and all the looking would be at that.
      case $(systemctl show --property=ReloadResult --value caddy </dev/null) in
        '' | success) ;;
        *) reject "caddy did not take over its new configuration (see \"journalctl -u caddy\")" ;;
      esac
      ;;
    *) reject "its activation failed (exit status $activate_status)" ;;
  esac
}

make_default() {
  say "Making it the configuration that boots"
  nix-env --profile "$PROFILE" --set "$RESULT" >>"$REBUILD_LOG" 2>&1 </dev/null ||
    fail_with_log "The new generation could not be recorded in $PROFILE; make room on its disk and run this again."
  switch_status=0
  in_unit switch "$RESULT/bin/switch-to-configuration" switch || switch_status=$?
  case $switch_status in
    0 | 4) ;;
    *) reject "the switch failed (exit status $switch_status)" ;;
  esac
}

# ---- The way back

# The same few lines serve the timer and a failure seen by this script.
arm_rollback() {
  cat >"$WORK/rollback" <<'END'
# sh rollback.sh COPY CONFIGURATION PROFILE LINK SYSTEM: bring back configuration.nix, the generation that boots, the system.
cat "$1" >"$2"
action=test
if [ "$(readlink "$3")" != "$4" ]; then
  generation=${4#system-}
  nix-env --profile "$3" --switch-generation "${generation%-link}"
  action=switch
fi
exec "$5/bin/switch-to-configuration" "$action"
END
  write_file 0600 "$ROLLBACK" <"$WORK/rollback"
  OLD_LINK=$(readlink "$PROFILE") ||
    fail_with_log "$PROFILE is not a link to a generation, so nothing could bring it back; run \"nixos-rebuild boot\" once."
  OLD_SYSTEM=$(readlink -f "$CURRENT_SYSTEM")
  disarm_rollback
  systemd-run --quiet --collect --unit=immich-exposure-rollback --on-active="$ROLLBACK_SECONDS" --service-type=oneshot \
    --setenv=PATH="$PATH" sh "$ROLLBACK" "$AT_START" "$CONFIG" "$PROFILE" "$OLD_LINK" "$OLD_SYSTEM" </dev/null >>"$REBUILD_LOG" 2>&1 ||
    fail_with_log "The roll-back timer could not be set, so nothing was changed; look at \"systemctl --failed\"."
}

# A run that was killed has left its change half-way, its timer armed and its files in STATE. This run would put its own
# files in their place, and the configuration that nobody looked at would stay: so first everything goes back.
finish_rollback() {
  rollback_is_pending || return 0
  say "An earlier run was killed in its midst; going back to where it began"
  systemctl start immich-exposure-rollback.service </dev/null ||
    say "The way back reported problems; see \"journalctl -u immich-exposure-rollback\""
  disarm_rollback
}

# Armed, or on its way already: then starting it only waits for its end.
rollback_is_pending() {
  active immich-exposure-rollback.timer ||
    [ "$(systemctl is-active immich-exposure-rollback.service </dev/null)" = activating ]
}

disarm_rollback() {
  systemctl stop immich-exposure-rollback.timer >/dev/null 2>&1 </dev/null || :
}

roll_back() {
  if [ "$STARTED" = yes ]; then
    say "Going back to the generation from before"
    in_unit rollback sh "$ROLLBACK" "$AT_START" "$CONFIG" "$PROFILE" "$OLD_LINK" "$OLD_SYSTEM" ||
      say "The way back reported problems; see $REBUILD_LOG"
    disarm_rollback
  fi
  cmp -s "$AT_START" "$CONFIG" || replace_configuration "$AT_START"
  if [ "$SWAPPED" = yes ]; then rm -f "$BEFORE" "$AFTER"; fi
  rm -f "$AT_START" "$ROLLBACK"
}

# ---- Looking at the result, from the server itself

immich_answers() {
  curl --silent --fail --noproxy '*' --max-time 5 "http://127.0.0.1:$1/api/server/ping" 2>/dev/null </dev/null |
    grep -q pong
}

# `edge PATH [OPTION...]` prints the status Caddy answers with, 000 for none; the body is in WORK/body. What Caddy serves must
# be the certificate in STATE/tls, so that file is all curl trusts.
edge() {
  edge_path=$1
  shift
  : >"$WORK/body"
  curl --silent --noproxy '*' --max-time 10 --cacert "$STATE/tls/server.crt" --resolve "$DOMAIN:$PROXY_PORT:127.0.0.1" \
    --output "$WORK/body" --write-out '%{http_code}' "$@" "https://$DOMAIN:$PROXY_PORT$edge_path" </dev/null || :
}

edge_allows() { [ "$(edge "$1" --haproxy-protocol)" = 200 ]; }

# With "strangers": "drop" the edge refuses by hanging up.
edge_drops() { grep -q '"strangers": *"drop"' "$CONFIG_DIR/immich-exposure/settings.json"; }

edge_refuses() {
  edge_status=$(edge "$1" --haproxy-protocol)
  if edge_drops; then
    [ "$edge_status" = 000 ]
  else
    [ "$edge_status" = 403 ] && grep -q '"status":403' "$WORK/body"
  fi
}

need_active() {
  for service in caddy fail2ban; do
    active "$service" ||
      reject "$service does not run (see \"journalctl -u $service\")"
  done
}

check_edge() {
  say "Looking at the edge from the server itself"
  # A funnel that could not be shut may have stopped Caddy (see funnel.sh).
  active caddy || systemctl start caddy >/dev/null 2>&1 </dev/null || :
  # A restart of Caddy can succeed and Caddy end a moment later, so it is asked again at the end.
  need_active
  wait_for 180 immich_answers "$IMMICH_PORT" ||
    reject "Immich does not answer on port $IMMICH_PORT"
  refusal="answer 403"
  ! edge_drops || refusal="hang up"
  # First that it answers at all: silence is then a refusal.
  wait_for 20 edge_allows /api/server/config ||
    reject "/api/server/config does not pass the edge"
  for refused in / /api/users/me; do
    wait_for 20 edge_refuses "$refused" ||
      reject "the edge does not $refusal for $refused without a certificate"
  done
  [ "$(edge /)" = 000 ] ||
    reject "the edge talks to connections without a PROXY header"
  sleep 2
  need_active
}

check_lan() {
  wait_for 180 immich_answers "$IMMICH_PORT" ||
    reject "Immich does not answer on port $IMMICH_PORT"
}

# ---- The two verbs

begin() {
  [ -e "$ROOT/etc/NIXOS" ] || die "This server does not run NixOS; set host to the NixOS machine that runs Immich."
  [ -f "$CONFIG_DIR/configuration.nix" ] ||
    die "There is no $CONFIG_DIR/configuration.nix; set configDir to the folder that holds it."
  CONFIG=$(readlink -f "$CONFIG_DIR/configuration.nix")
  make_state
  finish_rollback
  : >"$WORK/empty"
  write_file 0600 "$REBUILD_LOG" <"$WORK/empty"
  SWAPPED=no STARTED=no
  keep_copy "$CONFIG" "$AT_START"
  UNDO=roll_back
}

# `change CHECK`: from a changed configuration.nix to a generation that passed CHECK.
change() {
  build
  if already_running; then
    say "This configuration is active already"
    "$1"
  else
    check_before_switch
    arm_rollback
    activate_as_test
    "$1"
    make_default
    disarm_rollback
  fi
  UNDO=:
  rm -f "$AT_START" "$ROLLBACK"
  generation=$(readlink "$PROFILE")
  generation=${generation#system-}
  printf '{"generation":%s}\n' "${generation%-link}"
}

apply() {
  begin
  DOMAIN=$(cat "$CONFIG_DIR/immich-exposure/domain") ||
    die "There is no $CONFIG_DIR/immich-exposure/domain yet; get the server's certificate first."
  swap_in
  change check_edge
}

restore() {
  # shellcheck disable=SC2046
  close_funnel $(recorded_ports)
  if [ ! -f "$BEFORE" ] && [ "$(import_state "$CONFIG_DIR/configuration.nix" ./expose-immich.nix)" != active ]; then
    say "Nothing of the exposure is in $CONFIG_DIR/configuration.nix"
    return 0
  fi
  begin
  swap_out
  change check_lan
  rm -f "$BEFORE" "$AFTER"
}

need_root
verb=${1:-}
CONFIG_DIR=${2:-}
case $verb:$CONFIG_DIR in
  apply:/*)
    PROXY_PORT=${3:-} IMMICH_PORT=${4:-}
    port proxyPort "$PROXY_PORT"
    ;;
  restore:/*) IMMICH_PORT=${3:-} ;;
  *)
    die "apply.sh takes \"apply CONFIG_DIR PROXY_PORT IMMICH_PORT\" or \"restore CONFIG_DIR IMMICH_PORT\" with an absolute path;" \
      "correct the arguments."
    ;;
esac
port immichPort "$IMMICH_PORT"
lock
"$verb"
