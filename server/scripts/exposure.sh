# shellcheck shell=sh
# Runs after lib.sh. The command `immich-exposure` on the server; its output is for people.
#
#   status [--json]     the address, the funnel, why and since when, its lease, Immich at home, devices, bans, services
#   close    close the funnel now, and anything else that leads to Immich from the internet; it stays closed, whatever
#            `pulumi up` changes, until `open`
#   open     open what was proven and then closed, by hand or by its lease (the NixOS module starts funnel.sh for that)
#   lan open|close|auto Immich at home: open, also while the funnel is open; closed, also while it is closed; or following
#                       the funnel again
#   devices  enrolled and revoked devices (the NixOS module starts devices.sh for these two)
#   revoke NAME         revoke this device, now and for good
#   who [--html]        who opened which shared link, and when each device last connected (the NixOS module starts who.sh for these two)
#   links    what Immich's shared links allow
#   guard    check the exposure from outside now (the NixOS module starts guard.sh for that)
#   bans [ADDRESS]      who is banned, by what and until when, and by which lists; with an address, what happens to it and why
#   ban ADDRESS[/64]    ban until it is lifted by hand; /64 means the whole network of an IPv6 address
#   unban ADDRESS|all   lift bans, whoever imposed them; for an IPv6 address its network's as well
#   forget-chapter      what is left of an exposure that was made by hand (the NixOS module starts adopt.sh for that)
#   module   what this system was built with, as JSON (the NixOS module answers that)
#
# --help after any of them only explains it.

VERBS="status close open lan guard devices revoke who links bans ban unban forget-chapter module"

explain() {
  case $1 in
    status)
      echo "immich-exposure status [--json]: the address, the funnel, why and since when, its lease, Immich at home, devices, bans," \
        "services. With --json the exit status is 0 for open and proven, 2 for open and not proven, 3 for closed, 4 for what is" \
        "not as it should be (strangers can bypass the edge, a service is not running or does not respond, the disk of the log is" \
        "full, Tailscale does not answer)."
      ;;
    close)
      echo "immich-exposure close: close the funnel now, and whatever else exposes Immich to the internet. It stays closed, and" \
        "\"pulumi up\" does not open it, until \"immich-exposure open\". Immich can be reached at home again."
      ;;
    open)
      echo "immich-exposure open: open the funnel again after it was closed by hand (for the rest of its lease) or by its lease" \
        "(for a new one). If anything has changed since it was proven, it stays closed: only \"pulumi up\" opens it then."
      ;;
    lan)
      echo "immich-exposure lan open: Immich can be reached at home from now on, even while the funnel is open."
      echo "immich-exposure lan close: Immich cannot be reached at home from now on, even while the funnel is closed."
      echo "immich-exposure lan auto: end either of these; Immich is closed at home only while the funnel is open."
      ;;
    devices) echo "immich-exposure devices: which devices and frames are enrolled, until when, and which were revoked." ;;
    revoke)
      echo "immich-exposure revoke NAME: revoke this device or frame, from its next request on. No \"pulumi up\" enrols it again with" \
        "the certificate or secret that it has. Also write \"revoked: true\" beside it in the stack's devices or frames."
      ;;
    who)
      echo "immich-exposure who [--html]: how often each shared link was opened, downloaded from and uploaded to, and when and from where" \
        "each device connected; with an Immich API key also the links' names and what they allow. --html prints a page for a browser."
      ;;
    links) echo "immich-exposure links: what Immich's shared links allow, and until when." ;;
    guard) echo "immich-exposure guard: check the exposure from outside now, as the server does every five minutes." ;;
    bans)
      echo "immich-exposure bans: who is banned, by which jail or by hand, and until when; for lists, how many networks."
      echo "immich-exposure bans ADDRESS: what bans this address, and what the edge does with a visitor from there."
      ;;
    ban) echo "immich-exposure ban ADDRESS[/64]: ban a visitor until you lift it; /64 is the whole network of an IPv6 address." ;;
    unban) echo "immich-exposure unban ADDRESS|all: lift a ban, whoever imposed it; for an IPv6 address also its network's." ;;
    forget-chapter)
      echo "immich-exposure forget-chapter [--yes]: list what is left of an exposure that was made by hand and taken over; --yes" \
        "removes it."
      ;;
    module) echo "immich-exposure module: what this system was built with, as one line of JSON." ;;
    *)
      echo "immich-exposure VERB, as root: the exposure of Immich on this server."
      for explained in $VERBS; do explain "$explained" | sed 's/^/  /'; done
      ;;
  esac
}

