# shellcheck shell=sh
# Runs after lib.sh and, for install, after a function payload() that calls `put 0600 api-key <<'END'`.
# Who opened which shared link, when each device last connected, and what Immich's links allow. The edge's own program does the
# counting and asks Immich (caddy/who.go).
#
#   sum          adds up what is new in the edge's logs, and reports links that were opened for the first time; once a day it also
#                reports what Immich's links allow, if that has changed (a unit of the module runs this every five minutes)
#   who [--html] prints it for people; --html is one page for a browser
#   links        prints what Immich's links allow
#   install      uses the payload's key of Immich's API, and reports what it opens
#   remove       removes the key
#
# Besides the key by which links are named (lib.sh), STATE/who has files for root alone: `summary`, `counted` (a line for
# status), `api-key`, and `told` (what was last reported about the links, with the day in its first line).

TOLD=$WHO/told

put() {
  [ "$2" = api-key ] || die "The payload may only hold the file api-key, not \"$2\"; remove the other file from it."
  (umask 077 && cat >"$WORK/api-key")
}

# `ask WHAT` runs the edge's program with the days from the settings and Immich's address from the module.
ask() {
  ask_edge=${IMMICH_EDGE:-$(edge_program)}
  [ -n "$ask_edge" ] || die "The edge is not on this server yet, so nothing has been counted; run \"pulumi up\" first."
  ask_days=$(sed -n 's/^IMMICH_EXPOSURE_WHO_DAYS=\([0-9]*\)$/\1/p' "$STATE/settings/edge.env" 2>/dev/null) || ask_days=
  timeout 120 "$ask_edge" who --ask "$1" --state "$STATE" --logs "$LOGS" --immich "$(module_word immich)" --days "${ask_days:-90}" </dev/null
}

# One at a time: two runs over the same lines would count them twice.
alone() {
  exec 8>"$WHO/.counting"
  flock -w 60 8 || die "Another \"immich-exposure who\" is still running; wait for it and run this again."
}

sum() {
  if counts_opens && [ -s "$WHO/key" ]; then
    alone
    ask sum >"$WORK/sum"
    exec 8>&-
    while read -r sum_word sum_value _; do
      case $sum_word in
        first) tell opened-link "The shared link $sum_value was opened for the first time; see \"immich-exposure who\"." ;;
        more) tell opened-link "So were $sum_value more." ;;
        *) ;;
      esac
    done <"$WORK/sum"
    sed -n '/^links [0-9]* opens [0-9]*$/p' "$WORK/sum" | write_file 0600 "$WHO/counted"
  fi
  tell_of_links
}

# The file has what was last reported, after the day: the same words are not news.
tell_of_links() {
  [ -f "$WHO/api-key" ] || return 0
  links_day=$(date +%F) links_last=
  [ ! -r "$TOLD" ] || read -r links_last <"$TOLD" || :
  [ "$links_day" != "$links_last" ] || return 0
  ask words >"$WORK/words" || return 0
  { [ ! -r "$TOLD" ] || sed 1d "$TOLD"; } >"$WORK/told"
  { echo "$links_day" && cat "$WORK/words"; } | write_file 0600 "$TOLD"
  grep -vxF -f "$WORK/told" "$WORK/words" >"$WORK/news" || :
  while IFS= read -r links_sentence; do tell links "$links_sentence"; done <"$WORK/news"
}

print_who() {
  counts_opens || [ -f "$WHO/api-key" ] || die "Who opens what is not counted; set who: true and run \"pulumi up\"."
  ask "$1"
}

install_key() {
  payload
  [ "$(grep -cx '[A-Za-z0-9._~+/=-]\{1,500\}' "$WORK/api-key"):$(wc -l <"$WORK/api-key" | tr -d ' ')" = 1:1 ] ||
    die "An Immich API key is one word of letters and digits; correct immichApiKey."
  make_state
  make_who
  write_file 0600 "$WHO/api-key" <"$WORK/api-key"
  rm -f "$TOLD"
  # If there is no edge yet, the next run reports it.
  [ -n "$(edge_program)" ] || return 0
  if ask words >"$WORK/words" 2>/dev/null; then
    while IFS= read -r install_sentence; do say "$install_sentence"; done <"$WORK/words"
  fi
}

need_root
case ${1:-}:$#:${2:-} in
  sum:1:)
    is_ours "$STATE" || exit 0
    sum
    ;;
  who:1:) print_who table ;;
  who:2:--html) print_who page ;;
  links:1:)
    [ -f "$WHO/api-key" ] || die "There is no Immich API key on this server; set immichApiKey and run \"pulumi up\"."
    ask links
    ;;
  install:1:)
    lock
    install_key
    ;;
  remove:1:)
    lock
    rm -f "$WHO/api-key" "$TOLD"
    forget_opens
    ;;
  *) die "who.sh knows the verbs sum, who, links, install and remove, not \"$*\"; see immich-exposure who --help." ;;
esac
