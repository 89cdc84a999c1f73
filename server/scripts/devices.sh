# shellcheck shell=sh
# Runs after lib.sh and, for install, after a function payload() that calls `put MODE devices` and `put MODE revoked`.
# The enrolled devices: one file per certificate in STATE/devices, named by its SHA-256 fingerprint. It holds the device's name
# and, on a second line, `until EPOCH`: the end of the certificate's validity. A frame, which sends a secret instead of a
# certificate, has a file there as well, named by the secret's SHA-256; its second line is `frame`. The edge looks for the file
# at every request, so a change applies at once, without a reload. STATE/revoked holds revoked certificates and secrets in the
# same form: they are never let in again, whatever a keystore, a backup or the state says. A line `by hand` means that the owner
# revoked it here.
#
#   stay AUTHORITIES|- NAME|frame=NAME|revoked=FINGERPRINT|by-hand=FINGERPRINT...
#              revokes all of this stack's devices and frames except these, and certificates that were revoked and have come back
#              with a backup. It is the first thing that a run does, so it needs no lock, no keystore and no space on the disk. A
#              stack that has lost its state and takes the server over proves by AUTHORITIES, separated by commas, that the
#              devices are its own: the server trusts one of them.
#   install    makes the enrolled devices equal to the payload, lines `FINGERPRINT UNTIL|frame NAME`. Its file `revoked`, lines
#              `FINGERPRINT SINCE up|hand NAME`, lists what the operator knows to be revoked.
#   clear      removes all devices without revoking them
#   revoke NAME  revokes this device for good, for the owner
#   list       lists enrolled and revoked devices, for people
#   expire     removes expired devices (run by a timer)
#
# `stay`, `install` and `clear` print one JSON object, so that the operator remembers who was revoked: devices, revoked, and
# refused: the fingerprints of the payload that are revoked.

DEVICES=$STATE/devices
# Expired files are kept here until their device is enrolled again or revoked: the clock may have been years ahead.
ENDED=$STATE/ended
REVOKED=$STATE/revoked
# Begins the name of a revoked file in DEVICES or ENDED for which REVOKED had no space.
WAITING=.revoked-
# The fingerprints of the payload that were not let in.
REFUSED=

check_name() {
  case $1 in
    '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*)
      die "A device's name starts with a letter or digit and contains only letters, digits, \".\", \"_\" and \"-\", unlike" \
        "\"$1\"; choose a name such as \"phone\"."
      ;;
  esac
  [ "${#1}" -le 64 ] || die "A device's name has at most 64 characters; choose a shorter one than \"$1\"."
}

check_fingerprint() {
  case $1 in
    *[!0-9a-f]*) ;;
    *) [ "${#1}" != 64 ] || return 0 ;;
  esac
  die "A fingerprint is the SHA-256 of the certificate, 64 digits 0-9 and a-f in lower case, unlike \"$1\"; correct it."
}

# ---- Revoking

# `shut_out FILE` revokes what the file enrols. Moving the file needs no space on the disk, and where it does, another name in
# the same folder counts for nobody until it can be moved; if even that fails, removing it is enough.
shut_out() {
  [ -d "$REVOKED" ] || mkdir -m 0755 "$REVOKED" 2>/dev/null || :
  shut_out_as=$REVOKED/${1##*/}
  mv -f "$1" "$shut_out_as" 2>/dev/null || {
    shut_out_as=${1%/*}/$WAITING${1##*/}
    mv -f "$1" "$shut_out_as" 2>/dev/null
  } || shut_out_as=
  if [ -n "$shut_out_as" ]; then
    touch "$shut_out_as" 2>/dev/null || :
  else
    rm -f "$1" 2>/dev/null || shut_out_all "${1##*/}"
    say "$STATE has no space left to record that the $DEVICE_HAS ${1##*/} was revoked"
  fi
}

# Moves to REVOKED what had to wait for space there.
finish_shut_out() {
  for waiting_file in "$DEVICES/$WAITING"* "$ENDED/$WAITING"*; do
    [ -f "$waiting_file" ] || continue
    [ -d "$REVOKED" ] || mkdir -m 0755 "$REVOKED" 2>/dev/null || :
    mv -f "$waiting_file" "$REVOKED/${waiting_file##*/"$WAITING"}" 2>/dev/null || :
  done
}

# So that a power cut soon after does not enrol again what was revoked. A dying disk may take for ever, so nothing waits for this.
keep_out() { (sync "$DEVICES" "$REVOKED" >/dev/null 2>&1 </dev/null 9>&- &); }

# A read-only disk must not keep a lost phone enrolled. The edge would start again with the next boot, so the funnel closes too.
shut_out_all() {
  touch "$EDGE_STOPPED" 2>/dev/null || :
  end_edge
  shut_cure="check the disk of $STATE (is it mounted read-only?) and run this again"
  if close_for_good; then
    die "The device's file $1 cannot be removed, so the edge was stopped and the funnel closed, and nobody gets in, also after a" \
      "reboot; $shut_cure."
  fi
  die "The device's file $1 cannot be removed, so the edge was stopped and nobody gets in until this server reboots. After that the" \
    "device gets in again, because Tailscale did not confirm that the funnel stays closed; $shut_cure, or remove this node's funnel" \
    "attribute from the tailnet's policy file before the reboot."
}

# Tailscale's folder may be on another disk.
close_for_good() {
  { [ -n "$WORK" ] && tailscale_saves; } || return 1
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  lock_briefly
  (close_funnel "$1" "$2" unsafe) || return 1
  (read_funnel "$1" "$2" && tailscale_knows && case $FUNNEL in closed | foreign) ;; *) exit 1 ;; esac) 2>/dev/null
}