count() { find "$1" -maxdepth 1 -type f 2>/dev/null | wc -l | tr -d ' '; }

lease_in_words() {
  read_lease
  case $LEASE_IS:$LEASE_LEFT in
    trial:*) echo "ends in $(span "$LEASE_LEFT"), unless it is proven" ;;
    confirmed:always) echo "confirmed, stays open" ;;
    confirmed:*)
      case $(words_of "$LEASE_TERM") in
        date\ *) echo "ends $(date -d "@$(words_of "$LEASE_TERM" | cut -d ' ' -f 2)")" ;;
        *) echo "ends in $(span "$LEASE_LEFT")" ;;
      esac
      ;;
    *) echo none ;;
  esac
}

# `names_of devices|frames` prints one name per line.
names_of() {
  for device_file in "$STATE"/devices/*; do
    [ -f "$device_file" ] || continue
    read_device "$device_file"
    # shellcheck disable=SC2153
    case $1:$DEVICE_HAS in
      devices:certificate | frames:secret) printf '%s\n' "$DEVICE_NAME" ;;
      *) ;;
    esac
  done
}

# `count_of devices|frames`
count_of() { names_of "$1" | wc -l | tr -d ' '; }

# A renewed device has two certificates during its grace period.
device_names() {
  names_of devices | sort | uniq -c | while read -r device_count device_name; do
    if [ "$device_count" = 1 ]; then printf ' %s' "$device_name"; else printf ' %s (twice)' "$device_name"; fi
  done
}

# `ban_name ADDRESS [/64]` sets NAME to the file's name: the address as Caddy writes it (RFC 5952), a network as
# 2001:db8:1:2::_64. Anything else is refused, because the name becomes part of a path.
ban_name() {
  NAME=$(printf '%s\n' "$1$2" | awk '
    function fail() { bad = 1; exit 1 }
    function spelled(  i, run, at, size, out) {
      for (i = 1; i <= 8; i++) { run = group[i] == "0" ? run + 1 : 0; if (run > size) { size = run; at = i - run + 1 } }
      if (size < 2) at = 9
      for (i = 1; i <= 8; i++) {
        if (i == at) { out = out "::"; i += size - 1 } else out = out (out == "" || out ~ /::$/ ? "" : ":") group[i]
      }
      return out
    }
    NR > 1 { fail() }
    /^[0-9.]+$/ {
      if (split($0, octet, ".") != 4) fail()
      for (i = 1; i <= 4; i++) if (octet[i] !~ /^(0|[1-9][0-9]?[0-9]?)$/ || octet[i] > 255) fail()
      if (octet[1] == 127 || octet[1] == 0) fail()
      name = $0; next
    }
    /^[0-9a-fA-F:]+(\/64)?$/ {
      network = sub(/\/64$/, ""); text = tolower($0)
      if (text ~ /:::/ || text ~ /::.*::/ || text ~ /^:[^:]/ || text ~ /[^:]:$/ || text !~ /:/) fail()
      halves = split(text, half, "::")
      left = half[1] == "" ? 0 : split(half[1], before, ":")
      right = halves < 2 || half[2] == "" ? 0 : split(half[2], after, ":")
      if (halves < 2 ? left != 8 : left + right > 7) fail()
      for (i = 1; i <= 8; i++) {
        group[i] = i <= left ? before[i] : i > 8 - right ? after[i - 8 + right] : "0"
        if (group[i] !~ /^[0-9a-f][0-9a-f]?[0-9a-f]?[0-9a-f]?$/) fail()
        sub(/^0+/, "", group[i]); if (group[i] == "") group[i] = "0"
      }
      whole = spelled()
      if (whole == "::1" || whole == "::" || whole ~ /^::ffff:/) fail()
      if (network) for (i = 5; i <= 8; i++) group[i] = "0"
      name = spelled() (network ? "_64" : ""); next
    }
    { fail() }
    END { if (bad || name == "") exit 1; print name }') ||
    die "\"$1$2\" is not the address of a visitor; give one such as 203.0.113.9, 2001:db8::9 or 2001:db8::9/64."
}

# Lists ban any number of networks; a ban by a jail or by hand is a file.
ban_files() { find "$STATE/bans" -mindepth 2 -maxdepth 2 -type f ! -path "$STATE/bans/lists/*" "$@" 2>/dev/null; }

print_bans() {
  [ -n "$(ban_files | head -n 1)$(lists_wanted)" ] || say "Nobody is banned"
  for jail in $JAILS manual; do
    for ban_file in "$STATE/bans/$jail"/*; do
      [ -f "$ban_file" ] || continue
      if [ "$jail" = manual ]; then ban_end="until it is lifted"; else ban_end="until $(date -r "$ban_file")"; fi
      printf '%-7s %-42s %s\n' "$jail" "$(printf '%s' "${ban_file##*/}" | tr _ /)" "$ban_end"
    done
  done
  print_lists
}

