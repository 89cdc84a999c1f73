# shellcheck shell=sh
# Functions shared by the scripts in this folder. A script never sources this file; its caller sends
#
#     lib.sh + payload() (only where files are sent) + SCRIPT.sh
#
# as one text to `sh -s -- VERB ARGUMENTS`, as root. So everything that two scripts need is here: messages and errors, the lock,
# files and their marks, JSON, the exposure's own funnel, home access, and the imports of configuration.nix.
#
# POSIX sh (dash and bash). Standard output is for the result alone: one JSON object on one line, or nothing. Progress and
# errors go to standard error. Every child gets </dev/null, because standard input holds this very text.
#
# The tests set IMMICH_EXPOSURE_ROOT and IMMICH_EXPOSURE_STATE to move the files. sudo and systemd pass neither on.

set -eu
umask 022
export LC_ALL=C
PATH=${PATH:+$PATH:}/run/wrappers/bin:/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
# NixOS's channels, for a shell without NIX_PATH.
: "${NIX_PATH:=nixpkgs=/nix/var/nix/profiles/per-user/root/channels/nixos:/nix/var/nix/profiles/per-user/root/channels}"
export NIX_PATH

ROOT=${IMMICH_EXPOSURE_ROOT:-}
STATE=${IMMICH_EXPOSURE_STATE:-$ROOT/var/lib/immich-exposure}
LEASE=$STATE/lease
FUNNEL_RECORD=$STATE/funnel
# How long a proven funnel may be open, and what was proven (see "The lease").
LEASE_TERM=$STATE/term
PROVEN=$STATE/proven
# The funnel's last change, for status: `EPOCH WORD`.
LAST_CHANGE=$STATE/last-change
# The server's state when the exposure was proven (see drift.sh).
STANDING=$STATE/standing
# Exists while the owner keeps the funnel closed by hand: then only the owner can open it. The second file is for a disk that
# cannot be written to.
CLOSED_BY_HAND=$STATE/closed-by-hand
CLOSED_BY_HAND_TOO=$ROOT/run/immich-exposure-closed-by-hand
# What the owner or the funnel decided about Immich at home; without the file, Immich is open.
LAN=$STATE/lan
# Exists while the edge is stopped because nothing else keeps somebody out: only opening the funnel starts it again. In memory,
# because the disk may be what is broken.
EDGE_STOPPED=$ROOT/run/immich-exposure-edge-stopped
DOMAIN_FILE=$STATE/domain.env
# Funnels that were opened by hand before the exposure and are taken over: "FUNNEL_PORT TARGET_PORT" lines, until module.sh
# closes them.
# shellcheck disable=SC2034
BY_HAND=$STATE/by-hand
# shellcheck disable=SC2034
LOGS=$ROOT/var/log/immich-edge
LOCK=$ROOT/run/lock/immich-exposure.lock
# fail2ban's jails, each with a ban folder; bans by hand are in "manual", and lists of networks in "lists".
JAILS="auth keys scan"
# A folder with this file is ours. A folder of the same name without it is not, and is never replaced or removed.
MARK=.immich-exposure
MARK_TEXT='Made by immich-exposure, and removed by "pulumi destroy".'

# ---- The stack of this run

# A run by the operator begins with the id of its stack, which is also recorded in the state folder: no other stack changes
# anything here. With --leaving, a run that only removes things ends with a message if its stack has nothing here (any more).
# What the server starts automatically, or its owner by hand, passes no id.
STACK=
STACK_LEAVES=no
case ${1:-} in
  --stack=* | --leaving=*)
    STACK=${1#*=}
    case $1 in --leaving=*) STACK_LEAVES=yes ;; *) ;; esac
    shift
    ;;
esac
OWNER=$STATE/owner

# ---- Messages and errors

say() { printf '%s\n' "$*" >&2 || :; }

die() {
  say "error: $*"
  exit 1
}

# WORK is a private folder that is removed when the script ends. A script that must undo something when it fails names a
# function in UNDO. WORK is in memory, in the first place that has room, because the funnel must close even on a full disk.
UNDO=:
for work_place in "$ROOT/run" "$ROOT/dev/shm" "${TMPDIR:-/tmp}"; do
  WORK=$(mktemp -d "$work_place/immich-exposure.XXXXXX" 2>/dev/null) || WORK=
  [ -n "$WORK" ] || continue
  if { head -c 65536 /dev/zero >"$WORK/room"; } 2>/dev/null; then break; fi
  rm -rf "$WORK"
  WORK=
done
# Revoking a device needs no space at all.
[ -n "$WORK" ] || [ "${1:-}" = stay ] ||
  die "Nothing can be written to /run, /dev/shm or /tmp of this server; make room in one of them and run this again."
[ -z "$WORK" ] || : >"$WORK/room"

leave() {
  leave_status=$?
  trap - EXIT
  set +e
  [ "$leave_status" = 0 ] || ("$UNDO")
  rm -rf "$WORK"
  exit "$leave_status"
}
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
# A lost connection must not stop a script half-way: it continues silently, and finishes or undoes its work.
trap : PIPE

need_root() {
  [ "$(id -u)" = 0 ] || die "This must run as root; use sudo."
}

# Only root may open the file: anyone who can open it could hold the lock, and prevent a lost device from being revoked.
open_lock() {
  [ -d "${LOCK%/*}" ] || mkdir -p "${LOCK%/*}" || return 1
  umask 077
  exec 9>"$LOCK"
  umask 022
}

# In a subshell, because a failing redirection ends the shell.
can_lock() { (open_lock && : >&9) 2>/dev/null; }

# ---- Notices to the owner

# Notices wait in a folder that only root can read, next to the channel's settings (notify.sh). Without a channel in the
# config there is no such folder, and no notice is sent.
NOTICES=$STATE/notices
# A channel that does not answer must not fill the disk.
MOST_WAITING=200

# `tell KIND SENTENCE` queues a notice, which a unit of the module delivers. It never waits and never fails: the event itself is
# more important. KIND is a word of notify.sh; the sentence contains no secret and nothing that a visitor chose.
tell() {
  [ -f "$NOTICES/channel" ] || return 0
  (note_down "$1" "$2") 2>/dev/null </dev/null || say "The notice \"$2\" could not be saved, so nobody receives it"
  systemctl start --no-block immich-exposure-notify.service >/dev/null 2>&1 </dev/null || :
}

note_down() {
  [ "$(find "$NOTICES/waiting" -type f | wc -l)" -lt "$MOST_WAITING" ] || return 1
  # Renamed into place, because the delivery does not take the lock.
  note_temp=$(mktemp "$NOTICES/.new.XXXXXX") || return 1
  note_name=$(now).$1.${note_temp##*.}
  if printf '%s\n' "$2" >"$note_temp" && mv -f "$note_temp" "$NOTICES/waiting/$note_name"; then return 0; fi
  rm -f "$note_temp"
  return 1
}

# Two runs never change the server at the same time: `lock` waits up to five minutes for the other one.
lock() {
  lock_for_anybody
  check_stack
}

lock_for_anybody() {
  can_lock || die "$LOCK cannot be opened; make room in ${LOCK%/*} and run this again."
  until
    open_lock
    flock -w 300 9 ||
      die "Another run is still changing this server and holds $LOCK; wait until it has ended and run this again."
    # The last step of a destroy removes the file; a run that waited for it would then hold a lock on nothing.
    [ "$(stat -L -c %d:%i /proc/self/fd/9)" = "$(stat -c %d:%i "$LOCK" 2>/dev/null)" ]
  do :; done
}

# `read_owner` sets OWNER_ID and OWNER_NAME; fails if nobody has exposed this server.
read_owner() {
  OWNER_ID='' OWNER_NAME=''
  is_ours "$STATE" && [ -s "$OWNER" ] && { read -r OWNER_ID OWNER_NAME <"$OWNER" || [ -n "$OWNER_ID" ]; }
}

# Called with the lock held, so that no other stack takes over the server in the meantime.
check_stack() {
  if [ -z "$STACK" ] || ! read_owner || [ "$OWNER_ID" = "$STACK" ]; then return 0; fi
  if [ "$STACK_LEAVES" = yes ]; then
    say "This server is exposed by the stack $OWNER_NAME; nothing of this stack is left on it, and nothing was changed"
    exit 0
  fi
  die "This server is exposed by the stack $OWNER_NAME and no longer by this one, so nothing was changed; run \"pulumi destroy\" with" \
    "that stack first, or with this one, which then leaves the server as it is."
}

# `number NAME VALUE LOW HIGH`: arguments are checked before any command gets them.
number() {
  case $2 in
    '' | *[!0-9]* | ???????????*) die "$1 must be a whole number, not \"$2\"; correct it and run this again." ;;
  esac
  { [ "$2" -ge "$3" ] && [ "$2" -le "$4" ]; } ||
    die "$1 must be between $3 and $4, not $2; correct it and run this again."
}

port() { number "The $1" "$2" 1 65535; }

now() { date +%s; }

# `wait_for SECONDS COMMAND...` repeats the command twice a second until it succeeds, independent of clock changes.
wait_for() {
  wait_end=$(($(seconds) + $1))
  shift
  until "$@"; do
    [ "$(seconds)" -lt "$wait_end" ] || return 1
    sleep 0.5
  done
}

seconds() { awk '{ print int($1) }' "$ROOT/proc/uptime" 2>/dev/null || now; }

active() { systemctl is-active --quiet "$1" </dev/null; }

# `not_active UNIT...` prints the units that do not run. One call asks for all of them; a unit that is not plainly "active" is
# asked for again, because a unit that is reloading runs as well.
not_active() {
  systemctl is-active "$@" >"$WORK/units" 2>/dev/null </dev/null || :
  for unit; do
    read -r unit_state <&3 || unit_state=
    [ "$unit_state" = active ] || active "$unit" || printf '%s\n' "$unit"
  done 3<"$WORK/units"
}

is_masked() {
  case $(systemctl is-enabled "$1" 2>/dev/null </dev/null) in masked*) return 0 ;; *) return 1 ;; esac
}

# `hand_mask UNIT` prints the links by which the unit was masked by hand. NixOS keeps its units in /etc itself, where "systemctl
# mask" does not work: only a link in one of these folders masks them, and "systemctl unmask" does not remove it.
hand_mask() {
  for mask_folder in "$ROOT/etc/systemd/system.control" "$ROOT/run/systemd/system.control" "$ROOT/run/systemd/transient"; do
    [ "$(readlink "$mask_folder/$1" 2>/dev/null)" != /dev/null ] || printf '%s\n' "$mask_folder/$1"
  done
}

