# shellcheck shell=sh
# Runs after lib.sh. The devices that may come in: one file per certificate, named by its SHA-256 fingerprint, holding the
# device's name and, on a second line, `until EPOCH`: from then on it counts no more. The edge looks for the file at every
# request, so a change counts at once, without any reload.
#
#   enrol NAME FINGERPRINT [UNTIL [OLD_FINGERPRINT OLD_UNTIL]]
#                                 this certificate is NAME's, beside the one of before until its grace ends, and no other
#   withdraw NAME [FINGERPRINT]   no certificate of NAME counts any more (or not this one)
#   expire                        what has ended goes; a timer runs this, so that it needs nobody

DEVICES=$STATE/devices
# What has ended lies here until its device is enrolled anew or withdrawn: the clock may have been years ahead.
ENDED=$STATE/ended

check_name() {
  case $1 in
    '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*)
      die "A device's name starts with a letter or digit and holds only letters, digits, \".\", \"_\" and \"-\", unlike" \
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

# The fingerprints enrolled for NAME, one a line; also of what has ended.
fingerprints_of() {
  for device_file in "$DEVICES"/* "$ENDED"/*; do
    [ -f "$device_file" ] || continue
    device_name=
    read -r device_name <"$device_file" || :
    if [ "$device_name" = "$1" ]; then printf '%s\n' "${device_file##*/}"; fi
  done
}

refuse_other_owner() {
  if [ -s "$DEVICES/$2" ]; then
    enrolled_as=
    read -r enrolled_as <"$DEVICES/$2" || :
    [ "$enrolled_as" = "$1" ] ||
      die "This certificate is enrolled as \"$enrolled_as\" already; withdraw that device or give \"$1\" one of its own."
  fi
}

# `put_device NAME FINGERPRINT UNTIL`; without an end it counts until it is withdrawn.
put_device() {
  # Readable by the edge, which opens the file: the temporary file's 0600 would lock the device out.
  { printf '%s\n' "$1" && if [ -n "$3" ]; then printf 'until %s\n' "$3"; fi; } >"$WORK/device"
  put_new=no
  [ -e "$DEVICES/$2" ] || put_new=yes
  write_file 0644 "$DEVICES/$2" <"$WORK/device"
  rm -f "$ENDED/$2"
}

enrol() {
  make_state
  refuse_other_owner "$1" "$2"
  if [ -n "$4" ]; then refuse_other_owner "$1" "$4"; fi
  put_device "$1" "$2" "$3"
  if [ "$put_new" = yes ]; then say "Device $1 may come in"; fi
  enrol_kept=
  if [ -n "$4" ] && [ "$5" -gt "$(now)" ]; then
    put_device "$1" "$4" "$5"
    enrol_kept=$4
  fi
  # Only now, with the new certificate in force, the old ones of the same device go.
  for enrol_old in $(fingerprints_of "$1"); do
    case $enrol_old in "$2" | "$enrol_kept") ;; *) rm -f "$DEVICES/$enrol_old" "$ENDED/$enrol_old" ;; esac
  done
}

withdraw() {
  for withdraw_old in $(fingerprints_of "$1"); do
    if [ -n "$2" ] && [ "$withdraw_old" != "$2" ]; then continue; fi
    rm -f "$DEVICES/$withdraw_old" "$ENDED/$withdraw_old"
    say "Device $1 may no longer come in"
  done
}

# `read_end FILE` sets DEVICE_NAME and DEVICE_END. What says no end, or none that can be read, was enrolled by hand or by an
# older version: it has none.
read_end() {
  DEVICE_NAME=
  DEVICE_END=
  { read -r DEVICE_NAME && read -r DEVICE_END; } <"$1" || :
  DEVICE_END=${DEVICE_END#until }
  case $DEVICE_END in '' | *[!0-9]* | ????????????*) return 1 ;; esac
}

expire() {
  expire_now=$(now)
  for device_file in "$ENDED"/*; do
    { [ -f "$device_file" ] && read_end "$device_file"; } || continue
    # A clock from before the enrolment is wrong as well: it begins at 1970 when it has lost all.
    { [ "$DEVICE_END" -gt "$expire_now" ] && [ "$expire_now" -ge "$(date -r "$device_file" +%s)" ]; } || continue
    mv -f "$device_file" "$DEVICES/"
    say "A certificate of device $DEVICE_NAME counts again: the clock had run ahead"
  done
  for device_file in "$DEVICES"/*; do
    { [ -f "$device_file" ] && read_end "$device_file"; } || continue
    [ "$DEVICE_END" -le "$expire_now" ] || continue
    # On a disk that is full as well: shut out is what counts.
    { install -d -m 0700 "$ENDED" && mv -f "$device_file" "$ENDED/"; } || rm -f "$device_file"
    say "A certificate of device $DEVICE_NAME has ended and may no longer come in"
  done
}

need_root
case ${1:-} in
  enrol)
    check_name "${2:-}"
    check_fingerprint "${3:-}"
    if [ -n "${4:-}" ]; then number "The end of a certificate" "$4" 1 9999999999; fi
    if [ -n "${5:-}" ]; then
      check_fingerprint "$5"
      number "The end of the certificate of before" "${6:-}" 1 9999999999
      [ "$3" != "$5" ] || die "The certificate of before is the new one; name the one that device $2 had until now."
    fi
    ;;
  withdraw)
    check_name "${2:-}"
    if [ -n "${3:-}" ]; then check_fingerprint "$3"; fi
    ;;
  expire) ;;
  *) die "devices.sh knows the verbs enrol, withdraw and expire, not \"${1:-}\"; use one of them." ;;
esac
lock
"$1" "${2:-}" "${3:-}" "${4:-}" "${5:-}" "${6:-}"
