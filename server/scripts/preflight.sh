# shellcheck shell=sh
# Runs after lib.sh. What there is to know before anything changes. Reads only, needs no lock, and never fails half-way: what
# cannot be found out is null, false or empty, and the operator's program judges.
#
#   facts CONFIG_DIR IMMICH_PORT PROXY_PORT   prints one JSON object:
#     nixos, root, systemdRunning   true or false
#     nixosVersion                  text, may be empty
#     tailscaleVersion              text or null
#     tailscale                     `tailscale status --json --peers=false`, or null
#     funnel                        `tailscale funnel status --json`, or null
#     proxyPortOwner                who listens on the proxy port ("" = nobody but this project's Caddy)
#     immich                        port: the one that was asked; ping: true or false; initialized: true, false or null;
#                                   version: text or null
#     configuration                 exists; lanImport, exposeImport: active, commented or absent
#     diskFreeKiB                   free KiB at /nix and /var, or null
#     commands                      the names of missing commands

COMMANDS="nixos-rebuild nix-instantiate nix-env tailscale curl flock systemctl systemd-run ss awk sed grep cmp timeout
  getent base64 sha256sum"

# `yes_no COMMAND...`
yes_no() {
  if "$@" >/dev/null 2>&1 </dev/null; then printf true; else printf false; fi
}

# A whole JSON object that a command prints, on one line; null when it fails or prints something else.
object_of() {
  object=$(timeout 20 "$@" 2>/dev/null </dev/null | tr -d '\r\n' && echo .) || object=.
  object=${object%.}
  case $object in
    \{*\}) printf '%s' "$object" ;;
    *) printf null ;;
  esac
}

text_or_null() {
  if [ -n "$1" ]; then json_string "$1"; else printf null; fi
}

is_root() { [ "$(id -u)" = 0 ]; }

# running, or degraded by a unit that has failed before we came
systemd_runs() {
  case $(systemctl is-system-running 2>/dev/null </dev/null) in running | degraded | starting) ;; *) return 1 ;; esac
}

nixos_version() {
  if [ -r "$ROOT/etc/os-release" ]; then
    sed -n 's/^VERSION_ID="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$ROOT/etc/os-release"
  fi
}

tailscale_version() {
  timeout 10 tailscale version 2>/dev/null </dev/null | sed -n '1s/^\([0-9][0-9.]*\).*/\1/p'
}

# Blanks do not count in JSON, so the answer comes without any.
ask_immich() {
  curl --silent --fail --noproxy '*' --max-time 5 "http://127.0.0.1:$1$2" 2>/dev/null </dev/null |
    head -c 65536 | tr -d ' \t\r\n'
}

# Where Immich listens now: while our configuration is active that is what it says.
immich_port() {
  present=
  if [ "$(import_state "$2/configuration.nix" ./expose-immich.nix)" = active ]; then
    present=$(sed -n 's/^ *"immichPort": \([0-9]\{1,5\}\),\{0,1\}$/\1/p' "$2/immich-exposure/settings.json" 2>/dev/null)
  fi
  printf '%s' "${present:-$1}"
}

immich_facts() {
  immich_ping=$(ask_immich "$1" /api/server/ping) || immich_ping=
  immich_config=$(ask_immich "$1" /api/server/config) || immich_config=
  immich_version=$(ask_immich "$1" /api/server/version) || immich_version=
  case $immich_config in
    *'"isInitialized":true'*) immich_initialized=true ;;
    *'"isInitialized":false'*) immich_initialized=false ;;
    *) immich_initialized=null ;;
  esac
  immich_version=$(printf '%s\n' "$immich_version" |
    sed -n 's/.*"major":\([0-9]*\),"minor":\([0-9]*\),"patch":\([0-9]*\).*/\1.\2.\3/p')
  printf '{"port":%s,"ping":%s,"initialized":%s,"version":%s}' "$1" "$(case $immich_ping in *pong*) echo true ;; *) echo false ;; esac)" \
    "$immich_initialized" "$(text_or_null "$immich_version")"
}

# With our configuration active, Caddy on this port is the exposure itself.
port_owner() {
  owner=$(ss -H -l -t -n -p "sport = :$1" 2>/dev/null </dev/null | tr -s ' \n' ' ') || owner=
  case $(import_state "$2" ./expose-immich.nix):$owner in
    active:*'(("caddy",'*) owner= ;;
    *) ;;
  esac
  printf '%s' "${owner% }"
}

free_kib() {
  free=$(df -Pk "$ROOT$1" 2>/dev/null | awk 'NR == 2 { print $4 }') || free=
  printf '%s' "${free:-null}"
}

missing_commands() {
  missing=
  for name in $COMMANDS; do
    command -v "$name" >/dev/null || missing="$missing,\"$name\""
  done
  printf '[%s]' "${missing#,}"
}

print_facts() {
  configuration=$1/configuration.nix
  printf '{"nixos":%s,"nixosVersion":%s,' "$(yes_no test -e "$ROOT/etc/NIXOS")" "$(json_string "$(nixos_version)")"
  printf '"root":%s,"systemdRunning":%s,' "$(yes_no is_root)" "$(yes_no systemd_runs)"
  printf '"tailscaleVersion":%s,' "$(text_or_null "$(tailscale_version)")"
  printf '"tailscale":%s,' "$(object_of tailscale status --json --peers=false)"
  printf '"funnel":%s,' "$(object_of tailscale funnel status --json)"
  printf '"proxyPortOwner":%s,' "$(json_string "$(port_owner "$3" "$configuration")")"
  printf '"immich":%s,' "$(immich_facts "$(immich_port "$2" "$1")")"
  printf '"configuration":{"exists":%s,"lanImport":"%s","exposeImport":"%s"},' "$(yes_no test -f "$configuration")" \
    "$(import_state "$configuration" ./lan-immich.nix)" "$(import_state "$configuration" ./expose-immich.nix)"
  printf '"diskFreeKiB":{"/nix":%s,"/var":%s},' "$(free_kib /nix)" "$(free_kib /var)"
  printf '"commands":%s}\n' "$(missing_commands)"
}

case ${1:-}:${2:-} in
  facts:/*) ;;
  *) die "preflight.sh takes \"facts CONFIG_DIR IMMICH_PORT PROXY_PORT\" with an absolute path; correct the arguments." ;;
esac
port immichPort "${3:-}"
port proxyPort "${4:-}"
# Nothing that is missing here may end the script: each fact speaks for itself.
set +e
print_facts "$2" "$3" "$4" >"$WORK/facts"
cat "$WORK/facts"