# `unmask UNIT...`
unmask() {
  unmask_some=no
  for unit; do
    for mask in $(hand_mask "$unit"); do
      say "Removing $mask, which masks $unit"
      rm -f "$mask"
      unmask_some=yes
    done
  done
  [ "$unmask_some" = no ] || systemctl daemon-reload </dev/null
}

# `at_rest UNIT` prints why a unit does not run, and what to do about it.
at_rest() {
  if is_masked "$1"; then
    echo "is masked, so it is not running; run \"sudo systemctl unmask $1\" on the server, or remove its \"enable = false\" from your configuration"
  else
    echo "is not running (see \"journalctl -u $1\")"
  fi
}

# `is_one_of WORD WORDS...`
is_one_of() {
  sought=$1
  shift
  for word; do [ "$word" != "$sought" ] || return 0; done
  return 1
}

# ---- Files

# `write_file MODE PATH` writes standard input to a file atomically; `write_line MODE PATH TEXT` writes one line.
write_file() {
  begin_file "$2"
  cat >"$write_temp" || not_put "$2"
  put_in_place "$1" "$2"
}

write_line() {
  begin_file "$2"
  printf '%s\n' "$3" >"$write_temp" || not_put "$2"
  put_in_place "$1" "$2"
}

begin_file() {
  write_temp=$(mktemp "${1%/*}/.immich-exposure.XXXXXX") ||
    die "Nothing can be written to ${1%/*}; make room on its disk and run this again."
}

put_in_place() {
  chmod "$1" "$write_temp" || not_put "$2"
  mv -f "$write_temp" "$2" || not_put "$2"
}

not_put() {
  rm -f "$write_temp"
  die "$1 could not be written; make room on its disk and run this again."
}

# `is_ours FOLDER`: a real folder with our mark. A link does not count, because it may lead anywhere.
is_ours() { [ -d "$1" ] && [ ! -L "$1" ] && [ -f "$1/$MARK" ]; }

# `is_exported FOLDER`: "make module" wrote it, for the owner's own configuration. The mark that `pulumi up` writes begins with
# another line.
is_exported() { is_ours "$1" && head -n 1 "$1/$MARK" | grep -q '^# Made by immich-exposure'; }

# `is_free FOLDER`: it does not exist or is empty (a mount point, or left by a killed run).
is_free() {
  if [ -d "$1" ] && [ ! -L "$1" ]; then
    [ -z "$(ls -A "$1")" ]
  else
    [ ! -e "$1" ] && [ ! -L "$1" ]
  fi
}

need_own_state() {
  is_ours "$STATE" || is_free "$STATE" ||
    die "$STATE was not made by this project, whose file $MARK is missing from it; move it away and run this again."
}

# The folders of the exposure. Folders of the units' users get their owner once the groups exist (after the first rebuild).
make_state() {
  need_own_state
  know_folders
  state_is_complete || make_folders
  if [ "$state_group" = immich-edge ] && [ -f "$STATE/tls/server.key" ]; then give_key; fi
  mark_logs
}

# Sets who owns the folders, and their mode.
know_folders() {
  # Only the units may see who has devices and who is banned: the edge looks, and fail2ban is in its group. Before the first
  # rebuild that group does not exist.
  if has_group immich-edge; then state_group=immich-edge state_mode=750; else state_group=root state_mode=700; fi
  jail_owner=root
  ! has_group immich-bans || jail_owner=immich-bans
}

STATE_FOLDERS="devices revoked bans settings bans/manual tls"

# Succeeds if all folders are as make_folders makes them. Every script calls this, and usually there is nothing to do.
state_is_complete() {
  set -- "$STATE"
  stands_wanted="directory $state_mode root:$state_group;"
  for stands_folder in $STATE_FOLDERS; do
    set -- "$@" "$STATE/$stands_folder"
    stands_wanted="${stands_wanted}directory $state_mode root:$state_group;"
  done
  for stands_folder in $JAILS lists; do
    set -- "$@" "$STATE/bans/$stands_folder"
    stands_wanted="${stands_wanted}directory $state_mode $jail_owner:$state_group;"
  done
  stat -c '%F %a %U:%G' "$@" >"$WORK/folders" 2>/dev/null </dev/null || return 1
  stands_found=
  while read -r stands_line; do stands_found="$stands_found$stands_line;"; done <"$WORK/folders"
  [ "$stands_found" = "$stands_wanted" ]
}

# The units keep using the folders meanwhile, so the owner is set at once and never in two steps.
make_folders() {
  # An empty folder that was there before keeps its owner, who could then replace the folder of devices.
  install -d -m "0$state_mode" "$STATE"
  chown "root:$state_group" "$STATE"
  # Written in place: without the mark, what a killed run leaves there would count as somebody else's.
  [ -f "$STATE/$MARK" ] || printf '%s\n' "$MARK_TEXT" >"$STATE/$MARK" ||
    die "$STATE/$MARK could not be written; make room on its disk and run this again."
  set --
  for make_folder in $STATE_FOLDERS; do set -- "$@" "$STATE/$make_folder"; done
  install -d -m "0$state_mode" "$@"
  chown "root:$state_group" "$@"
  jail_lost=no
  set --
  for make_jail in $JAILS; do
    [ -d "$STATE/bans/$make_jail" ] || jail_lost=yes
    set -- "$@" "$STATE/bans/$make_jail"
  done
  set -- "$@" "$STATE/bans/lists"
  install -d -m "0$state_mode" "$@"
  chown "$jail_owner:$state_group" "$@"
  # A running fail2ban has each jail's folder as a mount of its own, and lost it together with the folder that was here: it can
  # ban nobody any more. It starts again as soon as it has settings.
  if [ "$jail_lost" = yes ] && active immich-bans; then
    systemctl --no-block try-restart immich-bans >/dev/null 2>&1 </dev/null || :
  fi
}

# Who opened what (see who.sh): the key with which the edge names links, the summary, and the key of Immich's API.
WHO=$STATE/who
counts_opens() { grep -qsx 'IMMICH_EXPOSURE_WHO=on' "$STATE/settings/edge.env"; }

# The edge can read the first key; everything else in the folder is for root alone. With another key, links have other names.
make_who() {
  if has_group immich-edge; then who_group=immich-edge who_mode=640; else who_group=root who_mode=600; fi
  if [ "$(stat -c '%F %a %U:%G' "$WHO" 2>/dev/null)" != "directory 750 root:$who_group" ]; then
    install -d -m 0750 "$WHO"
    chown "root:$who_group" "$WHO"
  fi
  counts_opens || return 0
  if [ ! -s "$WHO/key" ]; then
    who_key=$(od -An -v -t x1 -N 32 /dev/urandom | tr -d ' \n')
    write_line 0600 "$WHO/key" "$who_key $(now)"
  fi
  if [ "$(stat -c '%a %U:%G' "$WHO/key")" = "$who_mode root:$who_group" ]; then return 0; fi
  chown "root:$who_group" "$WHO/key"
  chmod "$who_mode" "$WHO/key"
}

# If `who` is off, everything is forgotten; without the key nobody can tell which link a log line is about.
forget_opens() {
  counts_opens || rm -f "$WHO/key" "$WHO/summary" "$WHO/counted" "$WHO/.counting"
  [ ! -d "$WHO" ] || rmdir "$WHO" 2>/dev/null || :
}

# The edge must be able to read the server's key.
give_key() {
  [ "$(stat -c '%a %U:%G' "$STATE/tls/server.key")" != "640 root:immich-edge" ] || return 0
  chown root:immich-edge "$STATE/tls/server.key"
  chmod 0640 "$STATE/tls/server.key"
}

# The folder of logs is ours if it has our mark, which survives a boot that wipes our state, or if an exposure has begun, which
# it only does if there were no foreign logs (see preflight.sh). Whether the system has our module says nothing about the logs.
has_our_logs() { is_ours "$LOGS" || { is_ours "$STATE" && [ -s "$STATE/owner" ]; }; }

# The edge's user owns that folder, so it could put a link in the mark's place, and root must not follow it: `mv` replaces what
# is there without opening it. Nothing depends on the mark at once, so a full disk does not matter here.
mark_logs() {
  if [ ! -d "$LOGS" ] || [ -L "$LOGS" ] || is_ours "$LOGS"; then return 0; fi
  if is_free "$LOGS" || has_our_logs; then
    { printf '%s\n' "$MARK_TEXT" >"$WORK/mark" && mv -fT "$WORK/mark" "$LOGS/$MARK"; } 2>/dev/null </dev/null ||
      say "$LOGS/$MARK could not be written"
  fi
}

has_group() { getent group "$1" >/dev/null </dev/null; }

# The SHA-256 of each certificate in the trust pool, one per line. It is taken of the DER form, which is the base64 between the
# lines of a PEM.
pool_fingerprints() {
  [ -n "$WORK" ] || return 0
  rm -f "$WORK"/authority.*
  [ ! -r "$STATE/device-ca.crt" ] || ! is_ours "$STATE" || awk -v folder="$WORK" '
    /^-----BEGIN CERTIFICATE-----/ { at++; next }
    /^-----END / { close(folder "/authority." at); next }
    at { print >(folder "/authority." at) }' "$STATE/device-ca.crt"
  for authority in "$WORK"/authority.*; do
    [ ! -f "$authority" ] || base64 -d <"$authority" 2>/dev/null | sha256sum | cut -d ' ' -f 1
  done
}

# This server's name in the tailnet, as recorded by certificate.sh.
recorded_domain() { [ ! -r "$DOMAIN_FILE" ] || sed -n 's/^IMMICH_EXPOSURE_DOMAIN=//p' "$DOMAIN_FILE"; }

# `is_renamed`: the node has another name now, in this tailnet or in another account's, and the certificate's name leads nowhere.
# After read_tailscale.
is_renamed() {
  RENAMED_FROM=$(recorded_domain)
  [ -n "$RENAMED_FROM" ] && [ "${DOMAIN:--}" != - ] && [ "$DOMAIN" != "$RENAMED_FROM" ]
}

# Tailscale can save a change, such as a funnel that closes, for the next boot. If it cannot, it says so only the first time
# (FileStore of tailscale.com/ipn/store).
tailscale_saves() { [ -w "$ROOT/var/lib/tailscale" ]; }

# It ends leases, every minute.
# shellcheck disable=SC2034
LEASE_TIMER=immich-exposure-lease.timer

# The units of the module that run while there is an exposure, each with its type.
# shellcheck disable=SC2034
SERVICES="immich-edge.service immich-bans.service immich-exposure-loopback.service immich-exposure-lease.timer
  immich-exposure-certificate.timer immich-exposure-devices.timer immich-exposure-guard.timer immich-exposure-notify.path
  immich-exposure-notify.timer immich-exposure-who.timer immich-exposure-room.timer"

