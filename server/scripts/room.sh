# shellcheck shell=sh
# Runs after lib.sh. How much space is free where Immich stores uploads, while guests may upload (settings/uploads.conf).
#
#   look   writes the free KiB to a file for the edge (a unit of the NixOS module runs this every minute); notifies the owner when
#          less is free than must stay free, and when there is enough again
#
# If the free space is unknown, there is no file, and the edge accepts no uploads.

# When the owner was last notified about the floor, and the state then: "EPOCH full" or "EPOCH enough".
ROOM_TOLD=$NOTICES/room
# Minimum seconds between such notices: the free space of a nearly full disk goes up and down.
TOLD_AGAIN=21600

# `tell_room FREE_KIB FLOOR_GB`
tell_room() {
  told_at=0 told_word=enough
  [ ! -r "$ROOM_TOLD" ] || read -r told_at told_word <"$ROOM_TOLD" || :
  is_count "$told_at" || told_at=0
  floor_kib=$(gigabytes_kib "$2")
  if [ "$1" -lt "$floor_kib" ] && [ "$told_word" = enough ] && [ $(($(now) - told_at)) -ge "$TOLD_AGAIN" ]; then
    tell room "Guests can no longer upload: less than $2 GB are free on the disk of Immich's uploads."
    note_room "$(now) full"
  # A margin, so that a single photo does not cause a notice.
  elif [ "$1" -ge $((floor_kib + floor_kib / 20)) ] && [ "$told_word" = full ]; then
    tell room "Guests can upload again: more than $2 GB are free on the disk of Immich's uploads."
    note_room "$told_at enough"
  fi
}

note_room() {
  [ ! -d "$NOTICES" ] || printf '%s\n' "$1" | write_file 0600 "$ROOM_TOLD"
}

look() {
  mkdir -p "${ROOM%/*}"
  look_began=$(now) look_free=
  if [ -r "$UPLOADS_CONF" ]; then look_free=$(uploads_free "$(uploads_folder)"); fi
  if [ -z "$look_free" ]; then
    rm -f "$ROOM"
    return 0
  fi
  printf '%s\n' "$look_free" >"$ROOM.new"
  chmod 0644 "$ROOM.new"
  # What guests send while this measures is not in the number: the edge goes by when it began.
  touch -d "@$look_began" "$ROOM.new"
  mv -f "$ROOM.new" "$ROOM"
  tell_room "$look_free" "$(uploads_said floor)"
}

need_root
case ${1:-} in
  look) look ;;
  *) die "room.sh knows the verb look alone, not \"${1:-}\"; correct the arguments." ;;
esac