# A line for each list, with its main reasons for bans.
print_lists() {
  [ -n "$(lists_wanted)" ] || return 0
  print_edge=$(edge_program)
  if [ -n "$print_edge" ]; then
    "$print_edge" ban-lists-count --folder "$STATE/bans/lists" 2>/dev/null </dev/null | tr -cd '\012\040-\176' >"$WORK/counts" || :
  fi
  for print_list in $(lists_wanted); do
    long_row "$print_list" "$(list_in_words "$print_list")"
    awk -v list="$print_list" '$1 == list { count = $2; sub(/^[^ ]+ [^ ]+ /, ""); printf "  %8d %s\n", count, $0 }' "$WORK/counts" 2>/dev/null || :
  done
}

# `list_in_words LIST` describes a list by its report.
list_in_words() {
  read_report "$1" || :
  case $REPORT in
    good) list_word="$(networks_of "$REPORT_COUNT") banned: $REPORT_SAID; since $(date -d "@$REPORT_TIME")" ;;
    kept) list_word="OUT OF DATE, $(networks_of "$REPORT_COUNT") banned as on $(date -d "@$REPORT_TIME"): $REPORT_SAID" ;;
    *) list_word="bans NOBODY: $REPORT_SAID" ;;
  esac
  active "$(list_unit "$1")" || list_word="$list_word; $(list_unit "$1") is NOT active"
  echo "$list_word"
}

# `listed ADDRESS` writes the lines of lists that ban an address to WORK/listed: LIST NETWORK WORDS.
listed() {
  : >"$WORK/listed"
  listed_edge=$(edge_program)
  if [ -z "$listed_edge" ] || [ ! -d "$STATE/bans/lists" ]; then return 0; fi
  "$listed_edge" ban-lists-find --folder "$STATE/bans/lists" --address "$1" 2>/dev/null </dev/null |
    tr -cd '\012\040-\176' >"$WORK/listed" || :
}

# `tell_how_lists_let_in ADDRESS`: no command of ours removes a line from a list, because the next update would restore it.
tell_how_lists_let_in() {
  while read -r how_list how_network how_words; do
    case $how_list in
      countries)
        how_remedy="change banLists in the stack's config (countries or onlyCountries) and run \"pulumi up\""
        ;;
      networks) how_remedy="remove $how_network from $how_words, which takes effect within five minutes" ;;
      crowdsec)
        how_words=${how_words#* }
        how_remedy="\"cscli decisions delete --ip $1\" (or --range $how_network) where CrowdSec runs, which takes effect within seconds"
        ;;
      *) how_remedy="change $STATE/bans/lists/$how_list" ;;
    esac
    say "$1 stays banned by the list $how_list ($how_network, $how_words); to let it in, $how_remedy"
  done <"$WORK/listed"
}

