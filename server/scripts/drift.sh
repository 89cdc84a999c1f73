# shellcheck shell=sh
# Runs after lib.sh. How an exposure differs from when it was proven.
#
#   look FUNNEL_PORT PROXY_PORT [IMMICH_ADDRESS|- IMMICH_PORT]
#                          prints one line for each difference, and changes nothing; Immich's address and port matter only before
#                          the first run, if an API key is sent along
#
# The first word of a line says who can fix the difference: "funnel" if only the funnel differs, and "mend" if more does, both of
# which the next `pulumi up` fixes; "tell" if only the owner can; and "closed" if only the owner can and the funnel stays closed
# until then. The operator's program judges six more kinds: "clock SECONDS" (since 1970), "version PROGRAM VERSION", "node-key
# END" (ISO 8601, none if it has no end), "proven-for DIGEST" for an open and proven funnel, "device FINGERPRINT NAME" for every
# enrolled device, and "revoked FINGERPRINT SECONDS NAME" for what the owner revoked here. The record is kept next to the
# devices, and a backup restores both together: so the operator's program checks as well who may be in. What one of our timers
# or the owner's own rebuild may change (the certificate, the generation) is not recorded; it is checked against what it must
# be.

# Renewal of the certificate is tried daily from a month before it expires.
CERTIFICATE_DAYS=20

funnel() { printf 'funnel %s\n' "$*"; }
mend() { printf 'mend %s\n' "$*"; }
closed() { printf 'closed %s\n' "$*"; }
tell_owner() { printf 'tell %s\n' "$*"; }

when() { date -d "@$1" '+%A %-d %B at %H:%M'; }
changed_at() { date -r "$1" '+%A %-d %B at %H:%M' 2>/dev/null || echo "an unknown time"; }

# ---- Files of ours

compare_files() {
  sed -n 's/^file [^ ]* [^ ]* [^ ]* //p' "$STANDING" >"$WORK/names"
  file_lines "$WORK/names" >"$WORK/files"
  grep -vxF -f "$WORK/files" "$STANDING" >"$WORK/other" || :
  while read -r look_kind _ _ _ look_path; do
    [ "$look_kind" = file ] || continue
    if [ ! -f "$look_path" ]; then
      mend "$look_path is gone from the server; up puts it back."
    else
      mend "$look_path was changed on the server on $(changed_at "$look_path"); up puts it back."
    fi
  done <"$WORK/other"
}

look_at_import() {
  look_file=$(recorded import)
  if [ -z "$look_file" ] || [ ! -f "$look_file" ] || [ "$(import_state "$look_file" ./immich-exposure)" = active ]; then return 0; fi
  mend "$look_file no longer imports ./immich-exposure, and your next rebuild would end the exposure; up adds the import again."
}

# Only the edge may read the key, whichever certificate it belongs to.
look_at_key() {
  if [ ! -f "$STATE/tls/server.key" ]; then
    mend "The server's certificate is gone from the server; up asks Tailscale for it again."
  elif [ "$(stat -c '%a %U:%G' "$STATE/tls/server.key")" != "640 root:immich-edge" ]; then
    mend "The key of the server's certificate has the wrong mode or owner; up fixes that."
  fi
}

# Without a ban folder the edge refuses every stranger, and one that the bans cannot write to bans nobody.
look_at_folders() {
  know_folders
  state_is_complete || mend "A folder in $STATE is gone from the server, or has the wrong mode or owner; up fixes that."
}

# ---- Devices

shown_by() { if [ "$1" = frame ]; then echo "frame's secret"; else echo certificate; fi; }

compare_devices() {
  device_lines >"$WORK/devices"
  grep -e '^device ' -e '^frame ' "$STANDING" | sort >"$WORK/devices.recorded" || :
  if cmp -s "$WORK/devices" "$WORK/devices.recorded"; then return 0; fi
  comm -13 "$WORK/devices.recorded" "$WORK/devices" | while read -r look_kind look_print look_name; do
    mend "A $(shown_by "$look_kind") was enrolled by hand as \"$look_name\" ($(printf %.12s "$look_print")...); up removes it."
  done
  comm -23 "$WORK/devices.recorded" "$WORK/devices" | while read -r look_kind look_print look_name; do
    # Revoked, by the owner here or by the run that is looking: no `up` enrols it again.
    [ ! -e "$STATE/revoked/$look_print" ] || continue
    mend "A $(shown_by "$look_kind") of $look_name is no longer enrolled ($(printf %.12s "$look_print")...); up enrols it again."
  done
}

