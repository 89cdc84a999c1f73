# shellcheck shell=sh
# Runs after lib.sh and, for install, after a function payload() that calls `put 0600 channel <<'END'`.
# The one channel for notices to the owner (see `tell` in lib.sh).
#
#   install   uses the payload's channel and sends a first notice through it; a channel that does not answer is only reported
#   deliver   sends waiting notices, and what has changed about the funnel and the devices since the last time (a unit of the NixOS
#             module runs this whenever one of them changes or a notice waits, and every five minutes)
#   remove    does the same for the last time; afterwards there is no channel, and nothing waits
#
# The channel's file has lines of a word and a value, and only root can read it because of the token:
#
#   kind ntfy|gotify|webhook|command    address URL    token TOKEN    command FILE

CHANNEL=$NOTICES/channel
WAITING=$NOTICES/waiting
# "EPOCH KIND" for each message of the last hour.
SENT=$NOTICES/sent
# The state of the funnel and the devices last time. So scripts and people that change them need not report it.
FUNNEL_WAS=$NOTICES/funnel
DEVICES_WERE=$NOTICES/devices
# The error of the last delivery, until one succeeds.
FAILED=$NOTICES/failed

# Waiting notices of one kind are sent as one message, so that a flood becomes a list. Beyond this many messages in an hour,
# they keep waiting.
MOST_OF_AN_HOUR=6
MOST_LINES=20
# Notices that could not be delivered for this long are dropped.
TOO_OLD=604800
SEND_TIMEOUT=20

put() {
  [ "$2" = channel ] || die "The payload may only hold the file channel, not \"$2\"; remove the other file from it."
  (umask 077 && cat >"$WORK/channel")
}

# `said WORD [FILE]`: the channel's value for a word.
said() { sed -n "s/^$1 //p" "${2:-$CHANNEL}" 2>/dev/null | head -n 1; }

check_channel() {
  ! grep -qv -x -e 'kind [a-z]*' -e 'address https\{0,1\}://[][A-Za-z0-9._~:/?#@!$&()*+,;=%-]*' -e 'token [A-Za-z0-9._~+/=-]*' \
    -e 'command /[A-Za-z0-9._/+@-]*' "$WORK/channel" ||
    die "The channel holds a line that is not understood; correct notify."
  case $(said kind "$WORK/channel") in
    ntfy | gotify | webhook) [ -n "$(said address "$WORK/channel")" ] || die "The channel lacks an address; correct notify." ;;
    command) [ -n "$(said command "$WORK/channel")" ] || die "The channel lacks a command; correct notify." ;;
    *) die "The channel's kind must be ntfy, gotify, webhook or command; correct notify." ;;
  esac
}