# `print_bans_of ADDRESS` prints what bans an address, and what the edge really does.
print_bans_of() {
  ban_name "$1" ""
  bans_names=$NAME
  case $1 in *.*) ;; *) ban_name "$1" /64 && bans_names="$bans_names $NAME" ;; esac
  bans_found=no
  for jail in $JAILS manual; do
    for name in $bans_names; do
      [ -f "$STATE/bans/$jail/$name" ] || continue
      bans_found=yes
      printf '%s is banned: %s\n' "$1" "$jail"
    done
  done
  listed "$1"
  while read -r bans_list bans_network bans_words; do
    bans_found=yes
    [ "$bans_list" != crowdsec ] || bans_words=${bans_words#* }
    printf '%s is banned: %s (%s, %s)\n' "$1" "$bans_list" "$bans_network" "$bans_words"
  done <"$WORK/listed"
  [ "$bans_found" = yes ] || echo "$1 is not banned"
  active immich-edge || return 0
  # shellcheck disable=SC2046
  set -- "$1" $(recorded_ports)
  case $("$(edge_program)" ban-lists-visit --address "$1" --port "$3" --name "$(recorded_domain)" 2>/dev/null </dev/null) in
    "hung up") echo "The edge hangs up on a visitor from $1" ;;
    [1-5][0-9][0-9]) echo "The edge answers a visitor from $1" ;;
    *) say "The edge could not be asked as a visitor from $1; see \"journalctl -u immich-edge\"" ;;
  esac
}

ban() {
  ban_name "$1" "$2"
  [ -d "$STATE/bans/manual" ] ||
    die "The folder $STATE/bans/manual is missing, so the edge lets no visitor in at all; restart immich-edge, which creates" \
      "it."
  : >"$STATE/bans/manual/$NAME" || die "$STATE/bans/manual/$NAME could not be written; make room on its disk."
  say "$1$2 is banned until you lift it: immich-exposure unban $1$2"
}

# Our fail2ban must know, or it would ban again what is in its database. (Our wrapper of this name talks to our fail2ban only.)
lift() {
  lift_jail=$1
  shift
  [ $# -gt 0 ] && active immich-bans || return 0
  fail2ban-client set "immich-$lift_jail" unbanip "$@" >/dev/null 2>"$WORK/fail2ban.log" </dev/null ||
    grep -q "is not banned" "$WORK/fail2ban.log" ||
    die "fail2ban did not lift the ban ($(tail -n 1 "$WORK/fail2ban.log")); see \"systemctl status immich-bans\"."
}

tell_what_comes_back() {
  active immich-bans || say "immich-bans is not running: those of its own bans that have not expired come back when it starts"
}

unban() {
  ban_name "$1" "$2"
  names=$NAME
  case $1$2 in
    */64 | *.*) ;;
    *)
      ban_name "$1" /64
      names="$names $NAME"
      ;;
  esac
  for name in $names; do
    for jail in $JAILS; do lift "$jail" "$(printf '%s' "$name" | tr _ /)"; done
    for jail in $JAILS manual; do rm -f "$STATE/bans/$jail/$name"; done
  done
  tell_what_comes_back
  listed "$1"
  if [ -s "$WORK/listed" ]; then
    tell_how_lists_let_in "$1"
  else
    say "$1$2 is no longer banned"
  fi
}

unban_all() {
  for jail in $JAILS; do
    if active immich-bans; then
      # shellcheck disable=SC2046
      lift "$jail" $(fail2ban-client get "immich-$jail" banip 2>/dev/null </dev/null)
    fi
  done
  ban_files -delete
  tell_what_comes_back
  if [ -n "$(lists_wanted)" ]; then
    say "Nobody is banned any more except by lists ($(lists_wanted | paste -s -d , - | sed 's/,/, /g')); banLists in the stack's config switches them off"
  else
    say "Nobody is banned any more"
  fi
}

home_in_words() {
  if ! has_lan_unit; then
    echo "as the configuration has it"
  elif home_is_closed; then
    if home_is_by_hand; then echo "closed by hand: immich-exposure lan open"; else echo "closed while the funnel is open"; fi
  else
    home_sockets=$(systemctl list-units --plain --no-legend --full 'immich-exposure-lan@*.socket' </dev/null |
      awk '{ sub(/^immich-exposure-lan@/, "", $1); sub(/\.socket$/, "", $1); print $1 }' |
      plain_instances | sort | tr '\n' ' ')
    home_word=open
    ! home_is_by_hand || home_word="open by hand"
    echo "$home_word${home_sockets:+ on ${home_sockets% }}"
  fi
}