# The clock was ahead for a while, and what takes them back (devices.sh expire) has not run since.
look_at_ended() {
  for look_file in "$STATE"/ended/*; do
    [ -f "$look_file" ] || continue
    read_device "$look_file"
    { [ -n "$DEVICE_END" ] && [ "$DEVICE_END" -gt "$(now)" ]; } || continue
    mend "A certificate of $DEVICE_NAME is not accepted although it is valid, because the clock was ahead; up enrols it again."
  done
}

# Revoked by the owner here: the keystore, which survives this folder, must learn of it.
look_at_revoked() {
  { grep -lx "by hand" "$STATE"/revoked/* 2>/dev/null </dev/null || :; } | while IFS= read -r look_file; do
    read -r look_name <"$look_file"
    printf 'revoked %s %s %s\n' "${look_file##*/}" "$(date -r "$look_file" +%s)" "$look_name"
  done
}

# ---- The funnel

look_at_funnel() {
  read_funnel "$1" "$2"
  look_at_other_ports "$1"
  case $FUNNEL in
    open)
      look_at_lease
      return 0
      ;;
    foreign)
      closed "Port $1 serves another tool, so the funnel is closed; remove that entry from Tailscale and run up again."
      return 0
      ;;
    altered)
      is_renamed || funnel "The funnel on port $1 was altered by hand; up closes it and opens it correctly."
      return 0
      ;;
    *) ;;
  esac
  # The funnel's last change: EPOCH closed WHY
  look_note=$(words_of "$LAST_CHANGE")
  case $look_note in
    *" closed lease") funnel "The funnel's lease expired on $(when "${look_note%% *}"); up opens and proves it again." ;;
    *" closed unsafe") funnel "The funnel was closed on $(when "${look_note%% *}") because the exposure was not safe; up opens it again only if it proves to be safe." ;;
    *" closed check") funnel "The last up could not prove the exposure, so the funnel is closed; up tries again." ;;
    *" closed elsewhere") funnel "The funnel was closed with Tailscale's own command, or Tailscale was down (seen on $(when "${look_note%% *}")); up opens and proves it again." ;;
    *) funnel "The funnel was closed on the server; up opens and proves it again." ;;
  esac
}

# An update that failed and was rolled back leaves the same state.
look_at_lease() {
  read_lease
  case $LEASE_IS in
    none) funnel "The funnel was opened by hand, without a lease; up proves the exposure." ;;
    trial) funnel "The last run did not end with a proof, so the funnel closes in $(span "$LEASE_LEFT"); up proves the exposure again." ;;
    *) printf 'proven-for %s\n' "$(recorded proven-for)" ;;
  esac
}

# Reported whoever set it up. A funnel to Immich on a port other than ours is the owner's.
look_at_other_ports() {
  while read -r past_kind past_port past_where _; do
    case $past_where:$past_port in
      *:"$1") ;;
      edge:*) funnel "The edge is also public on port $past_port ($past_kind), bypassing our rules; up closes that." ;;
      *) tell_owner "Immich itself is public on port $past_port ($past_kind), bypassing the edge; close it on the server with" \
        "\"sudo immich-exposure close\", then open the exposure again with \"sudo immich-exposure open\"." ;;
    esac
  done <"$WORK/past"
}

look_at_node() {
  ! is_renamed || mend "The server's name has changed from $RENAMED_FROM to $DOMAIN; up exposes it under the new name."
}

look_at_ends() {
  printf 'node-key %s\n' "$(node_key_end)"
  look_end=$("$LOOK_EDGE" certificate-end --file "$STATE/tls/server.crt" 2>/dev/null </dev/null) || look_end=
  is_count "$look_end" || return 0
  [ $(((look_end - $(now)) / 86400)) -ge "$CERTIFICATE_DAYS" ] ||
    tell_owner "The server's certificate expires on $(when "$look_end") and was not renewed; see why on the server with" \
      "\"journalctl -u immich-exposure-certificate\"."
}

# ---- Immich, and the versions of what runs