# The program file that the edge's unit starts, and its version in three numbers; empty if unknown.
edge_program() {
  edge_started=$(systemctl show --property=ExecStart --value immich-edge 2>/dev/null </dev/null) || :
  case $edge_started in
    "{ path="*)
      edge_started=${edge_started#"{ path="}
      printf '%s\n' "${edge_started%%[ ;]*}"
      ;;
    *) ;;
  esac
}
edge_version() { timeout 10 "$1" version 2>/dev/null </dev/null | sed -n '1s/^v\{0,1\}\([0-9][0-9.]*\).*/\1/p' || :; }

# ---- Devices (see devices.sh, which writes their files)

# `read_device FILE` sets DEVICE_NAME, DEVICE_END and DEVICE_HAS, which is what the device authenticates with. A file without a
# readable end was written by hand: the device has no end.
# shellcheck disable=SC2034
read_device() {
  DEVICE_NAME=
  DEVICE_END=
  DEVICE_HAS=certificate
  { read -r DEVICE_NAME && read -r DEVICE_END; } 2>/dev/null <"$1" || :
  [ "$DEVICE_END" != frame ] || DEVICE_HAS=secret
  DEVICE_END=${DEVICE_END#until }
  case $DEVICE_END in '' | *[!0-9]* | ????????????*) DEVICE_END= ;; esac
}

# ---- Bans by lists (see nix/lists.nix and caddy/banwriter.go)

LISTS_CONF=$STATE/settings/lists.conf
# shellcheck disable=SC2034
CROWDSEC_KEY=$STATE/settings/crowdsec.key
# The lists that `pulumi up` asks for, each with its source, which is its word in lists.conf.
lists_wanted() {
  [ -r "$LISTS_CONF" ] || return 0
  ! grep -q '^database ' "$LISTS_CONF" || echo countries
  ! grep -q '^networks ' "$LISTS_CONF" || echo networks
  ! grep -q '^crowdsec ' "$LISTS_CONF" || echo crowdsec
}

stop_crowdsec() {
  systemctl stop immich-exposure-crowdsec.service >/dev/null 2>&1 </dev/null || :
  rm -f "$CROWDSEC_KEY" "$STATE/bans/lists/crowdsec" "$STATE/lists/crowdsec"
}

# Ends all bans by lists.
remove_lists() {
  systemctl stop immich-exposure-lists.timer immich-exposure-lists.service >/dev/null 2>&1 </dev/null || :
  stop_crowdsec
  rm -f "$LISTS_CONF" "$STATE/bans/lists/countries" "$STATE/bans/lists/networks"
  rm -rf "$STATE/lists"
}

# The unit that writes a list; it must run.
list_unit() { if [ "$1" = crowdsec ]; then echo immich-exposure-crowdsec.service; else echo immich-exposure-lists.timer; fi; }

# `networks_of COUNT`, in words.
networks_of() { if [ "$1" = 1 ]; then echo "1 network"; else echo "$1 networks"; fi; }

# `read_report LIST` sets REPORT (good, kept or none), REPORT_COUNT, REPORT_TIME and REPORT_SAID; fails if there is no report.
read_report() {
  REPORT=none REPORT_COUNT=0 REPORT_TIME=0 REPORT_SAID="has not been written yet"
  [ -r "$STATE/lists/$1" ] || return 1
  # The report quotes files of the owner's and CrowdSec, so only printable characters are kept.
  tr -cd '\012\040-\176' <"$STATE/lists/$1" >"$WORK/report"
  # shellcheck disable=SC2034
  read -r REPORT REPORT_COUNT REPORT_TIME REPORT_SAID <"$WORK/report" || return 1
  is_count "$REPORT_COUNT" && is_count "$REPORT_TIME"
}

# `recorded WORD` prints what the last proof recorded for it. The words come before the files and devices.
recorded() {
  [ -r "$STANDING" ] || return 0
  while IFS= read -r recorded_line; do
    case $recorded_line in
      "$1 "*)
        printf '%s\n' "${recorded_line#* }"
        return 0
        ;;
      "file "* | "device "*) return 0 ;;
      *) ;;
    esac
  done <"$STANDING"
}

# The SHA-256 of the configuration that the edge runs with, as the edge itself reports it; empty if it does not.
edge_configuration() {
  curl --silent --fail --noproxy '*' --max-time 5 --unix-socket "$ROOT/run/immich-edge/admin.sock" http://localhost/config/ \
    >"$WORK/loaded" 2>/dev/null </dev/null || return 0
  sha256sum <"$WORK/loaded" | cut -d ' ' -f 1
}

# Prints a sentence if the disk of the log is full: fail2ban bans by what the edge writes there. (What only root may use does not
# count.)
full_log() {
  [ "$(timeout 10 df -Pk "$LOGS" 2>/dev/null </dev/null | awk 'NR == 2 { print $4 }')" = 0 ] || return 0
  echo "The disk of $LOGS is full, so scanners and those who guess passwords are not banned; make room on it."
}

# An edge that is running does not respond. (Asked twice: it may be starting, or the machine may be busy.)
edge_hangs() { [ -z "$(edge_configuration)" ] && sleep 2 && [ -z "$(edge_configuration)" ]; }

# Otherwise a hanging edge would stop every run that changes its settings.
restart_hanging_edge() {
  edge_hangs || return 0
  say "The edge is running but does not respond; restarting it"
  systemctl restart immich-edge </dev/null || :
}

tailscale_version() {
  timeout 10 tailscale version 2>/dev/null </dev/null | sed -n '1s/^\([0-9][0-9.]*\).*/\1/p' || :
}

# ---- Space for guests' uploads

# "floor GIGABYTES" and "folder PATH", while guests may upload; and the file with the free KiB that room.sh writes for the edge.
UPLOADS_CONF=$STATE/settings/uploads.conf
# shellcheck disable=SC2034
ROOM=$ROOT/run/immich-exposure-room/free

uploads_said() { sed -n "s/^$1 //p" "$UPLOADS_CONF" 2>/dev/null | head -n 1; }

# Where Immich puts uploads: the folder in the settings, or else the one that its unit names. Empty if neither names one.
uploads_folder() {
  uploads_at=$(uploads_said folder)
  if [ -n "$uploads_at" ]; then printf '%s\n' "$uploads_at"; else immich_media; fi
}

immich_media() {
  systemctl show --property=Environment --value immich-server.service 2>/dev/null </dev/null | tr ' ' '\n' |
    sed -n 's|^IMMICH_MEDIA_LOCATION=\(/.*\)|\1|p' | tail -n 1
}

# `uploads_free FOLDER`: the free KiB there, or on the fullest of the disks that hold its parts; empty if unknown.
uploads_free() {
  [ -n "$1" ] && [ -d "$1" ] || return 0
  uploads_at=$1
  set -- "$1"
  for uploads_part in upload library thumbs encoded-video; do
    [ ! -d "$uploads_at/$uploads_part" ] || set -- "$@" "$uploads_at/$uploads_part"
  done
  timeout 10 df -Pk "$@" 2>/dev/null </dev/null |
    awk 'NR > 1 && $4 ~ /^[0-9]+$/ { if (least == "" || $4 < least) least = $4 } END { if (least != "") print least }' || :
}

# `gigabytes_kib GIGABYTES`: a gigabyte is 1,000,000,000 bytes.
gigabytes_kib() { echo $(($1 * 1000000000 / 1024)); }

# What the edge needs in STATE before it starts or reloads (see nix/edge.nix).
EDGE_NEEDS="settings/edge.env domain.env tls/server.crt tls/server.key device-ca.crt"

edge_lacks() {
  for edge_need in $EDGE_NEEDS; do
    [ -e "$STATE/$edge_need" ] || printf '%s ' "$edge_need"
  done
}

# If files of a running edge were deleted, the run that restores the last of them reloads the edge for all of them.
reload_edge() {
  active immich-edge || return 0
  edge_still_lacks=$(edge_lacks)
  if [ -n "$edge_still_lacks" ]; then
    say "The edge loads this once ${edge_still_lacks% } is back in $STATE"
    return 0
  fi
  restart_hanging_edge
  # This runs `caddy reload --force`. A configuration that cannot be loaded fails here, and the old one stays in force.
  systemctl reload immich-edge </dev/null ||
    die "The edge refused to reload and keeps its previous configuration; see why with \"journalctl -u immich-edge\" and run this again."
}

# ---- Immich, and what the running system says about our module

# What `immich-exposure module` prints, one line of JSON; nothing if there is no module. A script that does not change the
# system asks only once.
MODULE_SAYS=
ask_module() { MODULE_SAYS=$(module_line); }
know_module() { [ -n "$MODULE_SAYS" ] || ask_module; }
module_line() { timeout 20 immich-exposure module 2>/dev/null </dev/null || :; }

# `module_word NAME` prints one value of it.
module_word() {
  module_said=${MODULE_SAYS:-$(module_line)}
  case $module_said in *"\"$1\":"*) ;; *) return 0 ;; esac
  module_said=${module_said##*"\"$1\":"}
  module_said=${module_said# }
  module_said=${module_said#'"'}
  printf '%s\n' "${module_said%%[\",\}]*}"
}

# `has_module SYSTEM`: this system was built with our module switched on.
has_module() { [ -e "$1/sw/bin/immich-exposure" ]; }

# `naming_files FOLDER`: the files next to our module's folder that name it, for an error.
naming_files() {
  naming=$(grep -lF "${1##*/}" "${1%/*}"/*.nix 2>/dev/null | tr '\n' ' ') || :
  [ -z "$naming" ] || printf ' (it is named in %s)' "${naming% }"
}

CURRENT_SYSTEM=$ROOT/run/current-system

# Of the running system.
running_nixos() { cat "$CURRENT_SYSTEM/nixos-version" 2>/dev/null; }

running_immich() {
  sed -n 's/^ExecStart=[^ ]*-immich-\([0-9][0-9.]*\)\/.*/\1/p' "$CURRENT_SYSTEM/etc/systemd/system/immich-server.service" \
    2>/dev/null | head -n 1
}

# `immich_says HOST:PORT PATH` prints Immich's answer; an IPv6 address is in brackets.
immich_says() {
  curl --silent --fail --noproxy '*' --max-time 5 "http://$1$2" 2>/dev/null </dev/null
}

immich_answers() { immich_says "$1" /api/server/ping | grep -q pong; }

# `immich_initialized HOST:PORT` prints whether Immich has an administrator: true, false, or null if it does not say. Whitespace
# in the JSON is ignored.
immich_initialized() {
  case $(immich_says "$1" /api/server/config | head -c 65536 | tr -d ' \t\r\n') in
    *'"isInitialized":true'*) echo true ;;
    *'"isInitialized":false'*) echo false ;;
    *) echo null ;;
  esac
}