recorded_funnel() { if [ -e "$FUNNEL_RECORD" ]; then echo open; else echo closed; fi; }

# `set_home open|close|auto`. If the funnel was closed by other means, the minute timer corrects the record.
set_home() {
  has_lan_unit || die "This server's configuration leaves home access to Immich alone, so there is nothing to $1; set lan: close to change that."
  is_ours "$STATE" || die "Nothing is exposed from this server, and Immich is open at home; run \"pulumi up\" first."
  case $1:$(recorded_funnel) in
    open:*) home_word="open by hand" home_said="open at home until you say otherwise" ;;
    close:*) home_word="closed by hand" home_said="closed at home until you say otherwise" ;;
    auto:open) home_word=closed home_said="closed at home while the funnel is open" ;;
    *) home_word=open home_said="open at home while the funnel is closed" ;;
  esac
  printf '%s\n' "$home_word" | write_file 0644 "$LAN"
  sync_home
  say "Immich is $home_said"
}

# `address_in_words FUNNEL_PORT` uses the name in the certificate; the node's name may have changed since.
address_in_words() {
  if is_renamed; then
    echo "$(url "$RENAMED_FROM" "$1") leads nowhere: this node is now called $DOMAIN; run \"pulumi up\", or give it its old" \
      "name back"
  else
    [ "$DOMAIN" != - ] || DOMAIN=$(recorded_domain)
    url "$DOMAIN" "$1"
  fi
}

# Empty if the owner has disabled key expiry.
node_key_in_words() {
  key_end=$(node_key_end)
  [ -z "$key_end" ] || key_end=$(date -d "$key_end" +%s 2>/dev/null) || key_end=
  [ -n "$key_end" ] || return 0
  if [ "$key_end" -le "$(now)" ]; then
    echo "expired $(date -d "@$key_end"), so the funnel is closed; run \"sudo tailscale up --force-reauth\" and log in"
  else
    echo "expires $(date -d "@$key_end"), which closes the funnel; disable its expiry in Tailscale's admin console"
  fi
}

row() { printf '%-10s %s\n' "$1" "$2"; }

# `long_row WORD TEXT` prints as many lines of 80 columns as needed.
long_row() {
  printf '%s\n' "$2" | fold -s -w 69 | sed 's/ *$//; 2,$s/^/           /' | {
    IFS= read -r row_first
    row "$1" "$row_first"
    cat
  }
}

# What guard.sh and notify.sh have recorded.
guard_in_words() {
  guard_time=
  [ ! -r "$STATE/guard" ] || read -r guard_time guard_word guard_said <"$STATE/guard" || :
  if grep -qsx 'guard off' "$STATE/settings/guard.conf"; then
    echo "off (guard: false)"
  elif [ -n "$guard_time" ]; then
    echo "$guard_word on $(date -d "@$guard_time"): $guard_said"
  else
    echo "has not checked yet"
  fi
}

notices_in_words() {
  if [ -s "$NOTICES/failed" ]; then
    echo "cannot be delivered: $(cut -d ' ' -f 2- "$NOTICES/failed")"
  elif [ -f "$NOTICES/channel" ]; then
    echo "by $(sed -n 's/^kind //p' "$NOTICES/channel")"
  else
    echo "none (set notify)"
  fi
}

# What who.sh has counted: "links NUMBER opens NUMBER".
opens_in_words() {
  count_links=0 count_opens=0
  [ ! -r "$WHO/counted" ] || read -r _ count_links _ count_opens <"$WHO/counted" || :
  echo "$count_opens opens of $count_links shared links (see immich-exposure who)"
}

opens_in_json() {
  if counts_opens && [ -r "$WHO/counted" ] && read -r _ count_links _ count_opens <"$WHO/counted" &&
    is_count "$count_links" && is_count "$count_opens"; then
    printf ',"who":{"links":%s,"opens":%s}' "$count_links" "$count_opens"
  elif counts_opens; then
    printf ',"who":{"links":0,"opens":0}'
  fi
}