look_at_immich() {
  look_upstream=$(module_word immich)
  [ -n "$look_upstream" ] || return 0
  look_recorded=$(recorded immich)
  [ "$look_upstream" = "$look_recorded" ] ||
    mend "Immich's address has changed from $look_recorded to $look_upstream since it was proven; up proves it again."
  if ! immich_answers "$look_upstream"; then
    tell_owner "Immich does not answer at $look_upstream on the server, so shared links do not work; start it."
    return 0
  fi
  look_at_links "$look_upstream"
  if [ "$(immich_initialized "$look_upstream")" = false ]; then
    tell_owner "Immich no longer has an administrator, so the first device to connect could become one; open" \
      "Immich and create the administrator account."
  fi
  print_version immich "$(immich_version "$look_upstream")"
}

# Before the first `up` there is no edge that could ask. A script can check this much, and reads no links. The sentences are
# those of caddy/linkreport.go. (curl gets the key in a file, so that no other account of the server sees it.)
look_at_new_key() {
  command -v payload >/dev/null && payload || return 0
  if ! new_at=$(immich_place "$1" "$2"); then
    tell_owner "Immich does not answer on the server at port $2, so immichApiKey could not be checked; start Immich, or correct immich.port."
    return 0
  fi
  (umask 077 && printf 'header = "x-api-key: %s"\n' "$(head -n 1 "$WORK/api-key")" >"$WORK/curl")
  # A key may always request its own permissions.
  case $(status_with_key "$WORK/rights" "$new_at/api/api-keys/me") in
    401) tell_owner "$KEY_REFUSED" ;;
    200) tell_of_rights ;;
    *)
      case $(status_with_key /dev/null "$new_at/api/shared-links") in
        401) tell_owner "$KEY_REFUSED" ;;
        403) tell_owner "$KEY_LACKS_RIGHT" ;;
        *) ;;
      esac
      ;;
  esac
  rm -f "$WORK/curl" "$WORK/rights"
}

KEY_REFUSED="Immich refuses the API key in immichApiKey; create a new one with the permission sharedLink.read alone."
KEY_LACKS_RIGHT="The API key in immichApiKey lacks the permission sharedLink.read, so nothing is known about Immich's links; give it that permission, and no other."

# `status_with_key FILE ADDRESS` prints the status; the answer is in FILE.
status_with_key() {
  curl --disable --silent --noproxy '*' --proto =http --max-time 10 --max-filesize 1000000 --output "$1" --write-out '%{http_code}' \
    --config "$WORK/curl" "http://$2" 2>/dev/null </dev/null || :
}

tell_of_rights() {
  tr -d ' \n\r\t' <"$WORK/rights" | sed -n 's/.*"permissions":\[\([^]]*\)\].*/\1/p' | tr ',' '\n' | tr -cd 'A-Za-z.\n' >"$WORK/right"
  [ -s "$WORK/right" ] || return 0
  if ! grep -qx -e 'sharedLink\.read' -e all "$WORK/right"; then
    tell_owner "$KEY_LACKS_RIGHT"
    return 0
  fi
  rights_more=$(awk '
    $0 != "" && $0 != "sharedLink.read" && ++count <= 5 { said = said (count > 1 ? ", " : "") $0 }
    END { print said (count > 5 ? " and " count - 5 " more" : "") }' "$WORK/right")
  [ -z "$rights_more" ] || tell_owner "The API key in immichApiKey has more permissions than it needs ($rights_more); create" \
    "one with sharedLink.read alone."
}

print_version() { [ -z "$2" ] || printf 'version %s %s\n' "$1" "$2"; }

look_at_versions() {
  print_version tailscale "$(tailscale_version)"
  print_version caddy "$(edge_version "$LOOK_EDGE")"
}

# What Immich's links allow, if there is an API key: the one that is sent along, which an `up` would install, or the one that is
# here. Each line is a sentence for the owner.
put() { (umask 077 && cat >"$WORK/$2"); }
look_at_links() {
  look_key=$WHO/api-key
  if command -v payload >/dev/null; then payload && look_key=$WORK/api-key; fi
  [ -f "$look_key" ] && [ -n "$LOOK_EDGE" ] || return 0
  timeout 30 "$LOOK_EDGE" who --ask words --state "$STATE" --immich "$1" --key "$look_key" 2>/dev/null </dev/null |
    while IFS= read -r look_sentence; do tell_owner "$look_sentence"; done
}

# ---- Services

look_at_services() {
  has_module "$ROOT/run/current-system" || {
    mend "The running system was built without the module; up adds it again."
    return 0
  }
  has_module "$ROOT/nix/var/nix/profiles/system" ||
    if [ -n "$(recorded import)" ]; then
      mend "The system that boots next was built without the module; up fixes that."
    else
      tell_owner "The system that boots next was built without the module, so the exposure ends at the next reboot; make the" \
        "running system the one that boots (\"sudo nixos-rebuild switch\")."
    fi
  # shellcheck disable=SC2086
  for look_service in $(not_active $SERVICES); do look_at_dead "$look_service"; done
  for unloaded in "$STATE"/settings/.edge.unloaded "$STATE"/settings/.bans.unloaded "$STATE"/.device-ca.unloaded "$STATE"/tls/.unloaded; do
    [ -e "$unloaded" ] || continue
    mend "The running services have not loaded their newest files yet; up loads them."
    break
  done
  look_module=$(module_word digest)
  [ "$look_module" = "$(recorded module)" ] ||
    mend "The running system has a different version of the module from the proven one; up proves it again."
  look_loaded=$(edge_configuration) look_recorded=$(recorded loaded)
  if [ -z "$look_loaded" ] && [ -n "$look_recorded" ] && active immich-edge && edge_hangs; then
    funnel "The edge is running but does not respond, so nobody gets in; up restarts it."
  fi
  [ -z "$look_loaded" ] || [ -z "$look_recorded" ] || [ "$look_loaded" = "$look_recorded" ] ||
    mend "The edge runs with a different configuration from the proven one; up loads the right one."
}

# If a list cannot be updated, the previous one stays in force; only the owner can fix that.
look_at_lists() {
  for look_list in $(lists_wanted); do
    look_unit=$(list_unit "$look_list")
    active "$look_unit" || look_at_dead "$look_unit"
    read_report "$look_list" || :
    case $REPORT in
      good) ;;
      kept) tell_owner "The ban list $look_list is out of date, and keeps $(networks_of "$REPORT_COUNT") banned: $REPORT_SAID." ;;
      *) tell_owner "The ban list $look_list bans nobody: $REPORT_SAID." ;;
    esac
  done
}