# Reports each device once, however many certificates it has.
TOLD=" "
tell_out() {
  case $TOLD in *" $1 "*) return 0 ;; esac
  TOLD="$TOLD$1 "
  keep_out
  say "$1 is revoked: its $DEVICE_HAS is never accepted again"
}

stay() {
  is_ours "$STATE" && [ -d "$DEVICES" ] || return 0
  # Another stack's devices are not this run's business; whether it may take over is checked later.
  ! read_owner || [ "$OWNER_ID" = "$STACK" ] || trusts_one_of "$1" || return 0
  shift
  finish_shut_out
  for device_file in "$DEVICES"/* "$ENDED"/*; do
    [ -f "$device_file" ] || continue
    read_device "$device_file"
    stay_by_hand=no stay_as=$DEVICE_NAME
    [ "$DEVICE_HAS" = certificate ] || stay_as=frame=$DEVICE_NAME
    if is_one_of "by-hand=${device_file##*/}" "$@"; then
      stay_by_hand=yes
    elif ! is_one_of "revoked=${device_file##*/}" "$@" && is_one_of "$stay_as" "$@"; then
      continue
    fi
    shut_out "$device_file"
    [ "$stay_by_hand" = no ] || note_by_hand
    if is_one_of "$stay_as" "$@"; then
      say "A revoked $DEVICE_HAS of $DEVICE_NAME had come back and is revoked again"
    else
      tell_out "${DEVICE_NAME:-A device without a name}"
    fi
  done
}

# Of what was shut out last.
note_by_hand() { [ -z "$shut_out_as" ] || { echo "by hand" >>"$shut_out_as"; } 2>/dev/null || :; }

# `trusts_one_of FINGERPRINT,FINGERPRINT...`
trusts_one_of() {
  for trusted in $(pool_fingerprints); do
    case ",$1," in *",$trusted,"*) return 0 ;; esac
  done
  return 1
}

revoke_by_hand() {
  revoked_any=no
  for device_file in "$DEVICES"/* "$ENDED"/*; do
    [ -f "$device_file" ] || continue
    read_device "$device_file"
    [ "$DEVICE_NAME" = "$1" ] || continue
    shut_out "$device_file"
    note_by_hand
    revoked_any=yes
  done
  [ "$revoked_any" = yes ] || refuse_unknown "$1"
  tell_out "$1"
  say "Also write \"revoked: true\" beside $1 in the stack's devices or frames, or remove it there"
}

refuse_unknown() {
  for device_file in "$REVOKED"/*; do
    [ -f "$device_file" ] || continue
    read_device "$device_file"
    [ "$DEVICE_NAME" != "$1" ] || die "$1 was already revoked, on $(date -r "$device_file" '+%Y-%m-%d at %H:%M'); nothing is left to revoke."
  done
  known=$(names_in "$DEVICES" | sort -u | tr '\n' ' ')
  die "No device $1 is enrolled on this server; name one of: ${known:-none}."
}

names_in() {
  for device_file in "$1"/*; do
    [ -f "$device_file" ] || continue
    read_device "$device_file"
    printf '%s\n' "$DEVICE_NAME"
  done
}

# ---- Enrolling

put() {
  case $2 in
    devices | revoked) cat >"$WORK/$2" ;;
    *) die "The payload may only hold devices and revoked, not \"$2\"; remove the other file from it." ;;
  esac
}

install_devices() {
  : >"$WORK/revoked"
  payload
  [ -f "$WORK/devices" ] || die "The payload holds no list of devices; send the file devices."
  check_payload
  shut_revoked_out
  make_state
  remember_revoked
  installed=" " names=
  while read -r fingerprint end name; do
    installed="$installed$fingerprint " names="$names $name"
    enrol "$name" "$fingerprint" "$end"
  done <"$WORK/devices"
  # Only now, with the new certificates in force, remove all others.
  for device_file in "$DEVICES"/* "$ENDED"/*; do
    [ -f "$device_file" ] || continue
    case $installed in *" ${device_file##*/} "*) continue ;; esac
    read_device "$device_file"
    shut_out "$device_file"
    # shellcheck disable=SC2086
    if is_one_of "$DEVICE_NAME" $names; then
      say "An older $DEVICE_HAS of $DEVICE_NAME was replaced and is revoked"
    else
      tell_out "${DEVICE_NAME:-A device without a name}"
    fi
  done
  expire
  report
}