# `look_at_uploads` sets UPLOADED, "BYTES FILES" of the last hour as the edge reports it, and ROOM_FREE, in KiB; each is empty
# if unknown.
look_at_uploads() {
  UPLOADED=$(curl --silent --fail --noproxy '*' --max-time 5 --unix-socket "$ROOT/run/immich-edge/admin.sock" \
    http://localhost/uploads 2>/dev/null </dev/null | grep -x '[0-9]* [0-9]*') || UPLOADED=
  # The edge does not trust an older measurement either (caddy/uploadroom.go).
  ROOM_FREE=$(find "$ROOM" -newermt "@$(($(now) - 180))" -exec cat {} + 2>/dev/null | grep -x '[0-9]*') || ROOM_FREE=
}

room_word() {
  if [ -z "$ROOM_FREE" ]; then
    echo unknown
  elif [ "$ROOM_FREE" -lt "$(gigabytes_kib "$(uploads_said floor)")" ]; then
    echo full
  else
    echo enough
  fi
}

uploads_in_words() {
  look_at_uploads
  case $UPLOADED in
    '') uploads_words="the edge does not say how many" ;;
    *) uploads_words="$((${UPLOADED% *} / 1000000)) MB in ${UPLOADED#* } files within an hour" ;;
  esac
  case $(room_word) in
    enough) echo "$uploads_words; $((ROOM_FREE * 1024 / 1000000000)) GB are free, of which $(uploads_said floor) must stay free" ;;
    full) echo "$uploads_words; REFUSED now: less than $(uploads_said floor) GB are free" ;;
    *) echo "$uploads_words; REFUSED now: the free space where Immich stores them is unknown (uploadLimits.folder)" ;;
  esac
}

uploads_in_json() {
  [ -r "$UPLOADS_CONF" ] || return 0
  look_at_uploads
  uploads_bytes=${UPLOADED% *} uploads_files=${UPLOADED#* }
  printf ',"uploads":{"bytes":%s,"files":%s,"room":"%s","freeKiB":%s}' "${uploads_bytes:-null}" "${uploads_files:-null}" \
    "$(room_word)" "${ROOM_FREE:-null}"
}

# `look FUNNEL_PORT PROXY_PORT`: FUNNEL is "unknown" if Tailscale does not answer.
look() {
  if (read_funnel "$@") >/dev/null 2>&1; then
    read_funnel "$@"
  else
    FUNNEL=unknown DOMAIN=$(recorded_domain)
    : >"$WORK/past"
  fi
  read_lease
  # shellcheck disable=SC2046
  set -- $(words_of "$LAST_CHANGE")
  SINCE=${1:-} WHY=${2:-}-${3:-}
  is_count "$SINCE" || SINCE=
  if is_closed_by_hand; then WHY=closed-hand; fi
  # Tailscale's answer counts: the minute timer may not have looked yet.
  case $FUNNEL:$WHY in open:open-* | *:closed-*) ;; *) SINCE='' WHY=- ;; esac
}

# `look_for_problems` writes a sentence to WORK/problems for each that no unit's state shows.
look_for_problems() {
  {
    if active immich-edge && edge_hangs; then
      echo "The edge is running but does not respond, so nobody gets in; restart it with \"sudo systemctl restart immich-edge\"."
    fi
    full_log
    if is_renamed; then
      case $FUNNEL in
        open) rename_means="and the funnel is open under the new name, which nobody has proven; run \"sudo immich-exposure close\", or" ;;
        *) rename_means="so nobody gets in; run" ;;
      esac
      echo "This server's name has changed from $RENAMED_FROM to $DOMAIN, $rename_means \"pulumi up\", which exposes it under the new" \
        "name, or give it its old name back."
    fi
  } >"$WORK/problems"
}

why_in_words() {
  case $WHY in
    open-trial) why="for its proof by pulumi up" ;;
    open-proven) why="proven by pulumi up" ;;
    open-hand) why="opened again by immich-exposure open" ;;
    open-elsewhere) why="opened again by Tailscale itself" ;;
    closed-hand) why="closed by hand; open it with immich-exposure open" ;;
    closed-lease) why="its lease expired" ;;
    closed-check) why="pulumi up could not open or prove it" ;;
    closed-destroy) why="by pulumi destroy" ;;
    closed-unsafe) why="strangers could have bypassed the edge" ;;
    closed-elsewhere) why="not by us: Tailscale is down, or its own command closed it" ;;
    closed-*) why="by pulumi" ;;
    *) why= ;;
  esac
  echo "$why${SINCE:+, since $(date -d "@$SINCE")}"
}

