# shellcheck shell=sh
# Runs after lib.sh. What has become of an exposure since it was proven.
#
#   record FUNNEL_PORT PROXY_PORT CONFIG_DIR|-   note down what stands now; "-" where the module's files are not ours
#   look   FUNNEL_PORT PROXY_PORT                print one line for each difference, and change nothing
#
# A line begins with "mend" where the next `pulumi up` puts it right, and with "tell" where only the owner can. No line means
# that all is as it was. What a timer of ours or the owner's own rebuild may change (the certificate, the generation) is not
# noted down; it is looked at for what it must be.

RECORD=$STATE/standing

mend() { printf 'mend %s\n' "$*"; }
tell_owner() { printf 'tell %s\n' "$*"; }

when() { date -d "@$1" '+%A %-d %B at %H:%M'; }
changed_at() { date -r "$1" '+%A %-d %B at %H:%M' 2>/dev/null || echo "an unknown time"; }

# ---- Files of ours: "file SHA256 MODE OWNER PATH"

our_files() {
  for our_file in "$STATE"/settings/edge.env "$STATE"/settings/bans.conf "$STATE"/device-ca.crt "$STATE"/domain.env; do
    [ ! -f "$our_file" ] || printf '%s\n' "$our_file"
  done
  [ "$1" = - ] || find "$(configuration_folder "$1")/immich-exposure" -type f 2>/dev/null | sort
}

file_line() { printf 'file %s %s %s\n' "$(sha256sum <"$1" | cut -d ' ' -f 1)" "$(stat -c '%a %U:%G' "$1")" "$1"; }

compare_files() {
  while read -r look_kind look_hash look_mode look_owner look_path; do
    [ "$look_kind" = file ] || continue
    if [ ! -f "$look_path" ]; then
      mend "$look_path is gone from the server; up puts it back."
    elif [ "$(file_line "$look_path")" != "file $look_hash $look_mode $look_owner $look_path" ]; then
      mend "$look_path was changed on the server on $(changed_at "$look_path"); up puts it back."
    fi
  done <"$RECORD"
}

# "import CONFIGURATION": whose import of ours the owner may have taken away unawares, by a `git checkout` say.
import_line() {
  [ "$1" != - ] && [ -f "$1/configuration.nix" ] || return 0
  import_file=$(readlink -f "$1/configuration.nix")
  [ "$(import_state "$import_file" ./immich-exposure)" != active ] || printf 'import %s\n' "$import_file"
}

look_at_import() {
  look_file=$(sed -n 's/^import //p' "$RECORD")
  if [ -z "$look_file" ] || [ ! -f "$look_file" ] || [ "$(import_state "$look_file" ./immich-exposure)" = active ]; then return 0; fi
  mend "$look_file does not import ./immich-exposure any more, and your next rebuild would end the exposure; up adds it again."
}

# The key is the edge's to read and nobody else's, whichever certificate it belongs to.
look_at_key() {
  if [ ! -f "$STATE/tls/server.key" ]; then
    mend "The server's certificate is gone from the server; up asks Tailscale for it again."
  elif [ "$(stat -c '%a %U:%G' "$STATE/tls/server.key")" != "640 root:immich-edge" ]; then
    mend "The key of the server's certificate has another mode or owner than the edge needs; up puts that right."
  fi
}

# ---- Devices: "device FINGERPRINT NAME"

device_lines() {
  for device_file in "$STATE"/devices/* "$STATE"/ended/*; do
    [ -f "$device_file" ] || continue
    device_name=
    read -r device_name <"$device_file" || :
    printf 'device %s %s\n' "${device_file##*/}" "$device_name"
  done | sort
}