# `immich_version HOST:PORT`: three numbers, or nothing.
immich_version() {
  immich_says "$1" /api/server/version | head -c 65536 | tr -d ' \t\r\n' |
    sed -n 's/.*"major":\([0-9]*\),"minor":\([0-9]*\),"patch":\([0-9]*\).*/\1.\2.\3/p' || :
}

# `immich_places ADDRESS|- PORT` prints the places to ask, one per line. "-" is this machine: loopback ([::1] is what NixOS
# calls "localhost") and, for an Immich that listens at one address of the home network, each address of this machine.
immich_places() {
  case $1 in
    -)
      printf '%s\n' "127.0.0.1:$2" "[::1]:$2"
      own_addresses | sed "s/\$/:$2/"
      ;;
    *:*) printf '[%s]:%s\n' "$1" "$2" ;;
    *) printf '%s:%s\n' "$1" "$2" ;;
  esac
}

# `immich_place ADDRESS|- PORT` prints the first of them that answers; fails if none does.
immich_place() {
  for place in $(immich_places "$1" "$2"); do
    if immich_answers "$place"; then
      printf '%s\n' "$place"
      return 0
    fi
  done
  return 1
}

check_address() {
  case $1 in
    '' | -?* | *[!0-9A-Za-z:.-]*)
      die "Immich's address must be a plain address such as 127.0.0.1 or ::1, not \"$1\"; correct immich.address."
      ;;
  esac
}

# ---- JSON

# NixOS has no jq, and the funnel must close without Nix as well. So awk parses JSON: after json(), K[PATH] is the kind of the
# value at a path (object, list, string or word) and V[PATH] its text as written. A path is each key preceded by a tab, which no
# key can contain.
# shellcheck disable=SC2016
JSON_READER='
  function blanks() { while (substr(T, P, 1) ~ /[ \t\r\n]/) P++ }
  function bad() { exit 1 }
  function quoted(   from, c) {
    from = ++P
    while ((c = substr(T, P, 1)) != "\"") { if (c == "" || c == "\n") bad(); P += c == "\\" ? 2 : 1 }
    return substr(T, from, P++ - from)
  }
  function value(path,   c, end, at) {
    blanks(); c = substr(T, P, 1)
    if (c == "{" || c == "[") {
      K[path] = c == "{" ? "object" : "list"; end = c == "{" ? "}" : "]"
      P++; blanks()
      if (substr(T, P, 1) == end) { P++; return }
      for (at = 0; ; at++) {
        blanks()
        if (end == "]") value(path "\t" at)
        else {
          if (substr(T, P, 1) != "\"") bad()
          c = quoted(); blanks()
          if (substr(T, P++, 1) != ":") bad()
          value(path "\t" c)
        }
        blanks(); c = substr(T, P++, 1)
        if (c == end) return
        if (c != ",") bad()
      }
    }
    if (c == "\"") { K[path] = "string"; V[path] = quoted(); return }
    if (!match(substr(T, P), /^[-+.0-9A-Za-z]+/)) bad()
    K[path] = "word"; V[path] = substr(T, P, RLENGTH); P += RLENGTH
  }
  function json() { P = 1; value(""); blanks(); if (P <= length(T)) bad() }
  { T = T $0 "\n" }'

# `json_ask FILE STATEMENTS FUNCTIONS [-v NAME=VALUE]...` runs the statements in awk on the JSON in FILE.
json_ask() {
  json_file=$1 json_program="$JSON_READER $3 END { json(); $2 }"
  shift 3
  awk "$@" "$json_program" <"$json_file" ||
    die "The JSON in ${json_file##*/} could not be parsed; run the \"tailscale\" command of that name to see why."
}

# Standard input as a JSON string, including the quotes.
json_quote() {
  tr -d '\000-\010\013-\037\177' | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/	/\\t/g' |
    awk 'BEGIN { printf "\"" } { printf "%s%s", (NR > 1 ? "\\n" : ""), $0 } END { printf "\"" }'
}

json_string() {
  case $1 in
    '' | *[!A-Za-z0-9\ ._/:@+=,-]*) printf '%s\n' "$1" | json_quote ;;
    *) printf '"%s"' "$1" ;;
  esac
}

# ---- Tailscale

# Reads what Tailscale says about this node: DOMAIN, TAILSCALE_STATE (Running, Stopped, NeedsLogin, ...), HTTPS_GRANTED,
# FUNNEL_GRANTED and, for the funnel port $1, PORT_GRANTED (each true or false). Missing words read "-".
read_tailscale() {
  ask_tailscale ||
    die "Tailscale does not answer ($(tail -n 1 "$WORK/tailscale.log")); start it with \"systemctl start tailscaled\"."
  read_status "$1"
}

ask_tailscale() { timeout 20 tailscale status --json --peers=false >"$WORK/status.json" 2>"$WORK/tailscale.log" </dev/null; }

# `read_status FUNNEL_PORT` reads the status that ask_tailscale has saved.
read_status() {
  # The ports are part of the capability's name: .../cap/funnel-ports?ports=443,8080-8090
  # shellcheck disable=SC2016
  tailscale_words=$(json_ask "$WORK/status.json" '
    caps = "\tSelf\tCapMap\t"
    for (path in K) if (index(path, caps) == 1 && path ~ /\/cap\/funnel-ports[?]ports=/) {
      ports = path; sub(/.*[?]ports=/, "", ports); count = split(ports, part, ",")
      for (i = 1; i <= count; i++) {
        if (part[i] !~ /^[0-9]+(-[0-9]+)?$/) continue
        ends = split(part[i], range, "-")
        if (range[1] + 0 <= port + 0 && port + 0 <= range[ends] + 0) granted = 1
      }
    }
    first = K["\tCertDomains"] == "list" ? "\tCertDomains\t0" : "none"
    print word("\tBackendState"), word(first), truth((caps "https") in K), truth((caps "funnel") in K), truth(granted)' '
  function word(path) { return K[path] == "string" && V[path] ~ /^[A-Za-z0-9.-]+$/ ? V[path] : "-" }
  function truth(said) { return said ? "true" : "false" }' -v port="$1")
  # shellcheck disable=SC2086
  set -- $tailscale_words
  # shellcheck disable=SC2034
  TAILSCALE_STATE=$1 DOMAIN=$2 HTTPS_GRANTED=$3 FUNNEL_GRANTED=$4 PORT_GRANTED=$5
}

# When the node must log in again, as Tailscale states it (ISO 8601); empty if the owner has disabled key expiry. Uses the
# status that read_tailscale has saved.
node_key_end() { sed -n 's/.*"KeyExpiry": *"\([0-9TZ:.-]\{10,40\}\)".*/\1/p' "$WORK/status.json" 2>/dev/null | head -n 1 || :; }

# `need_tailscale FUNNEL_PORT`: connected, and with HTTPS certificates for its name.
need_tailscale() {
  read_tailscale "$1"
  [ "$TAILSCALE_STATE" = Running ] ||
    die "Tailscale is not connected on this server (state $TAILSCALE_STATE); run \"sudo tailscale up\" there and log in."
  { [ "$HTTPS_GRANTED" = true ] && [ "$DOMAIN" != - ]; } ||
    die "HTTPS certificates are not enabled for this tailnet; enable MagicDNS and HTTPS Certificates at" \
      "https://login.tailscale.com/admin/dns and run this again."
}

# `url NAME|- FUNNEL_PORT`: the public address; nothing if the node has no name.
url() {
  case $1:$2 in
    -:* | :*) ;;
    *:443) echo "https://$1/" ;;
    *) echo "https://$1:$2/" ;;
  esac
}

# ---- The exposure's own funnel

# The ports to look at if no argument names them: those of the last opening or proof, or else those in the settings.
recorded_ports() {
  grep -x '[0-9]\{1,5\} [0-9]\{1,5\}' "$FUNNEL_RECORD" 2>/dev/null ||
    sed -n 's/^\([0-9]\{1,5\} [0-9]\{1,5\}\) .*/\1/p' "$PROVEN" 2>/dev/null | grep . ||
    echo "443 $(sed -n 's/^IMMICH_EXPOSURE_PROXY_PORT=\([0-9]\{1,5\}\)$/\1/p' "$STATE/settings/edge.env" 2>/dev/null | grep . || echo 8443)"
}

# `read_funnel FUNNEL_PORT PROXY_PORT [all [IMMICH]]` sets FUNNEL to
#   open     raw TCP to the proxy with PROXY protocol 1, allowed from the internet: as wanted
#   altered  leads to the edge or to Immich, but not as wanted (or only its flag is left); also one that names "localhost",
#            which may lead to [::1]
#   foreign  another tool's entry has this port
#   closed   nothing has this port
# and FUNNEL_SHARED to yes if tailscaled serves anything else on this node. WORK/past lists what leads from the internet past
# our rules, whoever configured it, one per line: `tcp|web|terminal PORT edge|immich PATH`. What leads to Immich on another port
# than ours counts as somebody else's, unless "all" is given. IMMICH, as HOST:PORT, is where Immich listens if no module says so
# yet.
# Only the configuration counts: the command's exit status and output prove nothing (it can exit 0 without effect).
read_funnel() {
  read_tailscale "$1"
  read_serving "$@"
}

