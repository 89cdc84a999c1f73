# shellcheck shell=sh
# Runs after lib.sh and, for install, after a function payload() that calls `put MODE NAME <<'END'` for each file.
# The settings that need no rebuild: edge.env for the edge, bans.conf for fail2ban, guard.conf for guard.sh, which reads it at
# each look (and looks if there is none), uploads.conf for room.sh, if guests may upload.
#
#   install [no-lists]   installs the payload's settings; running units have loaded them, or everything is as it was and this fails.
#                        With "no-lists" the config has no ban lists: any that are here belong to another copy of Pulumi's
#                        state, and are removed

SETTINGS=$STATE/settings
# Each exists while the running unit has not yet loaded its file, so that the next run finishes an interrupted one.
EDGE_UNLOADED=$SETTINGS/.edge.unloaded
BANS_UNLOADED=$SETTINGS/.bans.unloaded

put() {
  case $2 in
    edge.env | bans.conf | guard.conf | uploads.conf) ;;
    *) die "The payload may hold edge.env, bans.conf, guard.conf and uploads.conf, not \"$2\"; remove the other file from it." ;;
  esac
  cat >"$WORK/$2"
  chmod "$1" "$WORK/$2"
}

check_payload() {
  { [ -s "$WORK/edge.env" ] && [ -s "$WORK/bans.conf" ]; } ||
    die "The payload lacks edge.env or bans.conf; send both."
  ! grep -qvx -e 'IMMICH_EXPOSURE_[A-Z0-9_]*=.*' -e '#.*' -e '' "$WORK/edge.env" ||
    die "edge.env holds a line that is not IMMICH_EXPOSURE_NAME=VALUE; correct it and run this again."
  grep -qx '\[DEFAULT\]' "$WORK/bans.conf" ||
    die "bans.conf holds no section [DEFAULT]; correct it and run this again."
  [ ! -e "$WORK/guard.conf" ] || grep -qx -e 'guard on' -e 'guard off' "$WORK/guard.conf" ||
    die "guard.conf says neither \"guard on\" nor \"guard off\"; correct it and run this again."
  [ ! -e "$WORK/uploads.conf" ] || { grep -qx 'floor [1-9][0-9]*' "$WORK/uploads.conf" &&
    ! grep -qvx -e 'floor [1-9][0-9]*' -e 'folder /[A-Za-z0-9._/+@-]*' "$WORK/uploads.conf"; } ||
    die "uploads.conf holds something other than \"floor GIGABYTES\" and \"folder PATH\"; correct it and run this again."
}

put_back() {
  for name in edge.env bans.conf; do
    if [ -f "$WORK/before-$name" ]; then cp -p "$WORK/before-$name" "$SETTINGS/$name"; else rm -f "$SETTINGS/$name"; fi
  done
  # If the edge refuses, it keeps what it had; fail2ban must load the old settings again.
  if [ -e "$BANS_UNLOADED" ] && active immich-bans; then
    systemctl reload-or-restart immich-bans >/dev/null 2>&1 </dev/null || say "immich-bans did not return to its previous settings"
  fi
  rm -f "$EDGE_UNLOADED" "$BANS_UNLOADED"
}

# `place NAME UNLOADED`
place() {
  cmp -s "$WORK/$1" "$SETTINGS/$1" || : >"$2"
  place_mode=$(stat -c 0%a "$WORK/$1")
  write_file "$place_mode" "$SETTINGS/$1" <"$WORK/$1"
}

reload_bans() {
  active immich-bans || return 0
  systemctl reload-or-restart immich-bans </dev/null ||
    die "fail2ban refused the new settings, so the previous ones are back; see why with \"journalctl -u immich-bans\" and run this again."
}

install_settings() {
  payload
  check_payload
  make_state
  for name in edge.env bans.conf; do
    if [ -f "$SETTINGS/$name" ]; then cp -p "$SETTINGS/$name" "$WORK/before-$name"; fi
  done
  cmp -s "$WORK/edge.env" "$SETTINGS/edge.env" || needs_proof
  # shellcheck disable=SC2034
  UNDO=put_back
  place edge.env "$EDGE_UNLOADED"
  place bans.conf "$BANS_UNLOADED"
  if counts_opens; then make_who; fi
  if [ -e "$EDGE_UNLOADED" ]; then
    say "The settings of the edge changed"
    reload_edge
  fi
  if [ -e "$BANS_UNLOADED" ]; then
    say "The settings of the bans changed"
    reload_bans
  fi
  rm -f "$EDGE_UNLOADED" "$BANS_UNLOADED"
  counts_opens || forget_opens
  if [ -e "$WORK/guard.conf" ]; then
    write_file 0644 "$SETTINGS/guard.conf" <"$WORK/guard.conf"
  else
    rm -f "$SETTINGS/guard.conf"
  fi
  if [ -e "$WORK/uploads.conf" ]; then
    write_file 0644 "$SETTINGS/uploads.conf" <"$WORK/uploads.conf"
    # Otherwise the first guests would have to wait for its timer.
    systemctl start --no-block immich-exposure-room.service >/dev/null 2>&1 </dev/null || :
  else
    rm -f "$SETTINGS/uploads.conf"
  fi
  if [ "${1:-}" = no-lists ] && [ -e "$LISTS_CONF" ]; then remove_lists; fi
}

need_root
lock
case $* in
  install | "install no-lists") install_settings "${2:-}" ;;
  *) die "settings.sh knows \"install\" and \"install no-lists\", not \"$*\"; correct the arguments." ;;
esac
