# shellcheck shell=sh
# Runs after lib.sh. Brings the NixOS module into the running system so that a mistake is rolled back, and takes it out again.
#
#   managed CONFIG_DIR PROXY_PORT IMMICH_ADDRESS|- IMMICH_PORT ALLOW_UPGRADE
#                           adds ./immich-exposure to the imports of configuration.nix, and activates that system
#   flake DIR HOST PROXY_PORT IMMICH_ADDRESS|- IMMICH_PORT ALLOW_UPGRADE
#                           activates the system of this flake, which has the module in it; changes no file of the flake
#   yours PROXY_PORT IMMICH_ADDRESS|- IMMICH_PORT
#                           for a module that the owner has imported: starts its units and checks the edge
#   restore CONFIG_DIR      undoes managed: configuration.nix is byte for byte what it was, and so is the system
#   leave                   undoes flake and yours: the units are stopped, and Immich is open at home
#
# ALLOW_UPGRADE is yes or no. All verbs except `leave` print {"generation":N}.
#
# A change takes these steps: evaluate the configuration as it is and as it would be, and compare; build; run the pre-switch
# checks; activate as a test with a rollback timer armed; check the result from the server itself; and only then make it the
# generation that boots. Any failure restores the previous generation and configuration.nix. NixOS itself does none of this:
# `nixos-rebuild switch` sets the profile first and leaves it there.

PROFILE=$ROOT/nix/var/nix/profiles/system
REBUILD_LOG=$STATE/rebuild.log
# The owner's configuration.nix before our change, our version of it, and its text when this run began.
BEFORE=$STATE/configuration.nix.before
AFTER=$STATE/configuration.nix.after
AT_START=$STATE/configuration.nix.rollback
# What this run has written there: any other text is an edit by the owner, which must not be undone.
WRITTEN=$STATE/configuration.nix.written
ROLLBACK=$STATE/rollback.sh
# The module's files from which the running system was built, while newer ones are in their place (see files.sh).
MODULE_BEFORE=$STATE/module.before
# Longer than an activation and all the waits below can take.
ROLLBACK_SECONDS=900
IMPORT=./immich-exposure
LOOK_MARK="# A copy that immich-exposure looks at; it may be removed."

fail_with_log() {
  tail -n 15 "$REBUILD_LOG" | cut -c 1-400 | sed 's/^/  | /' >&2 || :
  die "$* The lines above are the end of $REBUILD_LOG."
}

# `reject REASON`: the check failed.
reject() {
  [ "$STARTED" = yes ] || die "This configuration was already active, but $1; fix that and run this again."
  fail_with_log "The new configuration was rolled back, because $1."
}

# ---- What a configuration evaluates to

# A Nix function from a system to words NAME=VALUE. An option that this nixpkgs does not have, or that is not set, reads as
# null. Immich's settings are only compared, so they are hashed. A path stays text, because JSON would copy its target to the
# store. A failed assertion, or an option that does not exist, is an error here.
# shellcheck disable=SC2016
DESCRIBE='system: let
    inherit (system) config;
    text = value:
      if builtins.isPath value then toString value
      else if builtins.isFunction value then "a function"
      else if builtins.isList value then "[ ${builtins.concatStringsSep " " (map text value)} ]"
      else if builtins.isAttrs value then
        if value ? outPath then toString value.outPath
        else "{ ${builtins.concatStringsSep " " (map (name: "${name} = ${text value.${name}};") (builtins.attrNames value))} }"
      else builtins.toJSON value;
    attempt = value: let tried = builtins.tryEval value; in if tried.success then tried.value else "null";
    hash = value: builtins.hashString "sha256" (builtins.unsafeDiscardStringContext (attempt (text value)));
    word = value: let plain = builtins.unsafeDiscardStringContext (attempt "${toString value}");
      in if builtins.match "[A-Za-z0-9:_./+-]+" plain == null then "-" else plain;
    immich = config.services.immich or { };
    settings = {
      enable = immich.enable or null; user = immich.user or null; group = immich.group or null;
      host = immich.host or null; port = immich.port or null; package = immich.package or null;
      mediaLocation = immich.mediaLocation or null; secretsFile = immich.secretsFile or null;
      settings = immich.settings or null; database = immich.database or null;
      # The host is said here again.
      environment = builtins.removeAttrs (immich.environment or { }) [ "HOST" "IMMICH_HOST" ];
      "redis.enable" = immich.redis.enable or null; "machine-learning.enable" = immich.machine-learning.enable or null;
    };
    exposure = config.services.immich-exposure or null;
  in builtins.concatStringsSep " " ([
    "toplevel=${builtins.unsafeDiscardStringContext "${config.system.build.toplevel}"}"
    "nixos=${word (config.system.nixos.label or config.system.nixos.version or null)}"
    "immich=${word (immich.package.version or null)}"
    "exposure=${if exposure == null then "absent" else if exposure.enable then "on" else "off"}"
    "lan=${word (exposure.lan or null)}"
  ] ++ map (name: "setting:${name}=${hash settings.${name}}") (builtins.attrNames settings))'

# `write_words FILE WORDS`: turns the evaluator's JSON string into one word per line.
write_words() {
  case $2 in
    \"toplevel=*\") printf '%s\n' "$2" | tr -d '"' | tr ' ' '\n' >"$1" ;;
    *) return 1 ;;
  esac
}

# One more word: the system that a configuration that imports our module makes with the module switched off.
# shellcheck disable=SC2016
SWITCHED_OFF='+ " off=${builtins.unsafeDiscardStringContext "${(import <nixpkgs/nixos> { configuration = {
    imports = [ (/. + configuration) ];
    services.immich-exposure.enable = { _type = "override"; priority = 0; content = false; };
  }; }).config.system.build.toplevel}"}"'

# `describe_channel FILE CONFIGURATION [SWITCHED_OFF]`: FILE gets the words of a configuration on <nixpkgs>. A system that keeps
# a copy of its configuration (system.copySystemConfiguration) keeps the real file's.
describe_channel() {
  described=$(nix-instantiate --eval --strict --json --read-write-mode -I "nixos-config=$CONFIG" --argstr configuration "$2" \
    -E "{ configuration }: ($DESCRIBE) (import <nixpkgs/nixos> { configuration = /. + configuration; }) ${3:-}" \
    2>>"$REBUILD_LOG" </dev/null) || return 1
  write_words "$1" "$described"
}

