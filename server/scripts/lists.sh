# shellcheck shell=sh
# Runs after lib.sh and, except for remove, after a function payload() that calls `put MODE NAME <<'END'` for lists.conf and,
# with CrowdSec, crowdsec.key.
# Ban lists: countries, networks, and CrowdSec's decisions (nix/lists.nix, caddy/bansources.go).
#
#   install   uses the payload's sources, and puts each list in force. If nothing of a list is in force, this fails and everything is
#             as it was; if a list cannot be brought up to date, this is reported, and what the list bans stays banned
#   look      prints a line for each source of the payload's that could not be used now, and changes nothing: "wrong SENTENCE" if
#             nobody would be banned by it, "note SENTENCE" if what is in force stays so
#   remove    removes all ban lists

put() {
  case $2 in
    lists.conf | crowdsec.key) ;;
    *) die "The payload may hold lists.conf and crowdsec.key, not \"$2\"; remove the other file from it." ;;
  esac
  (umask 077 && cat >"$WORK/$2")
}

take_payload() {
  payload
  [ -s "$WORK/lists.conf" ] || die "The payload lacks lists.conf; send it."
  ! grep -qvx -e '\(only-\)\{0,1\}countries [A-Z ]*' -e 'database /[A-Za-z0-9._/+@-]*' -e 'networks /[A-Za-z0-9._/+@-]*' \
    -e '\(database\|networks\)-days [0-9]\{1,4\}' -e 'crowdsec https\{0,1\}://[][0-9a-f.:]*' "$WORK/lists.conf" ||
    die "lists.conf holds a line that is not understood; correct banLists."
}

# `source_of WORD`: the values of a word in the payload's lists.conf, one per line.
source_of() { sed -n "s/^$1 //p" "$WORK/lists.conf"; }

# ---- Checking

# The programs that write lists can read world-readable files outside home folders.
anybody_reads() {
  if ! command -v setpriv >/dev/null; then return 0; fi
  setpriv --reuid=65534 --regid=65534 --clear-groups -- test -r "$1" 2>/dev/null </dev/null
}