check_payload() {
  seen=" "
  while read -r fingerprint end name; do
    check_fingerprint "$fingerprint"
    [ "$end" = frame ] || number "The end of a certificate" "$end" 1 9999999999
    check_name "$name"
    case $seen in
      *" $fingerprint "*) die "Two devices have the certificate or secret $fingerprint; give \"$name\" one of its own." ;;
    esac
    seen="$seen$fingerprint "
  done <"$WORK/devices"
  while read -r fingerprint since how name; do
    check_fingerprint "$fingerprint"
    number "The moment of a revocation" "$since" 0 9999999999
    case $how in up | hand) ;; *) die "A certificate is revoked by \"up\" or by \"hand\", not by \"$how\"; correct it." ;; esac
    check_name "$name"
  done <"$WORK/revoked"
}

# Runs before anything that needs space on the disk.
shut_revoked_out() {
  is_ours "$STATE" || return 0
  finish_shut_out
  while read -r fingerprint _ how _; do
    for device_file in "$DEVICES/$fingerprint" "$ENDED/$fingerprint"; do
      [ -f "$device_file" ] || continue
      shut_out "$device_file"
      [ "$how" = up ] || note_by_hand
    done
  done <"$WORK/revoked"
}

remember_revoked() {
  while read -r fingerprint since how name; do
    [ ! -e "$REVOKED/$fingerprint" ] || continue
    { printf '%s\n\n' "$name" && if [ "$how" = hand ]; then echo "by hand"; fi; } >"$WORK/device"
    write_file 0644 "$REVOKED/$fingerprint" <"$WORK/device"
    touch -d "@$since" "$REVOKED/$fingerprint" || say "The day on which $name was revoked could not be recorded"
  done <"$WORK/revoked"
}

is_revoked() { [ -e "$REVOKED/$1" ] || [ -e "$DEVICES/$WAITING$1" ] || [ -e "$ENDED/$WAITING$1" ]; }

# `enrol NAME FINGERPRINT UNTIL|frame`
enrol() {
  if [ "$3" = frame ]; then enrol_has=secret enrol_end=; else enrol_has=certificate enrol_end=$3; fi
  if is_revoked "$2"; then
    REFUSED="$REFUSED,\"$2\""
    rm -f "$DEVICES/$2" "$ENDED/$2"
    say "$1 stays revoked: its $enrol_has was revoked$(date -r "$REVOKED/$2" '+ on %Y-%m-%d' 2>/dev/null) and is never accepted again"
    return 0
  fi
  enrol_new=yes
  for device_file in "$DEVICES/$2" "$ENDED/$2"; do
    [ -f "$device_file" ] || continue
    read_device "$device_file"
    if [ "$DEVICE_NAME:$DEVICE_HAS:$DEVICE_END" = "$1:$enrol_has:$enrol_end" ]; then return 0; fi
    enrol_new=no
  done
  # Readable by the edge, which opens the file: the temporary file's 0600 would lock the device out.
  { printf '%s\n' "$1" && if [ "$3" = frame ]; then echo frame; else printf 'until %s\n' "$3"; fi; } >"$WORK/device"
  write_file 0644 "$DEVICES/$2" <"$WORK/device"
  rm -f "$ENDED/$2"
  # Another run can revoke without waiting for this one.
  ! is_revoked "$2" || rm -f "$DEVICES/$2"
  if [ "$enrol_new" = no ]; then
    return 0
  elif [ "$3" = frame ]; then
    say "Frame $1 is enrolled: it may read photos and albums"
  else
    say "Device $1 is enrolled"
  fi
}