# `describe_flake FILE FUNCTION`: FILE gets the words of the flake's system, after FUNCTION has been applied to it.
describe_flake() {
  described=$(nix --extra-experimental-features "nix-command flakes" eval --no-write-lock-file --json \
    --apply "system: ($DESCRIBE) (($2) system)" "$FLAKE#nixosConfigurations.\"$HOST\"" 2>>"$REBUILD_LOG" </dev/null) || return 1
  write_words "$1" "$described"
}

word_of() { sed -n "s/^$1=//p" "$2"; }

# `look_at TEXT FILE [SWITCHED_OFF]`: FILE gets the words of a configuration.nix with this text. Nix resolves ./x.nix next to
# the file, so the copy goes there, under a name that no configuration would import by a pattern.
look_at() {
  look_temp=$(new_beside) ||
    die "Nothing can be written to ${CONFIG%/*}; make that folder writable, or set module: yours, and run this again."
  CANDIDATE=$(mktemp -u "${CONFIG%/*}/immich-exposure-look.XXXXXX")
  # It is moved there complete, with its mark.
  if ! { cat "$1" && printf '\n%s\n' "$LOOK_MARK"; } >"$look_temp" || ! mv -T "$look_temp" "$CANDIDATE"; then
    rm -f "$look_temp"
    die "$CANDIDATE could not be written; make room on its disk and run this again."
  fi
  look_status=0
  describe_channel "$2" "$CANDIDATE" "${3:-}" || look_status=$?
  drop_candidate
  return "$look_status"
}

drop_candidate() {
  rm -f "${CANDIDATE:-}"
  CANDIDATE=
}

# `new_beside` makes a new file on the disk of configuration.nix and prints its name. In our own folder, a file of the owner's
# can never be mistaken for what a killed run left behind.
new_beside() {
  if is_ours "$FOLDER"; then
    mktemp "$FOLDER/.immich-exposure.XXXXXX" 2>/dev/null
  else
    mktemp "${CONFIG%/*}/.immich-exposure.XXXXXX" 2>/dev/null
  fi
}

# Removes what killed runs left behind: copies with our mark next to configuration.nix, and new files in our folder.
drop_old_candidates() {
  for old_candidate in "${CONFIG%/*}"/immich-exposure-look.??????; do
    if [ -f "$old_candidate" ] && [ "$(tail -n 1 "$old_candidate")" = "$LOOK_MARK" ]; then rm -f "$old_candidate"; fi
  done
  if is_ours "$FOLDER"; then rm -f "$FOLDER"/.immich-exposure.??????; fi
}

# `name_difference FILE` sets DIFFERENCE to what the configuration with these words has and the running system does not.
name_difference() {
  DIFFERENCE=
  differs "NixOS" "$(running_nixos)" "$(word_of nixos "$1")"
  differs "Immich" "$(running_immich)" "$(word_of immich "$1")"
}

differs() {
  if [ -n "$2" ] && [ -n "$3" ] && [ "$3" != - ] && [ "$2" != "$3" ]; then
    DIFFERENCE="${DIFFERENCE:+$DIFFERENCE and }$1 $3 instead of $2"
  fi
}

runs() { [ "$(readlink -f "$CURRENT_SYSTEM")" = "$1" ]; }

# `refuse_upgrade WHAT`: no unrelated change may be activated unnoticed.
refuse_upgrade() {
  if [ "$ALLOW_UPGRADE" = yes ]; then
    say "$1 also brings $DIFFERENCE, as allowUpgrade permits"
  else
    die "$1 would also bring $DIFFERENCE; bring the server up to date yourself (\"sudo nixos-rebuild switch\") or set" \
      "allowUpgrade: true, and run this again."
  fi
}

# `compare_with_running WHAT WORDS [REMARK [ALWAYS]]`: REMARK is for a difference that has no name, ALWAYS for any difference.
compare_with_running() {
  if runs "$(word_of toplevel "$2")"; then return 0; fi
  name_difference "$2"
  : "${DIFFERENCE:=a configuration other than the running one${3:-}}"
  DIFFERENCE=$DIFFERENCE${4:-}
  refuse_upgrade "$1"
}

# `other_settings BEFORE AFTER` prints the names of Immich's settings that differ. Its host is ours to change, unless home
# access is to stay as it is and was not ours before.
other_settings() {
  for settings_file; do
    if [ "$(word_of lan "$2")" = keep ] && [ "$(word_of lan "$1")" != close ]; then
      sed -n 's/^setting://p' "$settings_file"
    else
      sed -n -e '/^setting:host=/d' -e 's/^setting://p' "$settings_file"
    fi | sort >"$settings_file.settings"
  done
  comm -3 "$1.settings" "$2.settings" | tr -d '\t' | cut -d = -f 1 | sort -u | tr '\n' ' '
}

# ---- configuration.nix

replace_configuration() {
  replace_temp=$(new_beside) ||
    die "Nothing can be written to ${CONFIG%/*}; make that folder writable and run this again."
  if ! cp -a "$CONFIG" "$replace_temp" || ! cat "$1" >"$replace_temp"; then
    rm -f "$replace_temp"
    die "$CONFIG could not be written; make room on its disk and run this again."
  fi
  # The owner's own text is restored together with its modification time.
  case $1 in "$BEFORE" | "$AT_START") touch -r "$1" "$replace_temp" ;; *) ;; esac
  if ! mv -f "$replace_temp" "$CONFIG" 2>/dev/null; then
    rm -f "$replace_temp"
    die "$CONFIG cannot be replaced, perhaps because it is a mount point; persist its whole folder instead, or set module: yours," \
      "and run this again."
  fi
}

# Recorded first, so that the text of a killed run can still be recognized.
write_configuration() {
  keep_copy "$1" "$WRITTEN"
  replace_configuration "$1"
}

# The copies may contain whatever the owner keeps in configuration.nix, so only root can read them.
keep_copy() {
  cat "$1" >"$WORK/copy"
  write_file 0600 "$2" <"$WORK/copy"
  touch -r "$1" "$2"
}

imports() { [ "$(import_state "$CONFIG" "$1")" = active ]; }

