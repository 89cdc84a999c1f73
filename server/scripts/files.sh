# shellcheck shell=sh
# Runs after lib.sh and, for install, after a function payload() that calls `put MODE immich-exposure/NAME <<'END'` for each.
# The module's files: our folder next to the configuration.nix that Nix really reads, after following links.
#
#   install CONFIG_DIR   the folder contains all files of the payload, and none of ours that are not in it
#   remove CONFIG_DIR    removes all our files
#
# The folder's mark lists our files in it. A folder without the mark is not ours, and neither is a file that the mark does
# not list. Everything is written next to its final path first and then renamed, so a full disk changes nothing.

NAME=immich-exposure
# The module's files from which the running system was built (see module.sh).
# shellcheck disable=SC2153
MODULE_BEFORE=$STATE/module.before

# put MODE RELATIVE_PATH: stage one file, its content on standard input.
put() {
  case $2 in
    *..* | /* | *//* | *[!A-Za-z0-9._/@-]*)
      die "The payload may not write to \"$2\"; use plain relative names without \"..\"."
      ;;
    "$NAME/$MARK")
      # The mark is written here, with the list of files.
      cat >/dev/null
      return 0
      ;;
    "$NAME"/?*) ;;
    *) die "The payload may not write to \"$2\"; only $NAME/ is this project's." ;;
  esac
  put_path=${2#"$NAME"/}
  make_folder_of "$STAGE/$put_path"
  cat >"$STAGE/$put_path" || not_written "$put_path"
  printf '%s\n' "$put_path" >>"$WORK/paths"
  printf '%s %s\n' "$1" "$put_path" >>"$WORK/modes"
}

make_folder_of() { [ -d "${1%/*}" ] || mkdir -p "${1%/*}"; }

not_written() { die "$FOLDER/$1 could not be written; make room on the disk and run this again."; }

# Nearly all files have the same mode as the first, so one call sets the mode of all.
set_modes() {
  read -r common_mode _ <"$WORK/modes"
  set --
  while read -r put_mode put_path; do
    if [ "$put_mode" = "$common_mode" ]; then
      set -- "$@" "$STAGE/$put_path"
    else
      chmod "$put_mode" "$STAGE/$put_path" || not_written "$put_path"
    fi
  done <"$WORK/modes"
  chmod "$common_mode" "$@" || not_written "$put_path"
}

discard_stage() { rm -rf "$STAGE"; }

# Leftovers of a killed run.
discard_old_stages() {
  for old_stage in "${FOLDER%/*}/$NAME"-stage.??????; do
    if is_ours "$old_stage"; then rm -rf "$old_stage"; fi
  done
}

begin_stage() {
  STAGE=$(mktemp -d "${FOLDER%/*}/$NAME-stage.XXXXXX" 2>/dev/null) ||
    die "Nothing can be written to ${FOLDER%/*}; make that folder writable, or set module: yours, and run this again."
  # shellcheck disable=SC2034
  UNDO=discard_stage
  printf '%s\n' "$MARK_TEXT" >"$STAGE/$MARK"
  chmod 0755 "$STAGE"
}

# Until the system is rebuilt, the files from which it was built may still be needed.
keep_former() {
  if is_ours "$STATE" && [ "$install_changed" != 0 ] && [ ! -e "$MODULE_BEFORE" ]; then
    rm -rf "$MODULE_BEFORE.new"
    cp -a "$FOLDER" "$MODULE_BEFORE.new"
    mv "$MODULE_BEFORE.new" "$MODULE_BEFORE"
  fi
}

install_files() {
  [ -d "$CONFIG_DIR" ] || die "The folder $CONFIG_DIR is not there; set configDir to the folder of configuration.nix."
  is_ours "$FOLDER" || { [ ! -e "$FOLDER" ] && [ ! -L "$FOLDER" ]; } ||
    die "$FOLDER was not made by this project, whose file $MARK is missing from it; rename it and run this again."
  ! is_exported "$FOLDER" ||
    die "$FOLDER was exported by \"make module\" and belongs to you; set module: yours, or rename it, and run this again."
  discard_old_stages
  begin_stage
  : >"$WORK/paths"
  payload
  [ -s "$WORK/paths" ] || die "The payload holds no file; send at least $NAME/default.nix."
  set_modes
  cat "$WORK/paths" >>"$STAGE/$MARK"
  install_count=$(wc -l <"$WORK/paths" | tr -d ' ')
  install_changed=$((install_count - $(count_the_same)))
  if [ -d "$FOLDER" ]; then
    keep_former
    replace_files
  else
    mv -T "$STAGE" "$FOLDER"
  fi
  say "$install_changed of $install_count files in $FOLDER changed"
}

# How many of the staged files are in the folder unchanged. Their names contain nothing that sha256sum would escape.
count_the_same() {
  (cd "$STAGE" && xargs sha256sum --) <"$WORK/paths" >"$WORK/sums"
  if [ -d "$FOLDER" ]; then (cd "$FOLDER" && sha256sum -c "$WORK/sums" 2>/dev/null </dev/null) | grep -c ': OK$' || :; else echo 0; fi
}

# File by file, so that no file that configuration.nix imports is ever missing. The mark is written first with the names of
# both, so that an interrupted run loses track of none.
replace_files() {
  cp "$STAGE/$MARK" "$WORK/mark"
  listed_files "$FOLDER" >"$WORK/former"
  grep -vxF -f "$WORK/paths" "$WORK/former" >"$WORK/dropped" || :
  cat "$WORK/dropped" >>"$STAGE/$MARK"
  mv -f "$STAGE/$MARK" "$FOLDER/$MARK"
  place_files
  drop_files "$FOLDER" "$WORK/dropped"
  drop_empty_folders "$FOLDER"
  write_file 0644 "$FOLDER/$MARK" <"$WORK/mark"
  rm -rf "$STAGE"
}

# Consecutive files of one folder are renamed by one call, in order.
place_files() {
  place_folder=.
  set --
  while read -r install_path; do
    case $install_path in */*) install_folder=${install_path%/*} ;; *) install_folder=. ;; esac
    if [ "$install_folder" != "$place_folder" ]; then
      place_in "$place_folder" "$@"
      set --
      place_folder=$install_folder
    fi
    set -- "$@" "$STAGE/$install_path"
  done <"$WORK/paths"
  place_in "$place_folder" "$@"
}

# `place_in FOLDER FILE...`
place_in() {
  into=$FOLDER/$1
  shift
  [ $# != 0 ] || return 0
  [ -d "$into" ] || mkdir -p "$into"
  mv -f "$@" "$into/"
}

# Our files may be imported under another spelling, or by another file: then the system still has the module, whatever
# configuration.nix seems to say. If there is no configuration.nix, module.sh has already told the owner.
refuse_while_it_runs() {
  [ -f "$CONFIG_DIR/configuration.nix" ] || return 0
  ! has_module "$ROOT/run/current-system" ||
    die "The running system still has the module from $FOLDER$(naming_files "$FOLDER"), and no rebuild would succeed without that" \
      "folder; remove every import of it, run \"sudo nixos-rebuild switch\" on the server and run this again."
}

remove_files() {
  discard_old_stages
  if ! is_ours "$FOLDER" || is_exported "$FOLDER"; then return 0; fi
  [ "$(import_state "$CONFIG_DIR/configuration.nix" "./$NAME")" != active ] ||
    die "$CONFIG_DIR/configuration.nix still imports ./$NAME, and the next rebuild would fail without it; remove the module" \
      "first (\"module.sh restore\")."
  refuse_while_it_runs
  remove_module_files "$FOLDER"
}

need_root
case ${1:-}:${2:-} in
  install:/* | remove:/*) ;;
  *) die "files.sh takes \"install CONFIG_DIR\" or \"remove CONFIG_DIR\" with an absolute path; correct the arguments." ;;
esac
CONFIG_DIR=$2
lock
FOLDER=$(configuration_folder "$CONFIG_DIR")/$NAME
case $1 in
  install) install_files ;;
  *) remove_files ;;
esac