clear_devices() {
  ! is_ours "$STATE" || rm -f "$DEVICES"/* "$ENDED"/*
}

# ---- Reporting

report() {
  printf '{"devices":[%s],"revoked":[%s],"refused":[%s]}\n' "$(entries "$DEVICES" "$ENDED")" "$(entries "$REVOKED")" \
    "${REFUSED#,}"
}

# `entries FOLDER...` prints JSON, one object for each certificate, sorted by fingerprint.
entries() {
  for entries_folder; do
    find "$entries_folder" -maxdepth 1 -type f -exec stat -c '%Y %n' {} + 2>/dev/null </dev/null || :
  done | awk '
    {
      fingerprint = $2; sub(/.*\//, "", fingerprint)
      if (fingerprint !~ /^[0-9a-f]+$/ || length(fingerprint) != 64) next
      name = ""; end = "null"; hand = "false"; at = 0
      while ((getline line <$2) > 0) {
        if (++at == 1) name = line
        else if (line ~ /^until [0-9]+$/) end = substr(line, 7)
        else if (line == "by hand") hand = "true"
      }
      close($2)
      if (name !~ /^[A-Za-z0-9][A-Za-z0-9._-]*$/ || length(name) > 64) name = ""
      print "{\"fingerprint\":\"" fingerprint "\",\"name\":\"" name "\",\"until\":" end ",\"since\":" $1 ",\"byHand\":" hand "}"
    }' | sort | paste -s -d , -
}

list_devices() {
  {
    for device_file in "$DEVICES"/*; do
      [ -f "$device_file" ] || continue
      read_device "$device_file"
      list_end="until it is revoked"
      [ -z "$DEVICE_END" ] || list_end="until $(date -d "@$DEVICE_END" '+%Y-%m-%d')"
      [ "$DEVICE_HAS" = certificate ] || list_end="frame, until revoked"
      printf '%-20s %-24s %.16s\n' "$DEVICE_NAME" "$list_end" "${device_file##*/}"
    done
    for device_file in "$REVOKED"/*; do
      [ -f "$device_file" ] || continue
      read_device "$device_file"
      list_how=
      ! grep -qx "by hand" "$device_file" || list_how=" by hand"
      printf '%-20s %-24s %.16s\n' "$DEVICE_NAME" "revoked $(date -r "$device_file" '+%Y-%m-%d')$list_how" "${device_file##*/}"
    done
  } | sort >"$WORK/list"
  [ -s "$WORK/list" ] || say "No device is enrolled"
  cat "$WORK/list"
}

# ---- Expiry

expire() {
  expire_now=$(now)
  for device_file in "$ENDED"/*; do
    [ -f "$device_file" ] || continue
    read_device "$device_file"
    [ -n "$DEVICE_END" ] || continue
    # A clock that shows a time before the enrolment is wrong, too: one that has lost its time starts at 1970.
    { [ "$DEVICE_END" -gt "$expire_now" ] && [ "$expire_now" -ge "$(date -r "$device_file" +%s)" ]; } || continue
    mv -f "$device_file" "$DEVICES/"
    say "A certificate of device $DEVICE_NAME is accepted again: the clock had been ahead"
  done
  for device_file in "$DEVICES"/*; do
    [ -f "$device_file" ] || continue
    read_device "$device_file"
    { [ -n "$DEVICE_END" ] && [ "$DEVICE_END" -le "$expire_now" ]; } || continue
    # Works on a full disk as well: what matters is that the device is out.
    { install -d -m 0700 "$ENDED" && mv -f "$device_file" "$ENDED/"; } || rm -f "$device_file"
    say "A certificate of device $DEVICE_NAME has expired and is no longer accepted"
  done
}

need_root
case ${1:-} in
  stay)
    [ $# -ge 2 ] || die "Say which devices stay: devices.sh stay AUTHORITIES|- NAME..."
    shift
    stay "$@"
    report
    ;;
  install)
    lock
    install_devices
    ;;
  clear)
    lock
    clear_devices
    report
    ;;
  revoke)
    [ -n "${2:-}" ] || die "Name the device: immich-exposure revoke phone-anna; immich-exposure devices lists them."
    check_name "$2"
    revoke_by_hand "$2"
    ;;
  list) list_devices ;;
  expire)
    lock
    expire
    ;;
  *)
    die "devices.sh knows the verbs stay, install, clear, revoke, list and expire, not \"${1:-}\"; use one of them."
    ;;
esac
