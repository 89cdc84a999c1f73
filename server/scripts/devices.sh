# shellcheck shell=sh
# Runs after lib.sh. The devices that may come in: one file per certificate, named by its SHA-256 fingerprint, holding the
# device's name. Caddy looks for the file at every request, so a change counts at once, without any reload.
#
#   enrol NAME FINGERPRINT        this certificate is NAME's, and the only one
#   withdraw NAME [FINGERPRINT]   no certificate of NAME counts any more (or not this one)

DEVICES=$STATE/devices

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

# The fingerprints enrolled for NAME, one a line.
fingerprints_of() {
  for device_file in "$DEVICES"/*; do
    [ -f "$device_file" ] || continue
    device_name=
    read -r device_name <"$device_file" || :
    if [ "$device_name" = "$1" ]; then printf '%s\n' "${device_file##*/}"; fi
  done
}

enrol() {
  make_state
  if [ -s "$DEVICES/$2" ]; then
    enrolled_as=
    read -r enrolled_as <"$DEVICES/$2" || :
    [ "$enrolled_as" = "$1" ] ||
      die "This certificate is enrolled as \"$enrolled_as\" already; withdraw that device or give \"$1\" one of its own."
  fi
  # Readable by Caddy, which opens the file: the temporary file's 0600 would lock the device out.
  printf '%s\n' "$1" >"$WORK/device"
  write_file 0644 "$DEVICES/$2" <"$WORK/device"
  if [ "$CHANGED" = yes ]; then say "Device $1 may come in"; fi
  # Only now, with the new certificate in force, the old ones of the same device go.
  for enrol_old in $(fingerprints_of "$1"); do
    [ "$enrol_old" = "$2" ] || rm -f "$DEVICES/$enrol_old"
  done
}

withdraw() {
  for withdraw_old in $(fingerprints_of "$1"); do
    if [ -n "$2" ] && [ "$withdraw_old" != "$2" ]; then continue; fi
    rm -f "$DEVICES/$withdraw_old"
    say "Device $1 may no longer come in"
  done
}

need_root
case ${1:-} in
  enrol | withdraw) ;;
  *) die "devices.sh knows the verbs enrol and withdraw, not \"${1:-}\"; use one of them." ;;
esac
check_name "${2:-}"
if [ "$1" = enrol ] || [ -n "${3:-}" ]; then check_fingerprint "${3:-}"; fi
lock
"$1" "$2" "${3:-}"