# Folders that those programs do not see (components/config/lists.py names them as well); a link into one leads nowhere for
# them.
is_hidden() {
  hidden_at=$(readlink -f "$1" 2>/dev/null) || return 1
  case ${hidden_at#"$ROOT"} in
    /home/* | /root/* | /run/user/* | /tmp/* | /var/tmp/* | /var/lib/immich-exposure/*) return 0 ;;
    *) return 1 ;;
  esac
}

# `older_than DAYS FILE`, by its modification time: its content is no newer than that.
older_than() { [ "$1" -gt 0 ] && [ -n "$(find -L "$2" -mmin "+$(($1 * 1440))" 2>/dev/null)" ]; }

# `wrong_with LIST SENTENCE`: if the list is in force, it stays so, and the fault is only a note.
wrong_with() {
  if [ "$1" = note ] || [ -s "$STATE/bans/lists/$1" ]; then echo "note $2"; else echo "wrong $2"; fi
}

# `look_at_file LIST FILE`
look_at_file() {
  if [ ! -e "$2" ]; then
    wrong_with "$1" "$2 is not on the server"
  elif [ ! -f "$2" ]; then
    wrong_with "$1" "$2 is not a file"
  elif is_hidden "$2"; then
    wrong_with "$1" "$2 leads to $(readlink -f "$2"), which the service that reads it cannot see; put it into /etc or /var/lib, for example"
  elif ! anybody_reads "$2"; then
    wrong_with "$1" "$2 cannot be read by the account immich-bans; make it readable for everybody (chmod a+r, and a+x on its folders)"
  else
    return 0
  fi
  return 1
}

# The byte order mark that Windows editors write.
BOM=$(printf '\357\273\277')

# Before the first rebuild there is no program that reads the files; then a script checks them as far as it can.
look_at_files() {
  look_edge=$(edge_program)
  if [ -n "$look_edge" ] && "$look_edge" ban-lists-check --settings "$WORK/lists.conf" >"$WORK/wrong" 2>/dev/null </dev/null; then
    tr -cd '\012\040-\176' <"$WORK/wrong" | while read -r look_list look_said; do wrong_with "$look_list" "$look_said"; done
    # Root has read them here, but another account must be able to.
    for look_file in $(source_of database); do [ ! -f "$look_file" ] || look_at_file countries "$look_file" || :; done
    for look_file in $(source_of networks); do [ ! -f "$look_file" ] || look_at_file networks "$look_file" || :; done
    return 0
  fi
  look_file=$(source_of database)
  if [ -n "$look_file" ] && look_at_file countries "$look_file"; then
    if ! tail -c 131072 "$look_file" | grep -aqF MaxMind.com; then
      wrong_with countries "$look_file is damaged, or is not a country database in MaxMind's format (.mmdb)"
    elif older_than "$(source_of database-days)" "$look_file"; then
      wrong_with countries "$look_file is older than the $(source_of database-days) days that banLists.countryDays allows; fetch a new one"
    fi
  fi
  for look_file in $(source_of networks); do
    look_at_file networks "$look_file" || continue
    if ! grep -aq '[^[:space:]]' "$look_file"; then
      wrong_with networks "$look_file is empty; fetch it again, or write a comment into it if it should ban nobody"
      continue
    fi
    look_line=$(sed "1s/^$BOM//" "$look_file" | grep -anvE '^[[:space:]]*([0-9a-fA-F:.]+(/[0-9]{1,3})?)?([[:space:]].*)?[[:space:]]*([#;].*)?$' |
      head -n 1 | cut -d : -f 1)
    if [ -n "$look_line" ]; then
      wrong_with networks "$look_file is damaged: line $look_line is not a network"
    elif older_than "$(source_of networks-days)" "$look_file"; then
      wrong_with networks "$look_file is older than the $(source_of networks-days) days that banLists.networkDays allows; fetch a new one"
    fi
  done
}

# `head_of_crowdsec [OPTION...]` prints only the status.
head_of_crowdsec() {
  curl --disable --silent --head --noproxy '*' --proto =http,https --max-time 10 --output /dev/null \
    --write-out '%{http_code}' --user-agent immich-exposure/1 "$@" "$look_address/v1/decisions/stream" 2>/dev/null </dev/null
}

# A HEAD request does not count for CrowdSec: what it has sent to the key stays as it is.
look_at_crowdsec() {
  look_address=$(source_of crowdsec)
  [ -n "$look_address" ] || return 0
  # The key is in a file in memory, so that no other account of the server sees it.
  (umask 077 && printf 'header = "X-Api-Key: %s"\n' "$(head -n 1 "$WORK/crowdsec.key" 2>/dev/null)" >"$WORK/curl")
  look_curl=0
  look_status=$(head_of_crowdsec --config "$WORK/curl") || look_curl=$?
  rm -f "$WORK/curl"
  # A server that answers without a key is something else, for example a web server. (For curl's exit statuses, see curl(1),
  # EXIT CODES.)
  if [ "$look_status" = 200 ] && [ "$(head_of_crowdsec)" = 200 ]; then look_status="200 to anybody"; fi
  case $look_status in
    200) ;;
    200*)
      wrong_with crowdsec "What answers at $look_address asks for no key, so it is not CrowdSec's local API; correct banLists.crowdsec"
      ;;
    401 | 403)
      wrong_with crowdsec "CrowdSec at $look_address refuses the key (403); create one with \"cscli bouncers add immich-exposure\" and set it as crowdsecKey"
      ;;
    000 | '')
      case $look_curl in
        60 | 77)
          wrong_with crowdsec "CrowdSec at $look_address shows a certificate that this server does not trust; add its authority to security.pki.certificateFiles in the server's configuration, or use http:// on this server or in the tailnet"
          ;;
        35) wrong_with crowdsec "What answers at $look_address does not speak TLS; correct banLists.crowdsec (http:// instead of https://)" ;;
        *) wrong_with crowdsec "CrowdSec at $look_address does not answer; start it, or correct banLists.crowdsec" ;;
      esac
      ;;
    *)
      wrong_with crowdsec "What answers at $look_address returns $look_status, so it is not CrowdSec's local API; correct banLists.crowdsec"
      ;;
  esac
}

# ---- Installing

put_back() {
  rm -f "$LISTS_CONF" "$CROWDSEC_KEY"
  [ ! -f "$WORK/before-lists.conf" ] || cp -p "$WORK/before-lists.conf" "$LISTS_CONF"
  [ ! -f "$WORK/before-crowdsec.key" ] || cp -p "$WORK/before-crowdsec.key" "$CROWDSEC_KEY"
  if [ -f "$LISTS_CONF" ]; then (write_lists) || :; else remove_lists; fi
}

# Makes the units use the new sources; a list that is no longer configured is removed.
write_lists() {
  if grep -q -e '^database ' -e '^networks ' "$LISTS_CONF"; then
    systemctl start immich-exposure-lists.timer </dev/null >/dev/null 2>&1 || :
  else
    systemctl stop immich-exposure-lists.timer </dev/null >/dev/null 2>&1 || :
  fi
  # In any case: it removes what was made from sources that are no longer configured.
  systemctl start immich-exposure-lists.service </dev/null ||
    die "The ban lists could not be written; see why with \"journalctl -u immich-exposure-lists\" and run this again."
  if grep -q '^crowdsec ' "$LISTS_CONF"; then
    rm -f "$STATE/lists/crowdsec"
    systemctl restart immich-exposure-crowdsec.service </dev/null ||
      die "The service that reads CrowdSec does not start; see why with \"journalctl -u immich-exposure-crowdsec\" and run this again."
    wait_for 75 test -s "$STATE/lists/crowdsec" || :
  else
    stop_crowdsec
  fi
}

install_lists() {
  take_payload
  make_state
  [ ! -f "$LISTS_CONF" ] || cp -p "$LISTS_CONF" "$WORK/before-lists.conf"
  [ ! -f "$CROWDSEC_KEY" ] || cp -p "$CROWDSEC_KEY" "$WORK/before-crowdsec.key"
  # shellcheck disable=SC2034
  UNDO=put_back
  write_file 0644 "$LISTS_CONF" <"$WORK/lists.conf"
  if [ -f "$WORK/crowdsec.key" ]; then
    write_file 0600 "$CROWDSEC_KEY" <"$WORK/crowdsec.key"
  else
    rm -f "$CROWDSEC_KEY"
  fi
  write_lists
  for list in $(lists_wanted); do
    read_report "$list" || :
    case $REPORT in
      good) say "The list $list bans $(networks_of "$REPORT_COUNT"): $REPORT_SAID" ;;
      kept) say "The list $list is out of date, and keeps $(networks_of "$REPORT_COUNT") banned: $REPORT_SAID" ;;
      *) die "The list $list would ban nobody, so nothing was changed: $REPORT_SAID. Fix that, or remove it from banLists." ;;
    esac
  done
}

need_root
case ${1:-} in
  install)
    lock
    install_lists
    ;;
  look)
    take_payload
    # Each reports its own result.
    set +e
    look_at_files
    look_at_crowdsec
    exit 0
    ;;
  remove)
    lock
    is_ours "$STATE" || exit 0
    remove_lists
    ;;
  *) die "lists.sh knows the verbs install, look and remove, not \"${1:-}\"; use one of them." ;;
esac
