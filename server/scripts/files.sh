# shellcheck shell=sh
# Runs after lib.sh and, for install, after a function payload() that calls `put MODE RELATIVE_PATH <<'END'` for each file.
# Our files in the folder of the NixOS configuration: expose-immich.nix and what lies under immich-exposure/.
#
#   install CONFIG_DIR   all files of the payload are there, and no file of ours that is not in it
#   remove CONFIG_DIR    none of our files is there
#
# Everything is written beside its place first and then renamed, so a full disk changes nothing.

# put MODE RELATIVE_PATH: stage one file, its content on standard input.
put() {
  case $2 in
    *..* | /* | *//* | *[!A-Za-z0-9._/@-]*)
      die "The payload may not write to \"$2\"; use plain relative names without \"..\"."
      ;;
    expose-immich.nix | immich-exposure/?*) ;;
    *) die "The payload may not write to \"$2\"; only expose-immich.nix and immich-exposure/ are this project's." ;;
  esac
  mkdir -p "$STAGE/$(dirname "$2")"
  if ! cat >"$STAGE/$2" || ! chmod "$1" "$STAGE/$2"; then
    die "$CONFIG_DIR/$2 could not be written; make room on the disk and run this again."
  fi
  printf '%s\n' "$2" >>"$WORK/paths"
}

discard_stage() { rm -rf "$STAGE"; }

install_files() {
  [ -d "$CONFIG_DIR" ] || die "The folder $CONFIG_DIR is not there; set configDir to the folder of configuration.nix."
  STAGE=$CONFIG_DIR/.immich-exposure.stage
  UNDO=discard_stage
  rm -rf "$STAGE"
  mkdir -m 0755 "$STAGE"
  : >"$WORK/paths"
  payload
  [ -s "$WORK/paths" ] || die "The payload holds no file; send at least expose-immich.nix."
  # certificate.sh writes the node's name here; it is not part of any payload.
  echo immich-exposure/domain >>"$WORK/paths"
  install_changed=0
  while read -r install_path; do
    [ -f "$STAGE/$install_path" ] || continue
    mkdir -p "$CONFIG_DIR/$(dirname "$install_path")"
    cmp -s "$STAGE/$install_path" "$CONFIG_DIR/$install_path" || install_changed=$((install_changed + 1))
    mv -f "$STAGE/$install_path" "$CONFIG_DIR/$install_path"
  done <"$WORK/paths"
  drop_others
  rm -rf "$STAGE"
  say "$install_changed of $(($(wc -l <"$WORK/paths") - 1)) files in $CONFIG_DIR changed"
}

# Files of an earlier version of this project that the payload no longer has.
drop_others() {
  [ -d "$CONFIG_DIR/immich-exposure" ] || return 0
  (cd "$CONFIG_DIR" && find immich-exposure ! -type d) >"$WORK/present"
  while IFS= read -r drop_path; do
    grep -qxF -- "$drop_path" "$WORK/paths" || rm -f -- "$CONFIG_DIR/$drop_path"
  done <"$WORK/present"
  find "$CONFIG_DIR/immich-exposure" -mindepth 1 -type d -empty -delete
}

remove_files() {
  [ "$(import_state "$CONFIG_DIR/configuration.nix" ./expose-immich.nix)" != active ] ||
    die "$CONFIG_DIR/configuration.nix still imports ./expose-immich.nix, and the next rebuild would fail without it;" \
      "restore ./lan-immich.nix there first."
  rm -f "$CONFIG_DIR/expose-immich.nix"
  rm -rf "$CONFIG_DIR/immich-exposure" "$CONFIG_DIR/.immich-exposure.stage"
}

need_root
case ${1:-}:${2:-} in
  install:/* | remove:/*) ;;
  *) die "files.sh takes \"install CONFIG_DIR\" or \"remove CONFIG_DIR\" with an absolute path; correct the arguments." ;;
esac
CONFIG_DIR=$2
lock
case $1 in
  install) install_files ;;
  *) remove_files ;;
esac
