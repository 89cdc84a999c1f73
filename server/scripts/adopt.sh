# shellcheck shell=sh
# Runs after lib.sh and, for begin and note, after a function payload() that calls `put MODE adopted` and `put MODE bans`.
# Takes over an exposure that was made by hand, as the chapter describes it, and cleans up after it.
#
#   read PATH...               prints each file in base64, one per line, "-" if it does not exist; changes nothing
#   begin FUNNEL_PORT PROXY_PORT
#                              records what was taken over, takes over its bans, and records the funnel that was opened by
#                              hand: module.sh closes it before the edge is behind it, and funnel.sh opens ours when
#                              everything has been proven
#   note                       only records what was taken over
#   forget [--yes]             lists what is left of the chapter; with --yes removes what was taken over unchanged
#
# The note has a line `configuration DIR|-`, then `SHA256 PATH` for each file, with "-" for one that was not on this server.

NOTE=$STATE/adopted
FILE_LIMIT=262144
# The chapter's paths.
CHAPTER="/var/lib/certs/ca-key.pem /mnt/immich_drive/secrets/ca-key.pem /var/lib/certs/ca-cert.pem /var/lib/certs/cert.pem
  /var/lib/certs/key.pem /var/lib/caddy/banlist"

put() {
  case $2 in
    adopted | bans) cat >"$WORK/$2" ;;
    *) die "The payload may only hold adopted and bans, not \"$2\"; remove the other file from it." ;;
  esac
}