# No `up` can start units that the owner's configuration masks, or a table that the kernel does not support.
look_at_dead() {
  if [ -n "$(hand_mask "$1")" ]; then
    mend "$1 is masked ($(hand_mask "$1" | head -n 1)), so it is not running; up unmasks and starts it."
    return 0
  fi
  if is_masked "$1"; then
    tell_owner "$1 $(at_rest "$1")."
    return 0
  fi
  case $1 in
    immich-exposure-loopback.service)
      if systemctl is-failed --quiet "$1" </dev/null; then
        tell_owner "$1 has failed, so other accounts on the server can reach the edge; see \"journalctl -u $1\" there."
      else
        mend "$1 is not running; up starts it."
      fi
      ;;
    *) mend "$1 is not running; up starts it." ;;
  esac
}

look() {
  printf 'clock %s\n' "$(now)"
  if ! is_ours "$STATE"; then
    mend "There is no exposure on the server; up creates it."
    [ -z "${4:-}" ] || look_at_new_key "$3" "$4"
    return 0
  fi
  LOOK_EDGE=$(edge_program)
  look_at_versions
  device_lines | sed 's/^frame /device /'
  look_at_revoked
  # Every up stops if the owner has closed the funnel, so it could not fix anything.
  if is_closed_by_hand; then
    closed "The funnel was closed by hand, so nobody can get in; it stays closed until \"sudo immich-exposure open\" on the server."
    return 0
  fi
  if [ ! -f "$STANDING" ]; then
    mend "The last run did not end with a proof; up proves the exposure again."
    return 0
  fi
  ask_module
  look_at_funnel "$1" "$2"
  look_at_node
  look_at_ends
  look_at_services
  look_at_lists
  look_full=$(full_log)
  [ -z "$look_full" ] || tell_owner "$look_full"
  look_at_immich
  look_at_import
  compare_files
  look_at_key
  look_at_folders
  compare_devices
  look_at_ended
}

need_root
port funnelPort "${2:-}"
port proxyPort "${3:-}"
case ${1:-}:$# in
  look:3) look "$2" "$3" ;;
  look:5)
    check_address "$4"
    port immich.port "$5"
    look "$2" "$3" "$4" "$5"
    ;;
  *) die "drift.sh takes \"look FUNNEL_PORT PROXY_PORT [IMMICH_ADDRESS|- IMMICH_PORT]\", not \"$*\"; correct the arguments." ;;
esac