# An awk function for json_ask: it says what the serve configuration does, as read_serving reads it. `port` and `proxy` are
# our ports, `domain` is this node's name, `own` its addresses and `immich` the place of Immich.
# shellcheck disable=SC2016
SERVING_READER='
  function serving() {
    for (path in K) {
      count = split(path, part, "\t"); session = 0
      if (part[2] == "Foreground" && count > 3) {
        session = 1
        for (i = 2; i <= count - 2; i++) part[i] = part[i + 2]
        count -= 2
      }
      at = part[3]; sub(/.*:/, "", at)
      if (part[2] == "AllowFunnel" && count == 3) {
        if (V[path] == "true") public[session, at] = 1
        if (!session) flags[at] = 1
      }
      else if (part[2] == "TCP" && count == 3) { if (session) here[at] = 1; else tcp[at] = 1 }
      else if (part[2] == "TCP" && part[4] == "TCPForward" && count == 4) add(session ? "terminal" : "tcp", at, V[path], "")
      else if (part[2] == "Web" && count == 3) { if (session) here[at] = 1; else web[at] = 1 }
      else if (part[2] == "Web" && part[4] == "Handlers" && count == 6) {
        add(session ? "terminal" : "web", at, part[6] == "Proxy" ? V[path] : "", part[5])
      }
      else if (part[2] == "Services" && count > 2) others = 1
    }
    for (i = 1; i <= entries; i++) {
      past = public[kind[i] == "terminal", on[i]] && to[i] != ""
      if (kind[i] == "tcp" && on[i] == port && to[i] == "edge") continue
      if (past) print kind[i], on[i], to[i], path_of[i]
      if (past && on[i] == port) altered = 1
      if (!past || (to[i] == "immich" && on[i] != port && all != "yes")) others = others || kind[i] != "tcp" || on[i] != port
      known[kind[i] == "terminal" ? "here" : kind[i], on[i]] = 1
    }
    # What has no target: a web port without a handler, say.
    for (at in tcp) if (at != port && !(("tcp", at) in known) && !(("web", at) in known)) others = 1
    for (at in web) if (!(("web", at) in known)) others = 1
    for (at in here) if (!(("here", at) in known)) others = 1
    for (at in flags) if (at != port && !(at in tcp) && !(at in web)) others = 1
    entry = "\tTCP\t" port
    ours = leads(V[entry "\tTCPForward"]) == "edge"
    flagged = domain == "-" ? port in flags : V["\tAllowFunnel\t" domain ":" port] == "true"
    wanted = ours && V[entry "\tTCPForward"] == "127.0.0.1:" proxy && V[entry "\tProxyProtocol"] == 1 &&
      V[entry "\tTerminateTLS"] == "" && domain != "-" && flagged
    if (altered) state = "altered"
    else if ((port in tcp && !ours) || port in web || port in here) state = "foreign"
    else state = wanted ? "open" : ours || flagged ? "altered" : "closed"
    print "=", state, others ? "yes" : "no"
  }
  function add(what, at, target, path) {
    kind[++entries] = what; on[entries] = at; to[entries] = leads(target); path_of[entries] = path
  }
  # Where a target leads on this machine.
  function leads(target,   host, at) {
    sub(/^[a-z+]+:\/\//, "", target); sub(/\/.*/, "", target)
    at = target; sub(/.*:/, "", at)
    host = target ~ /:/ ? substr(target, 1, length(target) - length(at) - 1) : "localhost"
    gsub(/[][]/, "", host); host = tolower(host); sub(/[.]$/, "", host); sub(/^::ffff:/, "", host)
    if (host ":" at == immich) return "immich"
    if (host !~ /^(localhost|127[.].*|(0*:)+0*1?|0[.]0[.]0[.]0|)$/ && index(domain ".", host ".") != 1 && index(own, " " host " ") == 0) return ""
    if (at == proxy) return "edge"
    return ":" at == substr(immich, length(immich) - length(at)) ? "immich" : ""
  }'

read_serving() {
  timeout 20 tailscale funnel status --json >"$WORK/funnel.json" 2>"$WORK/tailscale.log" </dev/null ||
    die "Tailscale does not report the funnel's state ($(tail -n 1 "$WORK/tailscale.log")); run \"tailscale funnel status\" to see why."
  behind_at=${4:-$(immich_behind)}
  # An IPv6 address without its brackets.
  case $behind_at in
    \[*\]*)
      behind_at=${behind_at#\[}
      behind_at=${behind_at%%\]*}${behind_at#*\]}
      ;;
    *) ;;
  esac
  own_words=' '
  for own_word in $(own_hosts); do own_words="$own_words$own_word "; done
  json_ask "$WORK/funnel.json" "serving()" "$SERVING_READER" -v port="$1" -v proxy="$2" -v domain="${DOMAIN:--}" -v all="${3:+yes}" \
    -v immich="$behind_at" -v own="$own_words" >"$WORK/serving"
  # If there is no answer, the script ends where it uses one of these.
  unset FUNNEL FUNNEL_SHARED
  : >"$WORK/past"
  while IFS= read -r serving_line; do
    case $serving_line in
      "= "*)
        serving_line=${serving_line#= }
        FUNNEL=${serving_line% *} FUNNEL_SHARED=${serving_line#* }
        ;;
      *) printf '%s\n' "$serving_line" >>"$WORK/past" ;;
    esac
  done <"$WORK/serving"
}

# Where Immich listens behind the edge, as HOST:PORT; NixOS's default if no module names a place.
immich_behind() {
  behind_said=$(module_word immich)
  printf '%s\n' "${behind_said:-127.0.0.1:2283}"
}

# If tailscaled is logged out, switched off, not started or not answering, it lets nobody in, whatever is configured.
tailscale_runs() { ask_tailscale && grep -q '"BackendState": *"Running"' "$WORK/status.json"; }

# Until tailscaled has loaded who it is and reached its control server, it reports that it serves nothing, and afterwards it
# serves what it did before (reloadServeConfigLocked in tailscale.com/ipn/ipnlocal). Uses the status that ask_tailscale has saved.
tailscale_knows() { ! grep -q '"BackendState": *"\(NoState\|Starting\)"' "$WORK/status.json"; }

tailscale_answers() { timeout 20 tailscale funnel status --json >/dev/null 2>"$WORK/tailscale.log" </dev/null; }

# Closing never waits for long: it is safe at any moment, and must work while a rebuild holds the lock. A script that holds it
# itself until its end sets LOCK_HELD.
lock_briefly() {
  [ -z "${LOCK_HELD:-}" ] || return 0
  if ! can_lock; then
    say "$LOCK cannot be opened; closing anyway"
    return 0
  fi
  open_lock
  flock -w 15 9 || say "Another run holds $LOCK; closing without waiting for it"
}

# A funnel that an earlier run opened on other ports is ours to close as well.
close_former() {
  if [ -s "$FUNNEL_RECORD" ] && [ "$(recorded_ports)" != "$1 $2" ]; then
    # shellcheck disable=SC2046
    close_funnel $(recorded_ports)
  fi
}

# `close_exposure FUNNEL_PORT PROXY_PORT WHY` closes the funnel, in a destroy too; Pulumi's state keeps its text
# (components/funnel.py).
close_exposure() {
  lock_briefly
  check_stack
  close_former "$1" "$2"
  close_funnel "$1" "$2" "$3"
}

# `close_funnel FUNNEL_PORT PROXY_PORT [WHY [all]]` removes what leads to the edge and, on our port, to Immich, whoever
# configured it; verifies that it is gone; and leaves every other tool's entries in place. "all" also removes what leads to
# Immich on any other port. WHY is a word for status. If Tailscale does not respond, it stops the edge: a funnel that leads
# nowhere lets nobody in.
close_funnel() {
  # Without a lease, the timer on the server keeps closing the funnel if the rest of this fails.
  rm -f "$LEASE" || say "$LEASE cannot be removed; closing anyway"
  stop_lease_timer
  [ "${3:-}" != unsafe ] || rm -f "$PROVEN" || say "$PROVEN cannot be removed"
  if command -v tailscale >/dev/null; then
    close_status=3
    if tailscale_answers; then
      close_status=0
      (close_entries "$1" "$2" "${4:-}" "${3:-}") || close_status=$?
    else
      say "Tailscale does not answer ($(tail -n 1 "$WORK/tailscale.log"))"
    fi
    if [ "$close_status" != 0 ]; then
      stop_edge
      [ "$close_status" = 3 ] || exit 1
      # The record stays: because of it, the minute timer removes the entry later.
      say "Nobody can get in while Tailscale is down; its entry for the funnel is removed as soon as it answers"
      note_change closed "${3:-run}"
      open_home
      return 0
    fi
  fi
  rm -f "$FUNNEL_RECORD" || say "$FUNNEL_RECORD cannot be removed"
  note_change closed "${3:-run}"
  open_home
}

# `close_entries FUNNEL_PORT PROXY_PORT [all [WHY]]` exits with 3 if Tailscale is down and cannot be configured.
close_entries() {
  close_found=
  ask_module
  for close_try in 1 2 3 4; do
    read_funnel "$1" "$2" "${3:-}"
    close_what "$1" "${3:-}"
    : "${close_found:=$FUNNEL$(cat "$WORK/to-close")}"
    # See tailscale_knows.
    case $close_try:$close_found:$TAILSCALE_STATE in
      *:Running | *:-) ;;
      1:closed:*)
        [ ! -e "$FUNNEL_RECORD" ] || {
          say "Tailscale is not connected (state $TAILSCALE_STATE)"
          exit 3
        }
        ;;
      *) ;;
    esac
    case $FUNNEL in open | altered) ;; *) [ -s "$WORK/to-close" ] || break ;; esac
    [ "$close_try" -lt 4 ] || break
    # A stopped Tailscale allows its whole configuration to be reset, but no part of it to be changed.
    case $FUNNEL_SHARED:$TAILSCALE_STATE in
      no:* | *:Running | *:-) ;;
      *)
        say "Tailscale is not connected (state $TAILSCALE_STATE)"
        exit 3
        ;;
    esac
    [ "$close_try" = 1 ] || sleep 1
    : >"$WORK/change.log"
    say "Closing the funnel on port $(close_ports "$1")"
    if [ "$FUNNEL_SHARED" = no ]; then
      timeout 30 tailscale funnel reset >>"$WORK/change.log" 2>&1 </dev/null || :
      continue
    fi
    case $FUNNEL in open | altered) grep -q "^web $1 " "$WORK/to-close" || take_down_tcp "$1" "$2" ;; *) ;; esac
    while read -r close_kind close_port _ close_path; do
      case $close_kind in
        tcp) take_down_tcp "$close_port" "$2" ;;
        web) timeout 30 tailscale serve --yes --https="$close_port" --set-path="$close_path" off >>"$WORK/change.log" 2>&1 </dev/null || : ;;
        *) ;;
      esac
    done <"$WORK/to-close"
  done
  [ ! -s "$WORK/to-close" ] || ! grep -q ^terminal "$WORK/to-close" ||
    die "A \"tailscale funnel\" that runs in somebody's terminal exposes Immich; end it there (\"pgrep -af 'tailscale funnel'\"" \
      "shows it) and run this again."
  case $FUNNEL:$(cat "$WORK/to-close") in
    closed:) [ "$close_found" = closed ] || cut_connections "${4:-}" ;;
    foreign:)
      say "Port $1 is in use by another tool's serve entry, which is left alone"
      [ "$close_found" = foreign ] || cut_connections "${4:-}"
      ;;
    *)
      close_remedy="close it on the server with \"sudo tailscale funnel reset\""
      [ "$FUNNEL_SHARED" = no ] ||
        close_remedy="fix that on the server, then run \"sudo immich-exposure close\""
      die "The funnel on port $(close_ports "$1") is still configured ($(tr -s '\n' ' ' <"$WORK/change.log")); $close_remedy."
      ;;
  esac
}