read_files() {
  for path; do
    case $path in
      /*) ;;
      *) die "Files on the server are named by their absolute paths, unlike \"$path\"; correct adopt." ;;
    esac
    if [ ! -f "$ROOT$path" ]; then
      echo -
      continue
    fi
    [ "$(wc -c <"$ROOT$path")" -le "$FILE_LIMIT" ] ||
      die "$path is far too large for a certificate, a key or a list of bans; correct adopt."
    base64 <"$ROOT$path" >"$WORK/file" || die "$path could not be read; check its disk and run this again."
    tr -d '\n' <"$WORK/file"
    echo
  done
}

# ---- Taking over

write_note() {
  payload
  [ -f "$WORK/adopted" ] || die "The payload does not say what was taken over; send the file adopted."
  make_state
  write_file 0600 "$NOTE" <"$WORK/adopted"
}

# The names become path components.
take_bans() {
  [ -f "$WORK/bans" ] || return 0
  while IFS= read -r ban_name; do
    case $ban_name in
      '' | .* | *[!0-9a-f.:_]*) die "\"$ban_name\" is not the name of a ban; send addresses as Caddy writes them." ;;
    esac
    [ -e "$STATE/bans/manual/$ban_name" ] || : >"$STATE/bans/manual/$ban_name" ||
      die "$STATE/bans/manual/$ban_name could not be written; make room on its disk and run this again."
  done <"$WORK/bans"
}

# Where raw TCP on the funnel's ports leads on this machine: words FUNNEL_PORT=PORT.
read_targets() {
  timeout 20 tailscale funnel status --json >"$WORK/serving.json" 2>"$WORK/tailscale.log" </dev/null ||
    die "Tailscale does not report the funnel's state ($(tail -n 1 "$WORK/tailscale.log")); run \"tailscale funnel status\" to see why."
  # shellcheck disable=SC2016
  TARGETS=$(json_ask "$WORK/serving.json" '
    for (i = split("443 8443 10000", port, " "); i > 0; i--) {
      target = V["\tTCP\t" port[i] "\tTCPForward"]
      if (target ~ /^(localhost|127[.]0[.]0[.]1):[0-9]+$/) { sub(/.*:/, "", target); print port[i] "=" target }
    }' '')
}

# The funnel on our port, wherever it leads, and every funnel to our edge's port, because the edge will be behind it.
note_funnels() {
  if [ -s "$FUNNEL_RECORD" ]; then return 0; fi
  read_targets
  for target in $TARGETS; do
    if [ "${target%=*}" = "$1" ] || [ "${target#*=}" = "$2" ]; then echo "${target%=*} ${target#*=}"; fi
  done >"$WORK/by-hand"
  write_file 0644 "$BY_HAND" <"$WORK/by-hand"
}

begin() {
  write_note
  take_bans
  note_funnels "$1" "$2"
}

# ---- Cleaning up

# `named TEXT`: the server's own configuration still names it, and "pulumi destroy" restores that configuration.
named() {
  [ -d "$CONFIGURATION" ] || return 1
  grep -rqIF --include='*.nix' --include='*addyfile*' --exclude-dir=immich-exposure -e "$1" "$CONFIGURATION"
}

taken_over() { grep -q "^$(sha256sum <"$1" | cut -d ' ' -f 1) " "$NOTE"; }

# `reason_to_keep PATH` prints why a file stays; nothing if it may be removed. If the configuration names only its folder,
# the authority's key may still be removed: no service reads it.
reason_to_keep() {
  keep_file=$ROOT$1
  if ! taken_over "$keep_file" && ! cmp -s "$keep_file" "$STATE/tls/server.crt" &&
    ! cmp -s "$keep_file" "$STATE/tls/server.key"; then
    printf 'is not what was taken over'
  elif named "$1"; then
    printf 'the configuration in %s names it, and "pulumi destroy" restores that' "$CONFIGURATION"
  elif named "${1%/*}" && ! { taken_over "$keep_file" && grep -q "PRIVATE KEY" "$keep_file"; }; then
    printf 'the configuration in %s names its folder, and "pulumi destroy" restores that' "$CONFIGURATION"
  fi
}

forget() {
  case ${1:-} in
    '' | --yes) ;;
    *) die "forget-chapter takes --yes or nothing, not \"$1\"; without it, it only lists." ;;
  esac
  [ -f "$NOTE" ] ||
    die "Nothing was taken over on this server, so leftovers cannot be told from what is still needed; set adopt and run \"pulumi up\"."
  read -r _ CONFIGURATION <"$NOTE"
  CONFIGURATION=$ROOT$CONFIGURATION
  if [ -e "$CONFIGURATION/configuration.nix" ]; then
    CONFIGURATION=$(readlink -f "$CONFIGURATION/configuration.nix")
    CONFIGURATION=${CONFIGURATION%/*}
  fi
  # shellcheck disable=SC2086
  { printf '%s\n' $CHAPTER && sed -n 's/^[0-9a-f]\{64\} \(\/.*\)$/\1/p' "$NOTE"; } | awk '!seen[$0]++' >"$WORK/leftovers"
  forget_some=no
  while IFS= read -r leftover; do
    { [ -f "$ROOT$leftover" ] && [ ! -L "$ROOT$leftover" ]; } || continue
    reason=$(reason_to_keep "$leftover")
    if [ -n "$reason" ]; then
      printf 'stays    %s: %s\n' "$leftover" "$reason"
    elif [ "${1:-}" = --yes ]; then
      rm -f "$ROOT$leftover" || die "$leftover could not be removed; check its disk and run this again."
      printf 'removed  %s\n' "$leftover"
    else
      forget_some=yes
      printf 'can go   %s\n' "$leftover"
    fi
  done <"$WORK/leftovers"
  [ "$forget_some" = no ] || say "Nothing was removed; \"sudo immich-exposure forget-chapter --yes\" removes what can go"
}

need_root
verb=${1:-}
[ $# = 0 ] || shift
case $verb in
  read)
    read_files "$@"
    exit 0
    ;;
  begin)
    port funnelPort "${1:-}"
    port proxyPort "${2:-}"
    ;;
  note) verb=write_note ;;
  forget) ;;
  *) die "adopt.sh knows the verbs read, begin, note and forget, not \"$verb\"; use one of them." ;;
esac
lock
"$verb" "${1:-}" "${2:-}"