print_status() {
  look "$1" "$2"
  row address "$(address_in_words "$1")"
  case $FUNNEL in
    open) row funnel "open to the internet on port $1" ;;
    altered) is_renamed || row funnel "altered by hand on port $1: run immich-exposure close" ;;
    foreign) row funnel "closed; port $1 serves another tool" ;;
    unknown) row funnel "Tailscale does not answer, so nothing is open" ;;
    *) row funnel closed ;;
  esac
  [ "$WHY" = - ] || row why "$(why_in_words)"
  while read -r past_kind past_port past_where _; do
    case $past_where in immich) past_where="Immich itself" ;; *) past_where="the edge" ;; esac
    row UNSAFE "$past_where is public on port $past_port ($past_kind), bypassing our rules: run immich-exposure close"
  done <"$WORK/past"
  look_for_problems
  while read -r problem; do long_row PROBLEM "$problem"; done <"$WORK/problems"
  row lease "$(lease_in_words)"
  row home "$(home_in_words)"
  node_key=$(node_key_in_words)
  [ -z "$node_key" ] || row "node key" "$node_key"
  row devices "$(count_of devices)$(device_names)"
  frames=$(names_of frames | sort | paste -s -d ' ' -)
  [ -z "$frames" ] || row frames "$(count_of frames) $frames, read-only by a secret header"
  bans_now=
  for jail in $JAILS manual; do bans_now="$bans_now, $(count "$STATE/bans/$jail") $jail"; done
  row bans "${bans_now#, }"
  for row_list in $(lists_wanted); do long_row "$row_list" "$(list_in_words "$row_list")"; done
  [ ! -r "$UPLOADS_CONF" ] || long_row uploads "$(uploads_in_words)"
  row guard "$(guard_in_words)"
  row notices "$(notices_in_words)"
  ! counts_opens || row who "$(opens_in_words)"
  # shellcheck disable=SC2086
  at_rest=$(not_active $SERVICES)
  for service in $SERVICES; do
    # shellcheck disable=SC2086
    if is_one_of "$service" $at_rest; then row "$service" "NOT active"; else row "$service" active; fi
  done
}

# `open_word` for an open funnel, depending on its lease.
open_word() {
  case $LEASE_IS in
    confirmed) if [ -s "$WORK/at-rest" ] || [ -s "$WORK/problems" ]; then echo degraded; else echo proven; fi ;;
    # On trial: nothing else ends the lease on time.
    *) if grep -qxF "$LEASE_TIMER" "$WORK/at-rest"; then echo degraded; else echo trial; fi ;;
  esac
}

# `status_word`: the summary for monitors.
status_word() {
  # shellcheck disable=SC2086
  not_active $SERVICES >"$WORK/at-rest"
  look_for_problems
  case $FUNNEL:$LEASE_IS:$(wc -l <"$WORK/past" | tr -d ' ') in
    *:*:[!0]* | open:none:* | altered:none:*) echo unsafe ;;
    open:*) if is_renamed; then echo unsafe; else open_word; fi ;;
    # Its flag is that of the former name.
    altered:*) if is_renamed; then echo degraded; else echo unsafe; fi ;;
    unknown:*) echo unknown ;;
    *) echo closed ;;
  esac
}

json_list() { awk '{ gsub(/["\\]/, ""); printf "%s\"%s\"", (NR > 1 ? "," : ""), $0 }' "$1"; }

lists_in_json() {
  [ -n "$(lists_wanted)" ] || return 0
  printf ',"lists":{%s}' "$(for json_list_name in $(lists_wanted); do
    read_report "$json_list_name" || :
    printf '"%s":{"state":"%s","networks":%s}\n' "$json_list_name" "$REPORT" "$REPORT_COUNT"
  done | paste -s -d , -)"
}