install_channel() {
  payload
  check_channel
  make_state
  install -d -m 0700 "$NOTICES" "$WAITING"
  # Notices that an earlier channel could not deliver are dropped.
  rm -f "$WAITING"/* "$FAILED"
  # Without a channel nothing is reported, and what exists when one is installed is not news.
  rm -f "$CHANNEL" "$FUNNEL_WAS" "$DEVICES_WERE"
  look_at_exposure
  look_at_devices
  write_file 0600 "$CHANNEL" <"$WORK/channel"
  tell channel "From now on, what happens to the exposure of Immich on this server is reported here."
  # The unit may not exist yet, and the operator wants to know the result now.
  deliver
  [ ! -e "$FAILED" ] ||
    say "Notices cannot be delivered ($(cut -d ' ' -f 2- "$FAILED")); the exposure works without them, and they are sent again later"
}

# `title KIND` and `priority KIND`, in ntfy's terms: from 1 to 5.
title() {
  case $1 in
    opened) echo "The exposure is open" ;;
    closed) echo "The exposure is closed" ;;
    healed) echo "The exposure works again" ;;
    dead) echo "The exposure does not answer" ;;
    ailing) echo "Shared links do not work" ;;
    unsafe) echo "Closed, because it was not safe" ;;
    enrolled) echo "A device was enrolled" ;;
    revoked) echo "A device is no longer enrolled" ;;
    seen) echo "A device connected for the first time" ;;
    ending) echo "Something expires soon" ;;
    lease) echo "The timer that ends the funnel's lease" ;;
    bans) echo "Many visitors are banned" ;;
    log) echo "The disk of the edge's log is full" ;;
    lists) echo "A ban list" ;;
    outdated) echo "A version is too old" ;;
    opened-link) echo "A shared link was opened for the first time" ;;
    links) echo "What your shared links allow" ;;
    room) echo "Disk space for guests' uploads" ;;
    *) echo "Immich exposure" ;;
  esac
}

priority() {
  case $1 in
    unsafe) echo 5 ;;
    dead | ailing | lease | ending | bans | log | outdated | room) echo 4 ;;
    *) echo 3 ;;
  esac
}

# ---- Sending

# curl reads all of it from a file in memory, so that no other account of the server sees the token or the address.
curl_line() { printf '%s = "%s"\n' "$1" "$(printf '%s' "$2" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g')" >>"$WORK/curl"; }

# `post ADDRESS TYPE FILE [HEADER...]`
post() {
  rm -f "$WORK/curl"
  (umask 077 && : >"$WORK/curl")
  curl_line url "$1"
  curl_line data-binary "@$3"
  curl_line header "Content-Type: $2"
  shift 3
  for header; do [ -z "$header" ] || curl_line header "$header"; done
  curl --disable --silent --show-error --fail --globoff --noproxy '*' --proto =http,https --max-time "$SEND_TIMEOUT" \
    --output /dev/null --write-out '%{http_code}' --config "$WORK/curl" >"$WORK/answered" 2>"$WORK/said" </dev/null || return 1
  # The token is sent only to the configured address.
  case $(cat "$WORK/answered") in
    2??) ;;
    3??)
      echo "the address redirects (status $(cat "$WORK/answered")), which notices do not follow; set the address that it redirects to" >"$WORK/said"
      return 1
      ;;
    *)
      echo "it answers with status $(cat "$WORK/answered"), which is not a success" >"$WORK/said"
      return 1
      ;;
  esac
}

bearer() { token=$(said token) && [ -z "$token" ] || printf 'Authorization: Bearer %s' "$token"; }

send_ntfy() {
  post "$(said address)" "text/plain; charset=utf-8" "$2" "Title: $3" "Priority: $(priority "$1")" "$(bearer)"
}

send_gotify() {
  printf '{"title":%s,"message":%s,"priority":%s}\n' "$(json_string "$3")" "$(json_quote <"$2")" \
    "$(($(priority "$1") * 2 - 2))" >"$WORK/json"
  gotify_address=$(said address)
  post "${gotify_address%/}/message" application/json "$WORK/json" "X-Gotify-Key: $(said token)"
}

send_webhook() {
  printf '{"kind":"%s","title":%s,"message":%s,"time":%s}\n' "$1" "$(json_string "$3")" "$(json_quote <"$2")" "$(now)" \
    >"$WORK/json"
  post "$(said address)" application/json "$WORK/json" "$(bearer)"
}

send_command() {
  command_file=$(said command)
  if [ ! -x "$command_file" ]; then
    echo "$command_file is not a program" >"$WORK/said"
    return 1
  fi
  timeout "$SEND_TIMEOUT" "$command_file" "$1" "$3" <"$2" >"$WORK/said" 2>&1
}

# ---- Changes

# `news KIND SENTENCE` is like `tell`, which would start this script again.
news() {
  [ -f "$CHANNEL" ] || return 0
  (note_down "$1" "$2") 2>/dev/null </dev/null || say "The notice \"$2\" could not be saved"
}

look_at_exposure() {
  funnel_now=closed funnel_was=
  [ ! -s "$LEASE" ] || funnel_now=open
  [ ! -r "$FUNNEL_WAS" ] || read -r funnel_was <"$FUNNEL_WAS" || :
  [ "$funnel_now" != "$funnel_was" ] || return 0
  echo "$funnel_now" >"$WORK/funnel"
  keep "$FUNNEL_WAS" <"$WORK/funnel"
  if [ "$funnel_now" = open ]; then
    # shellcheck disable=SC2046
    set -- $(recorded_ports)
    news opened "The exposure is open: $(url "$(recorded_domain)" "$1") answers on the internet."
  elif [ -e "$CLOSED_BY_HAND" ]; then
    news closed "The exposure was closed by hand on the server, and stays closed."
  else
    news closed "The exposure is closed: nobody can get in from the internet."
  fi
}

# Compared by name: a renewed device has another certificate, but is the same device.
look_at_devices() {
  for device_file in "$STATE"/devices/*; do
    [ -f "$device_file" ] || continue
    device_name=
    read -r device_name <"$device_file" || :
    case $device_name in '' | *[!A-Za-z0-9._-]*) ;; *) printf '%s\n' "$device_name" ;; esac
  done | sort -u >"$WORK/devices"
  if [ -f "$DEVICES_WERE" ]; then
    comm -13 "$DEVICES_WERE" "$WORK/devices" | while read -r device_name; do
      news enrolled "The device $device_name is enrolled."
    done
    comm -23 "$DEVICES_WERE" "$WORK/devices" | while read -r device_name; do
      news revoked "The device $device_name is no longer enrolled."
    done
  fi
  keep "$DEVICES_WERE" <"$WORK/devices"
}

# ---- The queue

kinds_waiting() {
  for notice in "$WAITING"/*; do
    [ -f "$notice" ] || continue
    notice=${notice##*/}
    notice=${notice#*.}
    printf '%s\n' "${notice%%.*}"
  done | sort -u
}