# `close_what FUNNEL_PORT [all]`: of what leads past our rules, the part that is ours to close.
close_what() {
  : >"$WORK/to-close"
  [ -s "$WORK/past" ] || return 0
  awk -v port="$1" -v all="${2:-}" '$3 == "edge" || $2 == port || all != ""' "$WORK/past" >"$WORK/to-close"
}

close_ports() {
  { case $FUNNEL in open | altered) echo "$1" ;; *) ;; esac && awk '{ print $2 }' "$WORK/to-close"; } | sort -un | paste -s -d ' ' -
}

# `funnel --tcp off` would leave its flag behind, and may wait for a visit to a web page if the attribute is gone. Serving the
# same port inside the tailnet clears the flag and needs no attribute; then only that entry is removed.
take_down_tcp() {
  timeout 30 tailscale serve --bg --yes --tcp "$1" "tcp://127.0.0.1:$2" >>"$WORK/change.log" 2>&1 </dev/null || :
  timeout 30 tailscale serve --yes --tcp "$1" off >>"$WORK/change.log" 2>&1 </dev/null || :
}

# If a funnel cannot be closed, or its closing not be verified, it can at least lead nowhere.
stop_edge() {
  touch "$EDGE_STOPPED" 2>/dev/null || :
  active immich-edge || return 0
  say "The edge is stopped, so that nobody gets in; it starts again when the funnel opens"
  end_edge
}

end_edge() { systemctl stop immich-edge </dev/null || say "The edge did not stop; see \"systemctl status immich-edge\""; }

# A closed funnel lets nobody in, but tailscaled keeps carrying existing connections for as long as both ends want. So the edge
# ends them: behind a closed funnel nobody else needs it. In a destroy it stops for good, and one that keeps somebody out does not
# start again.
cut_connections() {
  active immich-edge || return 0
  [ ! -e "$EDGE_STOPPED" ] || set -- destroy
  case $1 in
    destroy) end_edge ;;
    *)
      systemctl restart immich-edge >/dev/null 2>&1 </dev/null ||
        say "The edge did not start again; see \"journalctl -u immich-edge\""
      ;;
  esac
}

is_closed_by_hand() { [ -e "$CLOSED_BY_HAND" ] || [ -e "$CLOSED_BY_HAND_TOO" ]; }

# `note_change STATE WHY` records what happened to the funnel, for status; nothing depends on it. The first reason for closing is
# kept, unless a later one is the owner's decision or a safety reason.
note_change() {
  is_ours "$STATE" || return 0
  change_noted=$(words_of "$LAST_CHANGE")
  change_noted=${change_noted#* }
  case $change_noted:$1:$2 in
    # A funnel that was never open needs no record.
    "$1 $2:"* | :closed:run | :closed:destroy) return 0 ;;
    *:closed:hand | *:closed:unsafe) ;;
    "closed "*:closed:*) return 0 ;;
    *) ;;
  esac
  (write_line 0644 "$LAST_CHANGE" "$(now) $1 $2") 2>/dev/null || :
}

# ---- The lease
#
# The funnel may be open while STATE/lease allows it: `trial REST` is a short lease, while the exposure is not proven;
# `confirmed` is a proven funnel, which may be open as long as STATE/term says: `always`, `hours SECONDS REST` or `date EPOCH
# NOTED REST`. No lease, or an invalid one, means closed.
#
# REST is `LEFT BOOT AGE`: LEFT seconds were left when the boot BOOT was AGE seconds old. They count down with the age of the
# boot, which no clock changes; the minute timer saves them, so that they survive a reboot. Only a date depends on the clock,
# and a clock that shows a time before the lease was written is not trusted.
#
# STATE/proven exists while what is behind the funnel is what was proven: `FUNNEL_PORT PROXY_PORT DIGEST`.

# As the first process sees it: a container has a boot id of its own, which a unit with its own /proc/sys does not see.
boot_id() {
  grep -hx '[0-9a-f-]\{8,40\}' "$ROOT/proc/1/root/proc/sys/kernel/random/boot_id" 2>/dev/null ||
    grep -hx '[0-9a-f-]\{8,40\}' "$ROOT/proc/sys/kernel/random/boot_id" 2>/dev/null || echo -
}

# The age of this boot in seconds, counted from its first process: in a container, the uptime is the host's.
boot_age() {
  awk 'NR == 1 { sub(/.*[)] /, ""); born = $20 / 100; next } { print int($1 - born) }' \
    "$ROOT/proc/1/stat" "$ROOT/proc/uptime" 2>/dev/null || :
}

# `rest SECONDS` prints a number of seconds as a REST.
rest() { echo "$1 $(boot_id) $(boot_age)"; }

is_count() { case $1 in '' | *[!0-9]* | ???????????*) return 1 ;; *) ;; esac }

# `seconds_left LEFT BOOT AGE`: 0 if the words make no sense.
seconds_left() {
  left_now=0 left_age=$(boot_age)
  if is_count "$1" && is_count "$3" && is_count "$left_age"; then
    left_passed=$left_age
    if [ "$2" = "$(boot_id)" ]; then left_passed=$((left_age - $3)); fi
    [ "$left_passed" -ge 0 ] || left_passed=0
    left_now=$(($1 - left_passed))
  fi
  [ "$left_now" -gt 0 ] || left_now=0
  echo "$left_now"
}

# `words_of FILE` prints its first line.
words_of() {
  words_line=
  [ ! -r "$1" ] || read -r words_line <"$1" || :
  printf '%s' "$words_line"
}

# How many seconds a proven funnel may still be open according to STATE/term; "always" if it has no end.
term_left() {
  # shellcheck disable=SC2046
  set -- $(words_of "$LEASE_TERM")
  case ${1:-}:$# in
    always:1) echo always ;;
    hours:5) seconds_left "$3" "$4" "$5" ;;
    date:6) date_left "$@" ;;
    *) echo 0 ;;
  esac
}

# `date_left date EPOCH NOTED REST`. The clock may be corrected backwards by five minutes.
date_left() {
  date_rest=$(seconds_left "$4" "$5" "$6") date_now=$(now)
  if ! is_count "$2" || ! is_count "$3" || [ $((date_now + 300)) -lt "$3" ]; then date_rest=0; fi
  if [ "$date_rest" -gt 0 ] && [ "$date_rest" -gt $(($2 - date_now)) ]; then date_rest=$(($2 - date_now)); fi
  [ "$date_rest" -gt 0 ] || date_rest=0
  echo "$date_rest"
}

# `read_lease` sets LEASE_IS to trial, confirmed or none, and LEASE_LEFT to its seconds, or to "always".
read_lease() {
  # shellcheck disable=SC2046
  set -- $(words_of "$LEASE")
  case ${1:-}:$# in
    trial:4) LEASE_IS=trial LEASE_LEFT=$(seconds_left "$2" "$3" "$4") ;;
    confirmed:1) LEASE_IS=confirmed LEASE_LEFT=$(term_left) ;;
    *) LEASE_IS=none LEASE_LEFT=0 ;;
  esac
  [ "$LEASE_LEFT" != 0 ] || LEASE_IS=none
}

lease_holds() {
  read_lease
  [ "$LEASE_IS" != none ]
}

# `span SECONDS` prints a duration for people.
span() {
  if [ "$1" -ge 172800 ]; then
    echo "$(($1 / 86400)) days"
  elif [ "$1" -ge 3600 ]; then
    echo "$(($1 / 3600)) h $(($1 % 3600 / 60)) min"
  else
    echo "$((($1 + 59) / 60)) min"
  fi
}

# What was proven: everything that decides who gets in, except devices and the server's certificate, which change.
exposed_digest() {
  {
    module_word digest
    cat "$STATE/settings/edge.env" "$STATE/device-ca.crt" "$DOMAIN_FILE" 2>/dev/null || :
  } | sha256sum | cut -d ' ' -f 1
}

# The one-shot timer that ends a lease to the second; the minute timer of the NixOS module is its safety net.
stop_lease_timer() {
  systemctl stop immich-exposure-lease-end.timer >/dev/null 2>&1 </dev/null || :
}

# It ends whatever lease has expired by then, so it need not know whose lease it was set for.
arm_lease_timer() {
  stop_lease_timer
  if [ "$1" = always ]; then return 0; fi
  systemd-run --quiet --collect --unit=immich-exposure-lease-end --on-active="$1" --timer-property=AccuracySec=100ms \
    systemctl start immich-exposure-lease.service >"$WORK/timer.log" 2>&1 </dev/null ||
    die "The timer that ends the lease could not be set ($(tail -n 1 "$WORK/timer.log")); see \"systemctl --failed\"."
}

# `begin_trial SECONDS`: from here on nothing is proven.
begin_trial() {
  rm -f "$PROVEN" || die "$PROVEN cannot be removed; check its disk and run this again."
  write_line 0644 "$LEASE" "trial $(rest "$1")"
  arm_lease_timer "$1"
}

# `end_lease`: no lease allows the funnel. If the state was deleted, a running edge shows that this is an exposure. If no opening
# recorded ports and no edge runs, there is nothing of ours to close.
end_lease() {
  is_ours "$STATE" || active immich-edge || return 0
  # shellcheck disable=SC2046
  set -- $(recorded_ports)
  if [ -e "$FUNNEL_RECORD" ] || leads_to_our_edge "$1" "$2"; then
    lock_briefly
    if lease_holds; then return 0; fi
    close_funnel "$1" "$2" lease
  else
    # A run that was killed after it closed the funnel may have left this undone.
    open_home
  fi
}

leads_to_our_edge() {
  { active immich-edge && tailscale_answers; } || return 1
  read_serving "$1" "$2"
  close_what "$1"
  case $FUNNEL in open | altered) ;; *) [ -s "$WORK/to-close" ] ;; esac
}

# The same as LEASE_SECONDS of components/funnel.py.
SHORT_LEASE=600

# Called before any change of what is behind the funnel. A full `up` has put the funnel on a short lease by then; an `up` that
# takes only some steps (`pulumi up --target`) has not, and will not prove the result.
needs_proof() {
  [ "$(words_of "$LEASE")" = confirmed ] || return 0
  begin_trial "$SHORT_LEASE"
  say "The funnel is on a lease of $SHORT_LEASE seconds, because this is not proven yet; a full \"pulumi up\" proves it"
  note_change open trial
}

# ---- The state when the exposure is proven (see drift.sh)