# Prints one line and sets an exit status: see the explanation of status.
print_status_json() {
  look "$1" "$2"
  word=$(status_word)
  left=$LEASE_LEFT
  case $LEASE_IS:$left in none:* | *:always) left=null ;; *) ;; esac
  home=kept
  if has_lan_unit; then
    home=open
    if home_is_closed; then home=closed; fi
  fi
  printf '{"status":"%s","funnel":"%s","port":%s,"url":%s,"why":"%s","since":%s,' "$word" "$FUNNEL" "$1" \
    "$(json_string "$(url "$DOMAIN" "$1")")" "$WHY" "${SINCE:-null}"
  printf '"lease":"%s","left":%s,"past":[%s],' "$LEASE_IS" "$left" "$(json_list "$WORK/past")"
  printf '"home":"%s","devices":%s,"frames":%s,"bans":%s,"notRunning":[%s],"problems":[%s]' "$home" "$(count_of devices)" \
    "$(count_of frames)" "$(ban_files | wc -l | tr -d ' ')" "$(json_list "$WORK/at-rest")" "$(json_list "$WORK/problems")"
  printf '%s%s%s}\n' "$(uploads_in_json)" "$(opens_in_json)" "$(lists_in_json)"
  case $word in
    proven) exit 0 ;;
    trial) exit 2 ;;
    closed) exit 3 ;;
    *) exit 4 ;;
  esac
}

# The marker comes first: a run in progress must not open what is being closed. On a full or failing disk it is in memory.
note_closed_by_hand() {
  if is_ours "$STATE" && touch "$CLOSED_BY_HAND" 2>/dev/null; then return 0; fi
  is_ours "$STATE" || active immich-edge || return 0
  touch "$CLOSED_BY_HAND_TOO" 2>/dev/null || say "Nothing can be written on this server, so the next up may open the funnel again"
}

say_until_when() {
  if [ -e "$CLOSED_BY_HAND" ] || [ ! -e "$CLOSED_BY_HAND_TOO" ]; then
    say "Nobody can get in from the internet until \"immich-exposure open\""
  elif tailscale_saves; then
    say "Nobody can get in from the internet until \"immich-exposure open\", or after a reboot \"pulumi up\": nothing can be written to $STATE"
  else
    say "Nobody can get in from the internet until this server reboots. Then the funnel may open again, because nothing can be" \
      "written to this server's disk; run \"sudo immich-exposure close\" again after the reboot"
  fi
}

verb=${1:-status}
for word; do
  case $word in
    -h | --help | help)
      explain "$verb"
      exit 0
      ;;
    *) ;;
  esac
done
need_root
case $verb:$# in
  status:[01] | status:2 | close:1 | bans:[12] | lan:2 | ban:[123] | unban:[123]) ;;
  revoke:1) die "Name the device: immich-exposure revoke phone-anna; immich-exposure devices lists them." ;;
  *)
    # shellcheck disable=SC2086
    ! is_one_of "$verb" $VERBS || die "\"$*\" is not understood; see immich-exposure $verb --help."
    die "immich-exposure knows the verbs $(echo "$VERBS" | sed -e 's/ /, /g' -e 's/, \([a-z-]*\)$/ and \1/'), not \"$verb\"; use one of" \
      "them."
    ;;
esac
case $verb in
  bans)
    if [ $# = 2 ]; then print_bans_of "$2"; else print_bans; fi
    exit 0
    ;;
  lan)
    case $2 in open | close | auto) ;; *) die "Use immich-exposure lan open, close or auto; see --help." ;; esac
    lock
    set_home "$2"
    exit 0
    ;;
  ban | unban)
    case ${2:-}:${3:-} in
      :*) die "Name the address: immich-exposure $verb 203.0.113.9" ;;
      all:) [ "$verb" = unban ] || die "Nobody can ban everybody; close the funnel with \"immich-exposure close\"." ;;
      *) ;;
    esac
    if [ "$2" = all ]; then unban_all; else "$verb" "$2" "${3:-}"; fi
    exit 0
    ;;
  *) ;;
esac
said=${2:-}
# shellcheck disable=SC2046
set -- $(recorded_ports)
case $verb:$said in
  close:)
    note_closed_by_hand
    close_funnel "$1" "$2" hand all
    say_until_when
    ;;
  status:) print_status "$1" "$2" ;;
  status:--json) print_status_json "$1" "$2" ;;
  *) die "\"$said\" is not understood; see immich-exposure $verb --help." ;;
esac