# `notices_of KIND`: its files, oldest first.
notices_of() { find "$WAITING" -type f -name "*.$1.*" -printf '%T@ %p\n' | sort -n | cut -d ' ' -f 2-; }

# `gather KIND` writes the message, and the list of notices in it.
gather() {
  notices_of "$1" >"$WORK/gathered"
  gather_count=$(wc -l <"$WORK/gathered")
  head -n "$MOST_LINES" "$WORK/gathered" | while IFS= read -r notice; do cat "$notice"; done >"$WORK/message"
  [ "$gather_count" -le "$MOST_LINES" ] || echo "and $((gather_count - MOST_LINES)) more" >>"$WORK/message"
}

forget_old() {
  forget_before=$(($(now) - TOO_OLD))
  for notice in "$WAITING"/*; do
    [ -f "$notice" ] || continue
    notice_time=${notice##*/}
    notice_time=${notice_time%%.*}
    case $notice_time in
      '' | *[!0-9]*) rm -f "$notice" ;;
      *) [ "$notice_time" -ge "$forget_before" ] || rm -f "$notice" ;;
    esac
  done
  # A clock that was ahead must not block the channel.
  awk -v now="$(now)" '$1 > now - 3600 && $1 <= now' "$SENT" 2>/dev/null >"$WORK/sent" || :
  keep "$SENT" <"$WORK/sent"
}

# Notices are sent even if the disk is full.
keep() { (write_file 0600 "$1") 2>/dev/null || :; }

sent_of() { awk -v kind="$1" '$2 == kind { count++ } END { print count + 0 }' "$SENT" 2>/dev/null || echo 0; }

deliver() {
  if [ ! -f "$CHANNEL" ]; then return 0; fi
  # One delivery at a time. The other one may have looked before the last notice arrived, so this one waits for it.
  exec 8>"$NOTICES/.delivering"
  flock -w 120 8 || return 0
  look_at_exposure
  look_at_devices
  forget_old
  channel_kind=$(said kind)
  for deliver_kind in $(kinds_waiting); do
    [ "$(sent_of "$deliver_kind")" -lt "$MOST_OF_AN_HOUR" ] || continue
    gather "$deliver_kind"
    if ! "send_$channel_kind" "$deliver_kind" "$WORK/message" "$(title "$deliver_kind")"; then
      printf '%s %s\n' "$(now)" "$(tail -n 1 "$WORK/said" | head -c 300)" >"$WORK/failed"
      keep "$FAILED" <"$WORK/failed"
      say "A notice could not be delivered: $(cut -d ' ' -f 2- "$WORK/failed")"
      return 0
    fi
    rm -f "$FAILED"
    while IFS= read -r notice; do rm -f "$notice"; done <"$WORK/gathered"
    { echo "$(now) $deliver_kind" >>"$SENT"; } 2>/dev/null || :
  done
}

need_root
case ${1:-} in
  install)
    lock
    install_channel
    ;;
  deliver) deliver ;;
  remove)
    lock
    is_ours "$STATE" || exit 0
    deliver
    rm -rf "$NOTICES"
    ;;
  *) die "notify.sh knows the verbs install, deliver and remove, not \"${1:-}\"; use one of them." ;;
esac