# Files of ours: "file SHA256 MODE OWNER PATH"
our_files() {
  for our_file in "$STATE"/settings/edge.env "$STATE"/settings/bans.conf "$UPLOADS_CONF" "$LISTS_CONF" "$CROWDSEC_KEY" "$STATE"/device-ca.crt \
    "$STATE"/domain.env "$WHO"/key "$WHO"/api-key; do
    [ ! -f "$our_file" ] || printf '%s\n' "$our_file"
  done
  [ "$1" = - ] || find "$(configuration_folder "$1")/immich-exposure" -type f 2>/dev/null | sort || :
}

# `file_lines LIST` prints a line for each file that LIST names and that exists. One call hashes all of them and one reads their
# modes; if one of them cannot be read, each is read separately.
file_lines() {
  list=$1
  set --
  while IFS= read -r our_file; do
    [ ! -f "$our_file" ] || set -- "$@" "$our_file"
  done <"$list"
  [ $# != 0 ] || return 0
  if sha256sum "$@" >"$WORK/hashes" 2>/dev/null </dev/null && stat -c '%a %U:%G' "$@" >"$WORK/modes" 2>/dev/null </dev/null; then
    for our_file; do
      read -r our_hash _ <&3 && read -r our_mode <&4
      # A leading backslash says that sha256sum escaped the name.
      printf 'file %s %s %s\n' "${our_hash#\\}" "$our_mode" "$our_file"
    done 3<"$WORK/hashes" 4<"$WORK/modes"
  else
    for our_file; do file_line "$our_file"; done
  fi
}

file_line() { printf 'file %s %s %s\n' "$(sha256sum <"$1" | cut -d ' ' -f 1)" "$(stat -c '%a %U:%G' "$1")" "$1"; }

# "import CONFIGURATION": the file whose import of ours the owner may remove unawares, by a `git checkout` for example.
import_line() {
  [ "$1" != - ] && [ -f "$1/configuration.nix" ] || return 0
  import_file=$(readlink -f "$1/configuration.nix")
  [ "$(import_state "$import_file" ./immich-exposure)" != active ] || printf 'import %s\n' "$import_file"
}

# Devices: "device FINGERPRINT NAME", or "frame FINGERPRINT NAME" if it has a secret instead of a certificate
device_lines() {
  for device_file in "$STATE"/devices/* "$STATE"/ended/*; do
    [ -f "$device_file" ] || continue
    read_device "$device_file"
    device_kind=device
    [ "$DEVICE_HAS" = certificate ] || device_kind=frame
    printf '%s %s %s\n' "$device_kind" "${device_file##*/}" "$DEVICE_NAME"
  done | sort
}

# `record FUNNEL_PORT PROXY_PORT CONFIG_DIR|- DIGEST` records the state. DIGEST identifies what was proven; a CONFIG_DIR of "-"
# says that the module's files are not ours.
record() {
  know_module
  {
    printf 'funnel %s %s\n' "$1" "$2"
    printf 'module %s\n' "$(module_word digest)"
    import_line "$3"
    printf 'immich %s\n' "$(module_word immich)"
    printf 'loaded %s\n' "$(edge_configuration)"
    printf 'proven-for %s\n' "$4"
    our_files "$3" >"$WORK/names"
    file_lines "$WORK/names"
    device_lines
  } | write_file 0600 "$STANDING"
}

# ---- Immich at home
#
# Behind the edge, Immich listens on loopback alone. A unit of the module opens sockets for the home network as $LAN says. No
# file, or any other word, means open; "closed" means closed until the funnel is closed. "open by hand" and "closed by hand" are
# the owner's decisions, which the funnel does not change.

LAN_UNIT=immich-exposure-lan.service

lan_line() {
  lan_said=
  [ ! -r "$LAN" ] || read -r lan_said <"$LAN" || :
  printf '%s' "$lan_said"
}

home_is_by_hand() { case $(lan_line) in *" by hand") ;; *) return 1 ;; esac }

home_is_closed() { case $(lan_line) in closed*) ;; *) return 1 ;; esac }

# The configuration may leave home access alone (lan: keep); then that unit does not exist.
has_lan_unit() { systemctl cat "$LAN_UNIT" >/dev/null 2>&1 </dev/null; }

restart_lan_unit() { ! has_lan_unit || systemctl restart "$LAN_UNIT" >/dev/null 2>&1 </dev/null; }

sync_home() {
  restart_lan_unit ||
    die "Home access could not be set as $LAN says; see why with \"journalctl -u $LAN_UNIT\" and run this again."
}

# For callers that must continue in any case.
try_sync_home() { restart_lan_unit || say "Home access is not yet as $LAN says; see \"journalctl -u $LAN_UNIT\""; }

close_home() {
  has_lan_unit || return 0
  home_is_by_hand || write_line 0644 "$LAN" closed
  sync_home
}

# Called after the funnel is closed. Must never prevent the closing.
open_home() {
  [ "$(lan_line)" = closed ] || return 0
  rm -f "$LAN" || :
  try_sync_home
}

# All IPv4 addresses of this machine except loopback.
own_addresses() { ip -4 -o address show 2>/dev/null </dev/null | awk '{ sub(/\/.*/, "", $4); if ($4 !~ /^127\./) print $4 }'; }

# All names and addresses by which this machine may call itself, except its name in the tailnet.
own_hosts() {
  {
    ip -o address show 2>/dev/null </dev/null | awk '{ sub(/\/.*/, "", $4); print $4 }' || :
    uname -n | sed 'p; s/$/.local/'
    awk '{ sub(/#.*/, "") } $1 ~ /^(127[.]|::1$)/ { for (i = 2; i <= NF; i++) print $i }' "$ROOT/etc/hosts" 2>/dev/null || :
  } | tr '[:upper:]' '[:lower:]'
}

# The names of the socket instances in readable form (see lan.sh).
plain_instances() { sed -e 's/\\x5b/[/g' -e 's/\\x5d/]/g' -e 's/\\x2e/./g'; }

# ---- The folder of the module next to configuration.nix

# The files that the mark lists, as far as they can be paths of ours; home.nix belongs to module.sh.
listed_files() { sed -n -e 1d -e '/^[A-Za-z0-9_@][A-Za-z0-9._\/@-]*$/{/\.\./!p;}' "$1/$MARK"; }