compare_devices() {
  device_lines >"$WORK/devices"
  grep '^device ' "$RECORD" | sort >"$WORK/devices.recorded" || :
  comm -13 "$WORK/devices.recorded" "$WORK/devices" | while read -r _ look_print look_name; do
    mend "A certificate was let in by hand as \"$look_name\" ($(printf %.12s "$look_print")...); up takes it out."
  done
  comm -23 "$WORK/devices.recorded" "$WORK/devices" | while read -r _ look_print look_name; do
    mend "A certificate of $look_name is not let in any more ($(printf %.12s "$look_print")...); up lets it in again."
  done
}

# ---- The door

look_at_funnel() {
  read_funnel "$1" "$2"
  case $FUNNEL in
    open) return 0 ;;
    foreign)
      tell_owner "Port $1 serves another tool, so the funnel is shut; remove that entry of Tailscale and run up again."
      return 0
      ;;
    altered)
      mend "The funnel on port $1 was altered by hand; up closes and opens it as it must be."
      return 0
      ;;
    *) ;;
  esac
  # What became of the door last: EPOCH shut WHY
  look_note=$(words_of "$DOOR_NOTE")
  case $look_note in
    *" shut lease") mend "The funnel's lease was over on $(when "${look_note%% *}"); up opens and proves it again." ;;
    *" shut unsafe") mend "The funnel was shut on $(when "${look_note%% *}") because the exposure was not safe; up opens it only once it proves to be." ;;
    *" shut check") mend "The last up could not prove the exposure, so the funnel is shut; up tries to again." ;;
    *) mend "The funnel was shut on the server; up opens and proves it again." ;;
  esac
}

look_at_node() {
  recorded_name=$(recorded_domain)
  [ -z "$recorded_name" ] || [ "$DOMAIN" = - ] || [ "$DOMAIN" = "$recorded_name" ] ||
    mend "The server is called $DOMAIN now and was $recorded_name; up exposes it under the new name."
}

# ---- Services

look_at_services() {
  has_module "$ROOT/run/current-system" || {
    mend "The running system was built without the module; up brings it in again."
    return 0
  }
  for look_service in immich-edge.service immich-bans.service immich-exposure-lease.timer immich-exposure-certificate.timer \
    immich-exposure-devices.timer; do
    active "$look_service" || mend "$look_service does not run; up starts it."
  done
  for unloaded in "$STATE"/settings/.edge.unloaded "$STATE"/settings/.bans.unloaded "$STATE"/.device-ca.unloaded "$STATE"/tls/.unloaded; do
    [ ! -e "$unloaded" ] || mend "What runs has not yet loaded its newest files; up loads them."
  done | sort -u
  look_module=$(module_word digest)
  look_recorded=$(sed -n 's/^module //p' "$RECORD")
  [ "$look_module" = "$look_recorded" ] ||
    mend "The running system has another version of the module than the one that was proven; up proves it again."
}

record() {
  {
    printf 'funnel %s %s\n' "$1" "$2"
    printf 'module %s\n' "$(module_word digest)"
    import_line "$3"
    our_files "$3" | while IFS= read -r our_file; do file_line "$our_file"; done
    device_lines
  } | write_file 0600 "$RECORD"
}

look() {
  if ! is_ours "$STATE"; then
    mend "There is nothing of an exposure on the server; up makes it."
    return 0
  fi
  if [ ! -f "$RECORD" ] && ! is_shut_by_hand; then
    mend "The last run did not end with a proof; up proves the exposure again."
    return 0
  fi
  # Every up stops at a door that the owner has shut, so there is nothing that it could put right.
  if is_shut_by_hand; then
    tell_owner "The funnel was shut by hand; it stays shut until \"sudo immich-exposure open\" on the server."
    return 0
  fi
  look_at_funnel "$1" "$2"
  look_at_node
  look_at_services
  look_at_import
  compare_files
  look_at_key
  compare_devices
}

need_root
port funnelPort "${2:-}"
port proxyPort "${3:-}"
case ${1:-}:$# in
  record:4) lock && record "$2" "$3" "$4" ;;
  look:3) look "$2" "$3" ;;
  *) die "drift.sh knows the verbs record and look, not \"$*\"; use one of them." ;;
esac