# `fits TEXT [SWITCHED_OFF]`: configuration.nix with this text would have our module switched on, and Immich unchanged.
# Otherwise FAULT says why not.
fits() {
  if ! look_at "$1" "$WORK/changed" "${2:-}"; then
    # What was evaluated is a copy, of a name that says nothing to the owner.
    FAULT="it does not evaluate ($(last_error "$REBUILD_LOG" | sed "s|immich-exposure-look\\.[A-Za-z0-9]\\{6\\}|${CONFIG##*/}|g"))"
  elif [ "$(word_of exposure "$WORK/changed")" = absent ]; then
    FAULT="the list of imports that it stands in is not the one that counts"
  elif [ "$(word_of exposure "$WORK/changed")" != on ]; then
    FAULT="services.immich-exposure would not be enabled, because another file decides that"
  else
    changed_settings=$(other_settings "$WORK/unchanged" "$WORK/changed")
    [ -n "$changed_settings" ] || return 0
    FAULT="it would change Immich's ${changed_settings% }"
  fi
  return 1
}

# The swap removes all of ./expose-immich.nix, and the evaluation only tells whether Immich would be affected.
need_nothing_else() {
  besides=$(says_besides "$CONFIG" "${CONFIG%/*}/expose-immich.nix" 2>>"$REBUILD_LOG") ||
    fail_with_log "What ${CONFIG%/*}/expose-immich.nix sets cannot be determined, and this would replace it; remove it from the" \
      "imports of $CONFIG, or set module: yours, and run this again."
  [ -z "$besides" ] ||
    die "${CONFIG%/*}/expose-immich.nix, which this replaces, also sets $besides; move that to a file of its own that" \
      "$CONFIG imports, and run this again."
}

write_home() {
  case ${CONFIG%/*} in
    *[!A-Za-z0-9/._+-]*) ;;
    *)
      printf '%s\n' "# Made by immich-exposure: what was imported in its place." "{ imports = [ ${CONFIG%/*}/lan-immich.nix ]; }" |
        write_file 0644 "$FOLDER/home.nix"
      ;;
  esac
}

# For a folder that was deleted, by a `git clean` for example: the module's other files were restored earlier, and the
# configuration.nix that we wrote relies on this one.
bring_home_back() {
  if [ -e "$FOLDER/home.nix" ] || [ ! -f "$AFTER" ] || [ "$(import_state "$AFTER" ./lan-immich.nix)" = active ]; then return 0; fi
  [ "$(import_state "$BEFORE" ./lan-immich.nix)" = active ] || return 0
  # The owner has restored that import next to ours.
  if imports "$IMPORT" && imports ./lan-immich.nix; then return 0; fi
  write_home
}

# Our import takes the place of ./lan-immich.nix and of the chapter's file. What ./lan-immich.nix says about home access, and
# anything else, must still apply, so our folder imports it in turn (by its full path, so that a copy of our folder works as
# well). So with our module switched off, the system must be what it was. Of ./expose-immich.nix, only the chapter's settings
# may go.
swap_fits() {
  if imports ./expose-immich.nix; then need_nothing_else; fi
  if ! imports ./lan-immich.nix && ! imports ./expose-immich.nix; then return 1; fi
  if imports ./lan-immich.nix; then write_home; fi
  swap_import "$CONFIG" ./lan-immich.nix "$IMPORT" >"$WORK/half"
  swap_import "$WORK/half" ./expose-immich.nix "$IMPORT" >"$WORK/after"
  if imports ./expose-immich.nix; then
    if fits "$WORK/after"; then return 0; fi
  elif fits "$WORK/after" "$SWITCHED_OFF"; then
    [ "$(word_of off "$WORK/changed")" != "$(word_of toplevel "$WORK/unchanged")" ] || return 0
    FAULT="the system would lose some other setting"
  fi
  say "The chapter's imports stay as they are in $CONFIG: without them $FAULT"
  rm -f "$FOLDER/home.nix"
  return 1
}

insert_fits() {
  insert_import "$CONFIG" "$IMPORT" >"$WORK/after" ||
    die "$CONFIG has no plain list \"imports = [ ... ];\" to add to; add $IMPORT to its imports yourself and run this again."
  fits "$WORK/after" ||
    die "With $IMPORT in its imports, $CONFIG cannot be used: $FAULT; correct that and run this again."
}

bring_in() {
  if imports "$IMPORT"; then
    say "$CONFIG already imports $IMPORT"
    cat "$CONFIG" >"$WORK/after"
    fits "$WORK/after" || die "$CONFIG imports $IMPORT, but $FAULT; correct that and run this again."
    return 0
  fi
  swap_fits || insert_fits
  # The other names of a hard-linked file would keep the old text from then on.
  ! has_hard_links "$CONFIG" ||
    die "$CONFIG also has another name (a hard link), which would no longer be the same file; make one of them a symbolic link" \
      "to the other, or set module: yours, and run this again."
  # The evaluation takes time, and the file that was evaluated is about to be overwritten.
  cmp -s "$AT_START" "$CONFIG" || die "$CONFIG was edited in the meantime, so it is left as it is; run this again."
  say "Adding $IMPORT to the imports of $CONFIG"
  keep_copy "$CONFIG" "$BEFORE"
  keep_copy "$WORK/after" "$AFTER"
  SWAPPED=yes
  write_configuration "$AFTER"
}

# `made_way NAME`: our import stands where this import of the owner's was. The copies show it, even if our folder was lost.
made_way() {
  [ "$(import_state "$BEFORE" "$1")" = active ] && [ "$(import_state "$AFTER" "$1")" != active ] && ! imports "$1"
}

# `without_ours FILE`: configuration.nix as it was. Later edits are kept; only our import is removed.
without_ours() {
  if [ -f "$BEFORE" ] && cmp -s "$CONFIG" "$AFTER"; then
    cat "$BEFORE" >"$1"
  elif made_way ./lan-immich.nix || [ -f "$FOLDER/home.nix" ]; then
    swap_import "$CONFIG" "$IMPORT" ./lan-immich.nix >"$1"
  elif made_way ./expose-immich.nix; then
    swap_import "$CONFIG" "$IMPORT" ./expose-immich.nix >"$1"
  else
    drop_import "$CONFIG" "$IMPORT" >"$1"
  fi
}

bring_out() {
  imports "$IMPORT" || return 0
  if [ -f "$BEFORE" ] && cmp -s "$CONFIG" "$AFTER"; then
    say "Restoring $CONFIG"
    write_configuration "$BEFORE"
  else
    if [ -f "$BEFORE" ]; then
      say "$CONFIG was edited since; removing only $IMPORT from its imports"
    else
      say "What $CONFIG was before is no longer known; removing only $IMPORT from its imports"
    fi
    without_ours "$WORK/after"
    write_configuration "$WORK/after"
  fi
}

# ---- Building and activating

# `build OPTION...` runs nixos-rebuild with these options.
build() {
  say "Building the configuration (the first time on a small machine this can take a while)"
  mkdir -p "$WORK/build"
  (cd "$WORK/build" && nixos-rebuild build "$@") >>"$REBUILD_LOG" 2>&1 </dev/null ||
    fail_with_log "The configuration does not build; correct what Nix reports and run this again."
  RESULT=$(readlink -f "$WORK/build/result")
  [ -x "$RESULT/bin/switch-to-configuration" ] ||
    fail_with_log "nixos-rebuild left no system to activate; run \"nixos-rebuild build $*\" on the server to see why."
}

build_channel() {
  if [ "$CONFIG_DIR" = /etc/nixos ]; then build; else build -I "nixos-config=$CONFIG_DIR/configuration.nix"; fi
}

is_running() { runs "$1" && [ "$(readlink -f "$PROFILE")" = "$1" ]; }

# `in_unit NAME COMMAND...` runs a command outside the SSH connection, which the change may cut.
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
      # Status 4 also occurs if a unit had failed long before; only new failures count.
      failed_units >"$WORK/failed-after"
      newly_failed=$(comm -13 "$WORK/failed-before" "$WORK/failed-after" | tr '\n' ' ')
      [ -z "$newly_failed" ] ||
        reject "these units failed in it: ${newly_failed% }"
      # If a reload fails, the edge keeps its old configuration, and all further checks would check that.
      case $(systemctl show --property=ReloadResult --value immich-edge </dev/null) in
        '' | success) ;;
        *) reject "immich-edge did not load its new configuration (see \"journalctl -u immich-edge\")" ;;
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

# Both the timer and a failure in this script run these few lines. If no configuration.nix is ours to restore, CONFIGURATION is
# "-".
arm_rollback() {
  cat >"$WORK/rollback" <<'END'
# sh rollback.sh COPY WRITTEN CONFIGURATION PROFILE LINK SYSTEM: bring back configuration.nix, the generation that boots, the
# system. A configuration.nix that is not as it was WRITTEN has been edited since, and stays.
if [ "$3" != - ] && cmp -s "$2" "$3"; then
  ours=${3%/*}/immich-exposure
  [ -f "$ours/.immich-exposure" ] || ours=${3%/*}
  new=$(mktemp "$ours/.immich-exposure.XXXXXX")
  { cp -a "$3" "$new" && cat "$1" >"$new" && touch -r "$1" "$new" && mv -f "$new" "$3"; } || rm -f "$new"
fi
action=test
if [ "$(readlink "$4")" != "$5" ]; then
  generation=${5#system-}
  nix-env --profile "$4" --switch-generation "${generation%-link}"
  action=switch
fi
exec "$6/bin/switch-to-configuration" "$action"
END
  write_file 0600 "$ROLLBACK" <"$WORK/rollback"
  OLD_LINK=$(readlink "$PROFILE") ||
    fail_with_log "$PROFILE is not a link to a generation, so it could not be restored; run \"nixos-rebuild boot\" once."
  OLD_SYSTEM=$(readlink -f "$CURRENT_SYSTEM")
  disarm_rollback
  systemd-run --quiet --collect --unit=immich-exposure-rollback --on-active="$ROLLBACK_SECONDS" --service-type=oneshot \
    --setenv=PATH="$PATH" sh "$ROLLBACK" "$AT_START" "$WRITTEN" "$CONFIG" "$PROFILE" "$OLD_LINK" "$OLD_SYSTEM" \
    </dev/null >>"$REBUILD_LOG" 2>&1 ||
    fail_with_log "The rollback timer could not be set, so nothing was changed; see \"systemctl --failed\"."
}

# A killed run has left its change half done, its timer armed and its files in STATE. This run would overwrite those files, and
# the configuration that nobody checked would stay: so everything is rolled back first.
finish_rollback() {
  rollback_is_pending || return 0
  say "An earlier run was killed halfway; going back to where it began"
  systemctl start immich-exposure-rollback.service </dev/null ||
    say "The rollback reported problems; see \"journalctl -u immich-exposure-rollback\""
  disarm_rollback
}

# Armed, or running already: then starting it only waits for it to finish.
rollback_is_pending() {
  active immich-exposure-rollback.timer ||
    [ "$(systemctl is-active immich-exposure-rollback.service </dev/null)" = activating ]
}

disarm_rollback() {
  systemctl stop immich-exposure-rollback.timer >/dev/null 2>&1 </dev/null || :
}

# An edit that the owner made while this ran, during a long build for example, stays; only what this run added is removed.
put_configuration_back() {
  if cmp -s "$WRITTEN" "$CONFIG"; then
    replace_configuration "$AT_START"
  elif [ "$SWAPPED" = yes ] && imports "$IMPORT"; then
    say "$CONFIG was edited in the meantime; removing only $IMPORT from its imports"
    without_ours "$WORK/after"
    replace_configuration "$WORK/after"
  fi
}

roll_back() {
  drop_candidate
  if [ "$STARTED" = yes ]; then
    say "Going back to the previous generation"
    in_unit rollback sh "$ROLLBACK" "$AT_START" "$WRITTEN" "$CONFIG" "$PROFILE" "$OLD_LINK" "$OLD_SYSTEM" ||
      say "The rollback reported problems; see $REBUILD_LOG"
    disarm_rollback
    try_sync_home
  elif [ -f "$ROLLBACK" ]; then
    # Armed, but nothing activated yet.
    disarm_rollback
  fi
  if [ "$CONFIG" != - ]; then
    put_configuration_back
    if [ "$SWAPPED" = yes ]; then rm -f "$BEFORE" "$AFTER"; fi
    # A system with the module may import our folder under another spelling, and with it home.nix.
    imports "$IMPORT" || has_module "$CURRENT_SYSTEM" || rm -f "$FOLDER/home.nix"
  fi
  rm -f "$AT_START" "$WRITTEN" "$ROLLBACK"
}

# ---- Checking the result, from the server itself

# Asks at the address in the settings, and at the one in the running system's module.
immich_is_there() {
  immich_place "$IMMICH_ADDRESS" "$IMMICH_PORT" >/dev/null || immich_is_behind
}

immich_is_behind() {
  behind=$(module_word immich)
  [ -n "$behind" ] && immich_answers "$behind"
}

# If Immich does not run before a change, for example because its drive is locked, it need not run afterwards.
note_whether_it_answers() {
  ANSWERED=no
  if "$@"; then ANSWERED=yes; fi
}

# `edge PATH [OPTION...]` prints the edge's status code, or 000 if there is no answer; the body is in WORK/body. The edge must
# use the certificate in STATE/tls, so curl trusts only that file.
edge() {
  edge_path=$1
  shift
  : >"$WORK/body"
  curl --silent --noproxy '*' --max-time 10 --cacert "$STATE/tls/server.crt" --resolve "$DOMAIN:$PROXY_PORT:127.0.0.1" \
    --output "$WORK/body" --write-out '%{http_code}' "$@" "https://$DOMAIN:$PROXY_PORT$edge_path" </dev/null || :
}

edge_allows() {
  case $(edge "$1" --haproxy-protocol):$ANSWERED in
    200:*) ;;
    # The edge let the request through, but nothing behind it answered.
    502:no | 503:no | 504:no) ;;
    *) return 1 ;;
  esac
}

# With "rejectWith": "drop" the edge refuses by hanging up.
edge_drops() { grep -qx 'IMMICH_EXPOSURE_REJECT_WITH="\{0,1\}drop"\{0,1\}' "$STATE/settings/edge.env" 2>/dev/null; }

edge_refuses() {
  edge_status=$(edge "$1" --haproxy-protocol)
  if edge_drops; then
    [ "$edge_status" = 000 ]
  else
    [ "$edge_status" = 403 ] && grep -q '"status":403' "$WORK/body"
  fi
}

# Reloads the edge if it runs with another configuration than the one that was proven (see drift.sh).
reload_strayed_edge() {
  strayed_from=$(recorded loaded)
  strayed_to=$(edge_configuration)
  if [ -z "$strayed_from" ] || [ -z "$strayed_to" ] || [ "$strayed_from" = "$strayed_to" ]; then return 0; fi
  reload_edge
}

UNITS="immich-edge immich-bans"

need_active() {
  for service in $UNITS; do
    active "$service" ||
      reject "$service $(at_rest "$service")"
  done
}

# Units start automatically only at boot and with a new system, and their files may have come later.
start_units() {
  # shellcheck disable=SC2086
  for service in $(not_active $SERVICES); do
    systemctl start "$service" >/dev/null 2>&1 </dev/null || :
  done
}

check_edge() {
  say "Checking the edge from the server itself"
  start_units
  # A service can start successfully and fail a moment later, so this is checked again at the end.
  need_active
  if [ "$ANSWERED" = yes ]; then
    wait_for 180 immich_is_there ||
      reject "Immich no longer answers on port $IMMICH_PORT"
  else
    say "Immich does not answer, as before; the funnel opens once it does"
  fi
  refusal="answer 403"
  ! edge_drops || refusal="hang up"
  # First check that it answers at all: after that, no answer means a refusal.
  wait_for 20 edge_allows /api/server/config ||
    reject "the edge does not let /api/server/config through"
  for refused in / /api/users/me; do
    wait_for 20 edge_refuses "$refused" ||
      reject "the edge does not $refusal for $refused without a certificate"
  done
  [ "$(edge /)" = 000 ] ||
    reject "the edge answers connections without a PROXY header"
  sleep 2
  need_active
}

# `home_places IMMICH HOME`: the places where Immich may answer once nothing is in front of it any more.
immich_is_home() {
  home_port=${IMMICH##*:}
  for place in "$IMMICH" "127.0.0.1:$home_port" "[::1]:$home_port" $(immich_places "$HOME_HOST" "$home_port"); do
    if immich_answers "$place"; then return 0; fi
  done
  return 1
}

check_home() {
  if [ "$ANSWERED" = no ]; then
    # It will need its own address all the same, once its drive is there.
    stop_home
    say "Immich did not answer before, so this does not wait for it"
    return 0
  fi
  wait_for 180 immich_has_its_place ||
    reject "Immich no longer answers on port ${IMMICH##*:}"
}

# A lease timer's run during the switch may have opened our sockets again, which keeps Immich from listening there.
immich_has_its_place() {
  stop_home
  immich_is_home
}

# ---- The verbs

need_nixos() {
  [ -e "$ROOT/etc/NIXOS" ] || die "This server does not run NixOS; set host to the NixOS machine that runs Immich."
}

begin() {
  make_state
  finish_rollback
  : >"$WORK/empty"
  write_file 0600 "$REBUILD_LOG" <"$WORK/empty"
  CONFIG=- SWAPPED=no STARTED=no CANDIDATE=''
  UNDO=roll_back
}

begin_with_configuration() {
  need_nixos
  [ -f "$CONFIG_DIR/configuration.nix" ] ||
    die "There is no $CONFIG_DIR/configuration.nix; set configDir to the folder that holds it."
  begin
  FOLDER=$(configuration_folder "$CONFIG_DIR")/immich-exposure
  keep_copy "$(readlink -f "$CONFIG_DIR/configuration.nix")" "$AT_START"
  CONFIG=$(readlink -f "$CONFIG_DIR/configuration.nix")
  drop_old_candidates
  # Left by an earlier run; this run has written nothing yet.
  rm -f "$WRITTEN"
}

need_domain() {
  DOMAIN=$(recorded_domain)
  [ -n "$DOMAIN" ] || die "There is no name in $DOMAIN_FILE yet; get the server's certificate first."
}

# If there is a flake.nix, nixos-rebuild builds that and never reads configuration.nix.
need_channel() {
  case ${FOLDER%/*} in
    "$ROOT"/nix/store/*)
      die "$CONFIG is generated by Nix, so nothing can be put beside it; import the module where it is generated, set module: yours and run" \
        "this again."
      ;;
  esac
  for channel_folder in "$CONFIG_DIR" "${FOLDER%/*}" "$ROOT/etc/nixos"; do
    [ ! -e "$channel_folder/flake.nix" ] ||
      die "This system comes from the flake in $channel_folder, so $CONFIG is not what it is built from; import the module in" \
        "that flake, set flake: \"$channel_folder#$(uname -n)\" and run this again."
  done
  if need_channel_system=$(other_system); then
    die "This system is built from $need_channel_system, so $CONFIG is not what nixos-rebuild reads; import the module there, set" \
      "module: yours and run this again."
  fi
}

# This is only a guess, and only made if the running system is not what configuration.nix produces.
doubt_channel() {
  doubted=$(flake_above "${FOLDER%/*}") || return 0
  printf ' (the system may come from the flake in %s: then import the module there and set flake: "%s#%s")' \
    "$doubted" "$doubted" "$(uname -n)"
}

# What is behind a funnel that was opened by hand is about to change. It closes as late as possible, so that nobody is locked
# out during a build, or by a build whose checks then fail; ours opens when everything has been proven.
close_manual_funnels() {
  [ -f "$BY_HAND" ] || return 0
  while read -r by_hand_funnel by_hand_target; do
    close_funnel "$by_hand_funnel" "$by_hand_target"
    say "The funnel on port $by_hand_funnel that was opened by hand is closed; it opens again for the proof"
  done <"$BY_HAND"
  rm -f "$BY_HAND"
}

# A run that did not get as far as closing the owner's own funnel leaves it open, and has opened none itself.
close_ours() {
  if [ -f "$BY_HAND" ]; then return 0; fi
  # shellcheck disable=SC2046
  close_funnel $(recorded_ports)
}

# `change CHECK BUILD...` changes to a generation that passes CHECK. A build takes time, and the owner may rebuild meanwhile:
# activating the earlier build would undo their change, so it is evaluated and built again.
change() {
  for change_round in 1 2 3; do
    change_once "$@"
    if [ "$CHANGED" = yes ]; then
      # shellcheck disable=SC2034
      UNDO=:
      rm -f "$AT_START" "$WRITTEN" "$ROLLBACK"
      return 0
    fi
    say "Somebody else has rebuilt the server in the meantime, so this starts over"
  done
  die "Somebody else keeps rebuilding the server ($change_round times in the meantime), so nothing was changed; wait until that has" \
    "ended and run this again."
}

# CHANGED stays no if the running system, or the generation that boots, is no longer the one from the beginning.
change_once() {
  CHANGED=no
  change_check=$1
  shift
  note_system
  "$@"
  is_noted_system || return 0
  if is_running "$RESULT"; then
    say "This configuration is already active"
    reload_strayed_edge
    close_manual_funnels
    "$change_check"
    CHANGED=yes
    return 0
  fi
  check_before_switch
  arm_rollback
  # Immich is about to take back the addresses that our sockets hold.
  [ "$change_check" != check_home ] || stop_home
  close_manual_funnels
  needs_proof
  activate_as_test
  "$change_check"
  if ! { runs "$RESULT" && [ "$(readlink "$PROFILE")" = "$NOTED_LINK" ]; }; then
    # The rollback would undo the owner's change.
    disarm_rollback
    STARTED=no
    return 0
  fi
  make_default
  disarm_rollback
  CHANGED=yes
}

note_system() { NOTED_SYSTEM=$(readlink -f "$CURRENT_SYSTEM") NOTED_LINK=$(readlink "$PROFILE") || NOTED_LINK=; }

is_noted_system() { runs "$NOTED_SYSTEM" && [ "$(readlink "$PROFILE")" = "$NOTED_LINK" ]; }

stop_home() { systemctl stop 'immich-exposure-lan@*.socket' 'immich-exposure-lan@*.service' >/dev/null 2>&1 </dev/null || :; }

# Must come last: if the operator's connection is gone, writing the answer ends the script.
print_generation() {
  generation=$(readlink "$PROFILE") || generation=
  generation=${generation#system-}
  generation=${generation%-link}
  case $generation in '' | *[!0-9]*) generation=null ;; *) ;; esac
  printf '{"generation":%s}\n' "$generation"
}

# The configuration without what this run changes, for comparison with the running system.
describe_unchanged() {
  if ! imports "$IMPORT"; then
    describe_channel "$WORK/unchanged" "$CONFIG"
  elif [ -z "$(module_word digest)" ]; then
    # An earlier run was cut off before it was activated.
    without_ours "$WORK/without"
    look_at "$WORK/without" "$WORK/unchanged"
  elif is_ours "$MODULE_BEFORE"; then
    swap_import "$CONFIG" "$IMPORT" "$MODULE_BEFORE" >"$WORK/with-before"
    look_at "$WORK/with-before" "$WORK/unchanged" || return 1
    # If an earlier run was cut off at its very end, the newer files are running already.
    if ! runs "$(word_of toplevel "$WORK/unchanged")" && describe_channel "$WORK/newer" "$CONFIG" &&
      runs "$(word_of toplevel "$WORK/newer")"; then
      cat "$WORK/newer" >"$WORK/unchanged"
    fi
  else
    describe_channel "$WORK/unchanged" "$CONFIG"
  fi
}

# nixos-rebuild finds its configuration by rules of its own, which keep growing: what it built must be what was evaluated. A
# system that contains a copy of its configuration.nix only compares equal when the real file is evaluated.
build_as_evaluated() {
  build_channel
  if [ "$RESULT" = "$(word_of toplevel "$WORK/changed")" ]; then return 0; fi
  { describe_channel "$WORK/in-place" "$CONFIG" && [ "$RESULT" = "$(word_of toplevel "$WORK/in-place")" ]; } ||
    fail_with_log "nixos-rebuild built a system other than the one in $CONFIG, and nothing was changed; import the module" \
      "where that system is described, set module: yours and run this again."
}

# What was evaluated needs no build if it is already running.
use_or_build() {
  RESULT=$(word_of toplevel "$WORK/changed")
  is_running "$RESULT" || "$@"
}

# A configuration may import everything next to it, including our files as soon as they exist. The owner's next rebuild would
# then fail, or enable the module unchecked, so the files do not stay: the next run brings them again. Fails if they must stay,
# as when a file of the owner's names the folder in another spelling.
remove_unused_files() {
  ! imports "$IMPORT" && ! has_module "$CURRENT_SYSTEM" && ! has_module "$PROFILE" && [ -z "$(naming_files "$FOLDER")" ] || return 1
  remove_module_files "$FOLDER"
  rm -rf "$MODULE_BEFORE"
}

# `refuse_automatic_import AND REMEDY`
refuse_automatic_import() { die "$CONFIG automatically imports the files in $FOLDER, $1; $2"; }
REMOVED_AGAIN="they were removed again, so exclude a folder of that name there and run this again."
EXCLUDE="exclude that folder there, import it as $IMPORT alone, or run \"pulumi destroy\", which removes it again."

refuse_unchanged() {
  unchanged_error=$(last_error "$REBUILD_LOG")
  if remove_unused_files && describe_channel "$WORK/unchanged" "$CONFIG"; then
    refuse_automatic_import "and does not evaluate with them ($unchanged_error)" "$REMOVED_AGAIN"
  elif ! imports "$IMPORT" && grep -qF "$FOLDER/" "$REBUILD_LOG"; then
    refuse_automatic_import "and does not evaluate with them ($unchanged_error)" "$EXCLUDE"
  fi
  fail_with_log "$CONFIG does not evaluate even before any change; correct what Nix reports and run this again."
}

# The owner has restored the earlier text (with a `git checkout` for example) and not rebuilt since: the running system is still
# what our text made, so there is no unrelated change. A newer version of the module is compared by means of the files that the
# running system was built from.
is_reverted() {
  [ -n "$(module_word digest)" ] && [ -f "$AFTER" ] && cmp -s "$CONFIG" "$BEFORE" || return 1
  cat "$AFTER" >"$WORK/reverted"
  ! is_ours "$MODULE_BEFORE" || swap_import "$AFTER" "$IMPORT" "$MODULE_BEFORE" >"$WORK/reverted"
  look_at "$WORK/reverted" "$WORK/reverted-words" && runs "$(word_of toplevel "$WORK/reverted-words")"
}

managed() {
  begin_with_configuration
  need_channel
  is_ours "$FOLDER" || die "The files of the module are not in $FOLDER; install them first."
  need_domain
  note_whether_it_answers immich_is_there
  bring_home_back
  change check_edge evaluate_and_build
  rm -rf "$MODULE_BEFORE"
  print_generation
}

evaluate_and_build() {
  say "Evaluating the configuration without and with the module"
  describe_unchanged || refuse_unchanged
  # The owner's own next rebuild would switch our module on, and nobody would check the result.
  if ! imports "$IMPORT" && [ "$(word_of exposure "$WORK/unchanged")" = on ]; then
    if remove_unused_files; then taken_in_remedy=$REMOVED_AGAIN; else taken_in_remedy=$EXCLUDE; fi
    refuse_automatic_import "without the plain import $IMPORT$(naming_files "$FOLDER")" "$taken_in_remedy"
  fi
  # If this configuration.nix is unused, building it would discard the whole system: that remedy comes first.
  is_reverted || compare_with_running "The rebuild" "$WORK/unchanged" \
    " (where the system is built from another place, by a flake or a deploy tool, set module: yours or flake: \"DIR#HOST\")" \
    "$(doubt_channel)"
  bring_in
  use_or_build build_as_evaluated
}

restore() {
  FOLDER=$(configuration_folder "$CONFIG_DIR")/immich-exposure
  CONFIG=${FOLDER%/*}/configuration.nix
  [ ! -f "$CONFIG_DIR/configuration.nix" ] || CONFIG=$(readlink -f "$CONFIG_DIR/configuration.nix")
  if is_ours "$STATE" || imports "$IMPORT" || is_left_running; then close_ours; fi
  if [ ! -f "$CONFIG" ] && is_ours "$STATE"; then
    leave_without_configuration
    return 0
  fi
  # A folder that "make module" exported, and its import, belong to the owner.
  if [ ! -f "$BEFORE" ] && ! is_left_running && { ! imports "$IMPORT" || is_exported "$FOLDER"; }; then
    say "$CONFIG_DIR/configuration.nix contains nothing of the exposure"
    drop_old_candidates
    return 0
  fi
  begin_with_configuration
  IMMICH=$(immich_behind)
  HOME_HOST=$(module_word home)
  case $HOME_HOST in '' | null | 0.0.0.0 | :: | localhost | *[!0-9A-Za-z:.-]*) HOME_HOST=- ;; *) ;; esac
  note_whether_it_answers immich_answers "$IMMICH"
  bring_out
  change check_home build_home
  rm -f "$BEFORE" "$AFTER" "$LAN" "$FOLDER/home.nix"
  rm -rf "$MODULE_BEFORE"
  print_generation
}

# A removal that was cut off has taken the import out but not rebuilt yet, and what STATE knew of it is gone; or the owner has
# removed the import.
is_left_running() {
  [ -f "$CONFIG" ] && ! imports "$IMPORT" && is_ours "$FOLDER" && ! is_exported "$FOLDER" || return 1
  has_module "$CURRENT_SYSTEM" || has_module "$PROFILE"
}

# The owner has moved to a flake, for example. Nothing can be restored, and nothing here builds that system.
leave_without_configuration() {
  say "$CONFIG no longer exists, so nothing is removed from it; remove $IMPORT from what imports it now"
  leave_alone
  rm -f "$BEFORE" "$AFTER"
  rm -rf "$MODULE_BEFORE"
  if is_ours "${CONFIG%/*}/immich-exposure"; then rm -f "${CONFIG%/*}/immich-exposure/home.nix"; fi
}

# A file of the configuration still imports our folder, whether it enables our module or not.
is_still_declared() {
  is_ours "$FOLDER" || return 1
  # shellcheck disable=SC2016
  declared=$(nix-instantiate --eval --strict --json --read-write-mode -I "nixos-config=$CONFIG" --argstr configuration "$CONFIG" \
    --argstr folder "$FOLDER/" -E '{ configuration, folder }: let
        system = import <nixpkgs/nixos> { configuration = /. + configuration; };
        option = system.options.services.immich-exposure.enable or { };
        within = file: builtins.substring 0 (builtins.stringLength folder) (toString file) == folder;
      in builtins.any within (option.declarations or [ ])' 2>>"$REBUILD_LOG" </dev/null) || return 1
  [ "$declared" = true ]
}

# The removal is refused only if it would not work: the module's files, which are removed next, are still imported, by another
# file or under another spelling. Any other change is only reported.
build_home() {
  build_channel
  if has_module "$RESULT"; then
    die "$CONFIG still imports the module other than by $IMPORT$(naming_files "$FOLDER"), and no rebuild would succeed" \
      "once $FOLDER is removed, so it stays; remove every import of that folder and run this again."
  fi
  ! is_still_declared ||
    die "$CONFIG still imports the module, switched off, other than by $IMPORT$(naming_files "$FOLDER"), and it would" \
      "not evaluate once $FOLDER is removed, so it stays; remove every import of that folder and run this again."
  DIFFERENCE=
  differs "NixOS" "$(running_nixos)" "$(cat "$RESULT/nixos-version" 2>/dev/null)"
  [ -z "$DIFFERENCE" ] || say "This also brings $DIFFERENCE"
}

# `refuse_flake FAULT`
refuse_flake() {
  # shellcheck disable=SC2154
  ! { grep -q "is not owned by current user" "$REBUILD_LOG" && in_git "$FLAKE_DIR"; } ||
    die "Nix does not read the checkout in $git_folder as root, because another user owns it; run \"git config --global --add" \
      "safe.directory $git_folder\" as root on the server, and run this again."
  fail_with_log "$FLAKE#$HOST $1"
}

# The whole system belongs to the owner. Unrelated changes are found by comparing with the system without our module, as far as
# possible: for a running system that has the module already, only versions can be compared.
compare_flake() {
  if runs "$(word_of toplevel "$WORK/changed")"; then return 0; fi
  if [ -n "$(module_word digest)" ]; then
    name_difference "$WORK/changed"
    [ -z "$DIFFERENCE" ] || refuse_upgrade "The rebuild of $FLAKE#$HOST"
    return 0
  fi
  describe_flake "$WORK/unchanged" 'system: system.extendModules { modules = [
      { services.immich-exposure.enable = { _type = "override"; priority = 0; content = false; }; } ]; }' ||
    refuse_flake "does not evaluate without the module; correct what Nix reports and run this again."
  compare_with_running "The rebuild of $FLAKE#$HOST" "$WORK/unchanged" \
    " (a new commit alone is one, where the flake writes its revision into the system)"
  changed_settings=$(other_settings "$WORK/unchanged" "$WORK/changed")
  [ -z "$changed_settings" ] ||
    die "With the module, $FLAKE#$HOST changes Immich's ${changed_settings% }; correct that and run this again."
}

flake() {
  need_nixos
  [ -e "$FLAKE_DIR/flake.nix" ] || die "There is no $FLAKE_DIR/flake.nix; set flake to DIR#HOST of the server's own flake."
  FLAKE_DIR=$(flake_folder "$FLAKE_DIR")
  begin
  need_domain
  FLAKE=$(flake_url "$FLAKE_DIR")
  note_whether_it_answers immich_is_there
  change check_edge evaluate_and_build_flake
  print_generation
}

evaluate_and_build_flake() {
  say "Evaluating $FLAKE#$HOST with and without the module"
  describe_flake "$WORK/changed" 'system: system' ||
    refuse_flake "does not evaluate (is $HOST one of its nixosConfigurations?); correct what Nix reports."
  [ "$(word_of exposure "$WORK/changed")" = on ] ||
    die "$FLAKE#$HOST does not have services.immich-exposure.enable = true; import the module there (\"make module\" exports" \
      "it), commit it where git is used, and run this again."
  compare_flake
  # Its flake.lock is not written either; the file would then belong to root.
  use_or_build build --flake "$FLAKE#$HOST" --no-write-lock-file
}

yours() {
  [ -n "$(module_word digest)" ] ||
    die "The running system does not have services.immich-exposure; import the module, enable it and rebuild, then run this" \
      "again."
  make_state
  need_domain
  STARTED=no
  note_whether_it_answers immich_is_there
  reload_strayed_edge
  close_manual_funnels
  check_edge
  print_generation
}

leave_alone() {
  if is_ours "$STATE"; then close_ours; fi
  finish_rollback
  for service in $UNITS; do systemctl stop "$service" >/dev/null 2>&1 </dev/null || :; done
  rm -f "$LAN"
  try_sync_home
}

# `take_arguments PROXY_PORT IMMICH_ADDRESS|- IMMICH_PORT [ALLOW_UPGRADE]`
take_arguments() {
  PROXY_PORT=${1:-} IMMICH_ADDRESS=${2:-} IMMICH_PORT=${3:-} ALLOW_UPGRADE=${4:-no}
  port proxyPort "$PROXY_PORT"
  check_address "$IMMICH_ADDRESS"
  port "immich.port" "$IMMICH_PORT"
  case $ALLOW_UPGRADE in
    yes | no) ;;
    *) die "ALLOW_UPGRADE is yes or no, not \"$ALLOW_UPGRADE\"; correct it and run this again." ;;
  esac
}

need_root
verb=${1:-}
[ $# = 0 ] || shift
case $verb:${1:-} in
  managed:/*)
    CONFIG_DIR=$1
    shift
    take_arguments "$@"
    ;;
  restore:/*) CONFIG_DIR=$1 ;;
  flake:/*)
    FLAKE_DIR=$1 HOST=${2:-}
    case $HOST in
      '' | *[!A-Za-z0-9._-]*) die "A host of a flake is a plain name, not \"$HOST\"; set flake to DIR#HOST." ;;
      *) ;;
    esac
    shift 2
    take_arguments "$@"
    ;;
  yours:*) take_arguments "$@" ;;
  leave:) verb=leave_alone ;;
  *)
    die "module.sh takes \"managed CONFIG_DIR ...\", \"flake DIR HOST ...\", \"yours ...\", \"restore CONFIG_DIR\" or \"leave\"," \
      "folders as absolute paths; correct the arguments."
    ;;
esac
lock
"$verb"