# `drop_files FOLDER LIST`
drop_files() {
  drop_folder=$1 drop_list=$2
  set --
  while IFS= read -r drop_path; do set -- "$@" "$drop_folder/$drop_path"; done <"$drop_list"
  [ $# = 0 ] || rm -f -- "$@"
}

drop_empty_folders() { find "$1" -mindepth 1 -depth -type d -empty -delete; }

# `remove_module_files FOLDER` removes all our files from it, and the folder itself if nothing else is in it.
remove_module_files() {
  listed_files "$1" >"$WORK/former"
  drop_files "$1" "$WORK/former"
  rm -f "$1/home.nix" "$1"/.immich-exposure.??????
  drop_empty_folders "$1"
  [ "$(ls -A "$1")" = "$MARK" ] || say "$1 contains files that are not ours, which stay"
  rm -f "$1/$MARK"
  rmdir "$1" 2>/dev/null || :
}

# ---- The imports of configuration.nix

# Two awk functions: one blanks out comments and strings, including everything interpolated into them, so that only code is
# searched; the other finds whole path words. WHERE is a stack of what is open, one letter each: s a string, i an indented
# string, b a block comment, x an interpolation, { a brace in it.
# shellcheck disable=SC2016
NIX_SCANNER='
  function code_of(line,   out, i, c, two, three, step, top, name) {
    out = ""; name = 0
    for (i = 1; i <= length(line); i += step) {
      c = substr(line, i, 1); two = substr(line, i, 2); three = substr(line, i, 3); step = 1
      top = substr(where, length(where), 1)
      if (top == "b") { if (two == "*/") { close_one(); step = 2 } }
      else if (top == "s") {
        if (c == "\\") step = 2
        else if (c == "\"") close_one()
        else if (two == "${") { where = where "x"; step = 2 }
        else if (c == "$" && two !~ /^.["\\]/) step = 2
      }
      else if (top == "i") {
        if (three == "'"'''"'" || three == "'"''"'$") step = 3
        else if (three == "'"''"'\\") step = 4
        else if (two == "'"''"'") { close_one(); step = 2 }
        else if (two == "${") { where = where "x"; step = 2 }
        else if (c == "$" && two !~ /^.'"'"'/) step = 2
      }
      else if (name && c ~ /[A-Za-z0-9_'"'"'-]/) { if (top == "") { out = out c; continue } }
      else {
        name = c ~ /[A-Za-z_]/
        if (c == "#") {
          # A carriage return ends a comment as well.
          step = index(substr(line, i), "\r") - 1; if (step < 1) step = length(line) - i + 1
        }
        else if (two == "/*") { where = where "b"; step = 2 }
        else if (c == "\"") where = where "s"
        else if (two == "'"''"'") { where = where "i"; step = 2 }
        else if (top == "") { out = out c; continue }
        else if (c == "{") where = where "{"
        else if (c == "}") close_one()
      }
      out = out sprintf("%" step "s", "")
    }
    return substr(out, 1, length(line))
  }
  function close_one() { where = substr(where, 1, length(where) - 1) }
  function find(code, word, start,   at) {
    at = index(substr(code, start), word)
    if (!at) return 0
    at += start - 1
    if (substr(" " code, at, 1) ~ /[A-Za-z0-9_.\/+~-]/ || substr(code, at + length(word), 1) ~ /[A-Za-z0-9_.\/+-]/)
      return find(code, word, at + 1)
    return at
  }'

# `import_state FILE PATH`: active, commented (or in a string) or absent.
import_state() {
  [ -f "$1" ] || {
    printf absent
    return 0
  }
  awk -v word="$2" "$NIX_SCANNER"'
    { if (find(code_of($0), word, 1)) active = 1; if (find($0, word, 1)) mentioned = 1 }
    END { printf "%s", active ? "active" : mentioned ? "commented" : "absent" }' "$1"
}

# `edit_imports FILE AWK_PROGRAM...` prints FILE as the program prints it, but keeps the end of the last line as it was: awk
# ends it with a newline, whether the file did or not.
edit_imports() {
  edit_file=$1
  shift
  awk "$@" "$edit_file" >"$WORK/edited"
  if [ -n "$(tail -c 1 "$edit_file")" ]; then head -c -1 "$WORK/edited"; else cat "$WORK/edited"; fi
}

# `swap_import FILE FROM TO` prints FILE with every active import of FROM changed to TO; all other bytes stay.
swap_import() {
  # shellcheck disable=SC2016
  edit_imports "$1" -v from="$2" -v to="$3" "$NIX_SCANNER"'
    {
      line = $0; code = code_of(line); done = ""
      while (at = find(code, from, 1)) {
        done = done substr(line, 1, at - 1) to
        line = substr(line, at + length(from)); code = substr(code, at + length(from))
      }
      print done line
    }'
}

# `drop_import FILE PATH` prints FILE without its active imports of PATH: with each goes the blank before it, or its whole line
# if nothing else is on it. All other bytes stay.
drop_import() {
  # shellcheck disable=SC2016
  edit_imports "$1" -v word="$2" "$NIX_SCANNER"'
    {
      line = $0; code = code_of(line); done = ""; dropped = 0
      while (at = find(code, word, 1)) {
        before = substr(line, 1, at - 1); sub(/[ \t]$/, "", before)
        done = done before; dropped = 1
        line = substr(line, at + length(word)); code = substr(code, at + length(word))
      }
      if (!dropped || done line !~ /^[ \t\r]*$/) print done line
    }'
}

# An awk program, after NIX_SCANNER, for import_list.
# shellcheck disable=SC2016
IMPORT_FINDER='
  function skip_blanks() { while (substr(code, i, 1) ~ /[ \t\r\n]/) i++ }
  function word_at(at) { match(substr(code, at), /^[A-Za-z_][A-Za-z0-9_'"'"'-]*/); return substr(code, at, RLENGTH) }
  # A keyword begins here, and no part of a path or of a longer name.
  function keyword(word) {
    return word_at(i) == word && substr(code, i - 1, 1) !~ /[A-Za-z0-9_.\/<~+'"'"'-]/ && substr(code, i + length(word), 1) !~ /[.\/]/
  }
  # From a `let` to behind its `in`.
  function past_let(   lets) {
    do {
      if (keyword("let")) lets++
      else if (keyword("in")) lets--
      i++
    } while (lets && i <= size)
    i++
    return !lets
  }
  # From behind the word "imports": an equal sign, perhaps `with SET;` or a `let`, and a list, or one that is added to something.
  function list_follows(   c, depth, last) {
    skip_blanks()
    if (substr(code, i, 1) != "=" || substr(code, i + 1, 1) == "=") return 0
    i++; skip_blanks()
    while (1) {
      if (keyword("with") && match(substr(code, i), /^with[ \t\r\n]+[A-Za-z0-9_.'"'"'-]+[ \t\r\n]*;/)) i += RLENGTH
      else if (!keyword("let") || !past_let()) break
      skip_blanks()
    }
    for (last = "++"; i <= size; i++) {
      c = substr(code, i, 1)
      if (!depth && c == "[" && last == "++") return 1
      if (c ~ /[{(\[]/) depth++
      else if (c ~ /[})\]]/) depth--
      if (depth < 0 || !depth && c == ";") return 0
      if (c !~ /[ \t\r\n]/) last = substr(last, length(last)) c
    }
    return 0
  }
  { code = code code_of($0) "\n" }
  END {
    # open: what is open, one letter each; l is a let without its in.
    open = ""; last = ""; size = length(code)
    for (i = 1; i <= size; i++) {
      c = substr(code, i, 1); top = substr(open, length(open), 1)
      if (c ~ /[{(\[]/) open = open c
      else if (c ~ /[})\]]/) open = substr(open, 1, length(open) - 1)
      else if (c ~ /[A-Za-z_]/) {
        word = word_at(i); inside = substr(code, i - 1, 1) ~ /[.\/<~+-]/; i += length(word) - 1
        if (inside || substr(code, i + 1, 1) ~ /[.\/]/) { }
        else if (word == "let") open = open "l"
        else if (word == "in" && top == "l") open = substr(open, 1, length(open) - 1)
        else if (word == "imports" && open == "{" && last ~ /[{;]/) {
          here = ++i
          if (list_follows()) { print i; exit }
          i = here - 1
        }
        last = "a"; continue
      }
      if (c !~ /[ \t\r\n]/) last = c
    }
    exit 1
  }'

# `import_list FILE` prints how many bytes of FILE come before the inside of its list of imports: that of the first `imports =
# [` of a set that is not inside anything else. Fails if there is none.
import_list() { awk "$NIX_SCANNER$IMPORT_FINDER" "$1"; }

# `insert_import FILE PATH` prints FILE with PATH as the first item of its list of imports; all other bytes stay.
insert_import() {
  insert_at=$(import_list "$1") || return 1
  head -c "$insert_at" "$1"
  printf ' %s' "$2"
  case $(tail -c "+$((insert_at + 1))" "$1" | head -c 1) in
    '' | ' ' | '	' | ']' | "$CARRIAGE_RETURN") ;;
    *) printf ' ' ;;
  esac
  tail -c "+$((insert_at + 1))" "$1"
}
CARRIAGE_RETURN=$(printf '\r')

# `in_git FOLDER`: the folder belongs to a git checkout, as Nix sees it. (The server need not have git.)
in_git() {
  git_folder=$1
  while [ -n "$git_folder" ]; do
    [ ! -e "$git_folder/.git" ] || return 0
    git_folder=${git_folder%/*}
  done
  return 1
}

# `other_system` prints the file from which nixos-rebuild builds without reading configuration.nix: since NixOS 26.05,
# <nixos-system> or a system.nix comes first. Fails if there is none.
other_system() {
  nix-instantiate --find-file nixos-system 2>/dev/null </dev/null && return 0
  [ -e "$ROOT/etc/nixos/system.nix" ] || return 1
  printf '%s\n' "$ROOT/etc/nixos/system.nix"
}

# `other_configuration CONFIGURATION` prints the file that nixos-rebuild takes for the configuration, if that is another one (as
# NIX_PATH can say, through a configuration's nix.nixPath). Fails if it is this one.
other_configuration() {
  other_file=$(nix-instantiate --find-file nixos-config 2>/dev/null </dev/null) && other_file=$(readlink -f "$other_file") &&
    [ -f "$other_file" ] && [ "$other_file" != "$1" ] && printf '%s\n' "$other_file"
}

# `configuration_folder CONFIG_DIR`: where the configuration really is. Nix resolves ./x.nix next to the file that a link leads
# to, so our folder must be there.
configuration_folder() {
  configuration_file=$(readlink -f "$1/configuration.nix") && [ -f "$configuration_file" ] || configuration_file=$1/configuration.nix
  printf '%s\n' "${configuration_file%/*}"
}

# `flake_above FOLDER` prints the folder of a flake.nix further up in the same git checkout; fails if there is none.
flake_above() {
  in_git "$1" || return 1
  above=$1
  while [ ! -e "$above/flake.nix" ]; do
    [ "$above" != "$git_folder" ] || return 1
    above=${above%/*}
  done
  printf '%s\n' "$above"
}

# `flake_folder DIR`: where the flake really is. As with configuration.nix, the file or its folder may be a link; what is next
# to the real file counts.
flake_folder() {
  flake_file=$(readlink -f "$1/flake.nix") && [ -f "$flake_file" ] || flake_file=$1/flake.nix
  printf '%s\n' "${flake_file%/*}"
}

# `flake_url DIR`: in a git checkout, Nix sees only what git tracks, as in the owner's own rebuild; elsewhere it sees
# everything.
flake_url() { if in_git "$1"; then printf '%s\n' "$1"; else printf 'path:%s\n' "$1"; fi; }

# `has_hard_links FILE`: it has another name, which would keep the old content when a new file takes its place.
has_hard_links() { [ "$(stat -c %h "$1" 2>/dev/null)" -gt 1 ] 2>/dev/null; }

# `last_error LOG`: Nix's last error, on one line.
last_error() {
  awk '/^ *error:/ { text = ""; seen = 1 } seen && !/show-trace/ { text = text " " $0 } END { print text }' "$1" |
    tr -s ' ' | sed -e 's/^ *//' -e 's/^error: *//' -e 's/[ .]*$//' | cut -c 1-400
}

# ---- What the chapter's file sets besides the chapter's own settings

# Names of options, as far as they can be determined without evaluating their values.
# shellcheck disable=SC2016
SAYS_BESIDES='{ configuration, file }: let
    system = import <nixpkgs/nixos> { configuration = /. + configuration; };
    given = { inherit (system) config options; lib = import <nixpkgs/lib>; pkgs = system.pkgs or (import <nixpkgs> { });
      modulesPath = ""; utils = { }; };
    loaded = import (/. + file);
    named = builtins.functionArgs loaded;
    module = if !builtins.isFunction loaded then loaded
      else loaded (if named == { } then given else builtins.intersectAttrs named given);
    # mkIf, mkMerge, mkForce and the like, taken away.
    parts = value: if !(builtins.isAttrs value && value ? _type) then [ value ]
      else if value ? contents then builtins.concatMap parts value.contents
      else if value ? content then parts value.content else [ value ];
    # Two words tell an option well enough, but for these.
    deep = [ "systemd.services" "systemd.timers" "users.users" "users.groups" "environment.etc" "services.caddy"
      "services.caddy.virtualHosts" ];
    told = path: builtins.length path >= 2 && !builtins.elem (builtins.concatStringsSep "." path) deep;
    names = path: value: builtins.concatMap (part:
      if !builtins.isAttrs part || part ? _type || part ? outPath || told path then [ (builtins.concatStringsSep "." path) ]
      else builtins.concatMap (name: names (path ++ [ name ]) part.${name}) (builtins.attrNames part)) (parts value);
    said = names [ ] (module.config or (builtins.removeAttrs module [ "imports" "options" "config" ]))
      ++ builtins.filter (name: module ? ${name}) [ "imports" "options" ];
    chapters = [ "services[.](fail2ban|tailscale|immich)" "services[.]caddy[.][^.]*" "networking[.]firewall" "systemd[.]tmpfiles"
      "(systemd[.]services|users[.]users|users[.]groups)[.](caddy|fail2ban)" "environment[.]etc[.]fail2ban/.*" "assertions" "warnings" ];
    sites = builtins.filter (name: builtins.match "services[.]caddy[.]virtualHosts[.].*" name != null) said;
    besides = builtins.filter (name: !builtins.elem name sites && builtins.all (one: builtins.match one name == null) chapters) said;
  in builtins.concatStringsSep ", " (besides ++ (if builtins.length sites > 1 then sites else [ ]))'

# `says_besides CONFIGURATION FILE [timeout SECONDS]` prints them; fails if they cannot be determined.
says_besides() {
  says_configuration=$1 says_file=$2
  shift 2
  said_besides=$("$@" nix-instantiate --eval --strict --json --read-write-mode -I "nixos-config=$says_configuration" \
    --argstr configuration "$says_configuration" --argstr file "$says_file" -E "$SAYS_BESIDES" </dev/null) || return 1
  printf '%s' "$said_besides" | sed -e 's/^"//' -e 's/"$//' -e 's/\\//g' | cut -c 1-400
}
