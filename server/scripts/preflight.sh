# shellcheck shell=sh
# Runs after lib.sh. Collects facts before anything changes. It only reads, needs no lock, and never fails half-way: unknown
# facts are null, false or empty, and the operator's program judges them.
#
#   facts managed|flake|yours CONFIG_DIR FLAKE_DIR|- HOST|- IMMICH_ADDRESS|- IMMICH_PORT PROXY_PORT FUNNEL_PORT
#         [UPLOADS_FOLDER|-]    prints one JSON object:
#     nixos                         true or false
#     clock                         this server's clock, in seconds since 1970
#     nixosVersion                  text, may be empty
#     tailscaleVersion              text or null
#     tailscale                     state: "Running", "NeedsLogin", ...; domain: the node's name in certificates, or null; https,
#                                   funnel, funnelPort: what this node may do; keyExpiry: when it must log in again, or null. The
#                                   whole fact is null if Tailscale does not answer
#     funnel                        `tailscale funnel status --json`, or null
#     pastTheEdge                   what leads from the internet to Immich, or by another way than ours to the edge's port, each
#                                   "tcp|web|terminal PORT edge|immich" (terminal: `tailscale funnel` runs in one); null if
#                                   Tailscale does not say
#     proxyPortOwner                the program that listens on the proxy port ("" = none, or this project's edge)
#     heldPorts                     of the ports a funnel can have, those on which a program listens on every address or on the
#                                   node's own, with its name
#     immich                        port: the one asked for; address: the one that answered, or null ("-" asks 127.0.0.1 and
#                                   then [::1]); ping: true or false; initialized: true, false or null; version: text or null;
#                                   unit: NixOS's own Immich is there, running or not; listensAt: this machine's IPv4
#                                   addresses, except loopback, on which something has that port
#     module                        what `immich-exposure module` prints for the running system, or null
#     configuration                 exists; isFolder: it is a folder with a default.nix; path: where a link leads; lanImport,
#                                   exposeImport, ourImport: active, commented or absent; importList: it has a list to which an
#                                   import can be added; flakeBeside: the folder of a flake that nixos-rebuild would build, or
#                                   null; otherSystem: the file it would build instead, or null; otherConfiguration: the file
#                                   that it takes for configuration.nix, if another one; obstacle: why the file cannot be
#                                   replaced: "read-only", "mounted", "linked", or null; exported: "make module" wrote the folder
#                                   of our name, which belongs to the owner; flakeAbove: the folder of a flake further up in the
#                                   same git checkout, or null; exposeBesides: what ./expose-immich.nix sets besides the
#                                   chapter's own settings, if our import replaces it; null if that cannot be determined
#     flake                         null without FLAKE_DIR; exists
#     evaluated                     what Nix says about the system that is to get the module, without building anything: error,
#                                   or null; exposure: "absent", "off", "on" (our module is in it), or null; hosts: those of
#                                   the flake; immichPort: of services.immich, or null; toplevel, nixos, immich: for a
#                                   configuration.nix, its system and versions, or null. The whole fact is null if it is not
#                                   needed (also once our import is there) or took too long
#     running                       toplevel, nixos, immich: of the running system, or null
#     theirs                        paths with a name of ours that are not ours
#     theirNames                    accounts, groups and units with a name of ours on a server where nothing is ours: "account
#                                   NAME", "group NAME", "unit NAME"
#     owner                         id and name of the stack that exposed this server, or null
#     authorities                   the SHA-256 of each certificate in the trust pool
#     diskFreeKiB                   free KiB at /nix, or null
#     uploads                       null without UPLOADS_FOLDER ("-" asks Immich's unit); folder: where Immich puts uploads, or
#                                   null; freeKiB, sizeKiB: of the fullest disk there, or null
#     commands                      the names of missing commands
#
#   uploads FOLDER|-              prints only its "uploads"

COMMANDS="nixos-rebuild nix-instantiate nix-env tailscale curl flock systemctl systemd-run ss awk sed grep cmp timeout
  getent base64 sha256sum"

# `yes_no COMMAND...`
yes_no() {
  if "$@" >/dev/null 2>&1 </dev/null; then printf true; else printf false; fi
}

# The JSON object that a command prints, on one line; null if the command fails or prints anything else.
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

# `tailscale_facts FUNNEL_PORT`
tailscale_facts() {
  tailscale_fact=$(ask_tailscale && read_status "$1" && [ "$TAILSCALE_STATE" != - ] && tailscale_object) 2>/dev/null
  printf '%s' "${tailscale_fact:-null}"
}

tailscale_object() {
  printf '{"state":"%s","domain":%s,' "$TAILSCALE_STATE" "$(text_or_null "${DOMAIN#-}")"
  printf '"https":%s,"funnel":%s,"funnelPort":%s,' "$HTTPS_GRANTED" "$FUNNEL_GRANTED" "$PORT_GRANTED"
  printf '"keyExpiry":%s}' "$(text_or_null "$(node_key_end)")"
}

# `past_the_edge IMMICH_ADDRESS|- IMMICH_PORT PROXY_PORT FUNNEL_PORT`. The subshell keeps a Tailscale that does not answer from
# ending the script.
past_the_edge() {
  past_fact=$(
    [ "$1" != - ] || set -- 127.0.0.1 "$2" "$3" "$4"
    read_serving "$4" "$3" all "$1:$2" 2>/dev/null
    [ -z "${FUNNEL:-}" ] || printf '[%s]' "$(cut -d ' ' -f 1-3 "$WORK/past" | sed 's/.*/"&"/' | paste -s -d , -)"
  )
  printf '%s' "${past_fact:-null}"
}

nixos_version() {
  if [ -r "$ROOT/etc/os-release" ]; then
    sed -n 's/^VERSION_ID="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$ROOT/etc/os-release"
  fi
}

# `immich_facts ADDRESS|- PORT`
immich_facts() {
  immich_at=$(immich_place "$1" "$2") || immich_at=
  immich_address=null immich_ping=false immich_initialized=null immich_version=''
  if [ -n "$immich_at" ]; then
    immich_ping=true
    immich_address=$(json_string "$(printf '%s' "${immich_at%:*}" | tr -d '[]')")
    immich_initialized=$(immich_initialized "$immich_at") || immich_initialized=null
    immich_version=$(immich_version "$immich_at") || immich_version=
  fi
  printf '{"port":%s,"address":%s,"ping":%s,"initialized":%s,"version":%s,' "$2" "$immich_address" \
    "$immich_ping" "$immich_initialized" "$(text_or_null "$immich_version")"
  printf '"unit":%s,"listensAt":[%s]}' "$(yes_no systemctl cat immich-server.service)" "$(listening_addresses "$2")"
}

# `listening_addresses PORT` prints JSON strings.
listening_addresses() {
  ss -H -l -t -n "sport = :$1" 2>/dev/null </dev/null | awk '{ sub(/(%.*)?:[0-9]+$/, "", $4); print $4 }' |
    while read -r listening_at; do
      case $listening_at in
        '' | 127.* | "[::1]") ;;
        0.0.0.0 | "*" | "[::]") own_addresses ;;
        "["*) ;;
        *) printf '%s\n' "$listening_at" ;;
      esac
    done | sort -u | sed 's/.*/"&"/' | paste -s -d , -
}

port_owner() {
  owner=$(ss -H -l -t -n -p "sport = :$1" 2>/dev/null </dev/null | tr -s ' \n' ' ') || owner=
  edge_pid=$(systemctl show --property=MainPID --value immich-edge 2>/dev/null </dev/null) || edge_pid=
  case $edge_pid:$owner in
    [1-9]*:*",pid=$edge_pid,"*) owner= ;;
    *) ;;
  esac
  printf '%s' "${owner% }"
}

# `held_ports`: while a funnel is open, Tailscale itself listens on these ports, only on the node's own addresses. A program
# wrapped by Nix is called ".NAME-wrapped", of which the kernel keeps 15 characters: on NixOS, Tailscale's is ".tailscaled-wra".
held_ports() {
  ss -H -l -t -n -p "sport = :443 or sport = :8443 or sport = :10000" 2>/dev/null </dev/null | awk '
    $4 ~ /^(0\.0\.0\.0|\*|\[::\]|100\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\..*|\[fd7a:115c:a1e0:.*):(443|8443|10000)$/ {
      held = $4; sub(/.*:/, "", held)
      name = match($0, /\(\("[A-Za-z0-9._-]+"/) ? substr($0, RSTART + 3, RLENGTH - 4) : "a program"
      if (sub(/^\./, "", name)) sub(/-(w(r(a(p(p(ed?)?)?)?)?)?)?$/, "", name)
      if (name != "tailscaled" && !(held in seen)) { seen[held] = 1; printf "%s\"%s\":\"%s\"", between, held, name; between = "," }
    }'
}

configuration_facts() {
  configuration_place=$(configuration_folder "$1")
  configuration=$configuration_place/configuration.nix
  [ ! -f "$1/configuration.nix" ] || configuration=$(readlink -f "$1/configuration.nix")
  printf '{"exists":%s,"isFolder":%s,' "$(yes_no test -f "$configuration")" "$(yes_no test -e "$configuration/default.nix")"
  printf '"path":%s,' "$(json_string "$configuration")"
  printf '"lanImport":"%s","exposeImport":"%s","ourImport":"%s",' "$(import_state "$configuration" ./lan-immich.nix)" \
    "$(import_state "$configuration" ./expose-immich.nix)" "$(import_state "$configuration" ./immich-exposure)"
  printf '"importList":%s,"flakeBeside":%s,' "$(yes_no has_import_list "$configuration")" \
    "$(text_or_null "$(flake_beside "$1" "$configuration_place")")"
  printf '"otherSystem":%s,"obstacle":%s,' "$(text_or_null "$(other_system)")" "$(text_or_null "$(obstacle "$configuration")")"
  printf '"otherConfiguration":%s,"exported":%s,' "$(text_or_null "$(other_configuration "$configuration")")" \
    "$(yes_no is_exported "$configuration_place/immich-exposure")"
  printf '"flakeAbove":%s,"exposeBesides":%s}' "$(text_or_null "$(flake_above "$configuration_place")")" \
    "$(expose_besides "$configuration")"
}

# `expose_besides CONFIGURATION`
expose_besides() {
  if [ "$(import_state "$1" ./expose-immich.nix)" != active ] || [ "$(import_state "$1" ./immich-exposure)" = active ]; then
    printf '""'
  elif besides=$(says_besides "$1" "${1%/*}/expose-immich.nix" timeout "$BESIDES_SECONDS" 2>/dev/null); then
    json_string "$besides"
  else
    printf null
  fi
}

# `obstacle FILE` prints why a new file cannot take its place, or why something else would be lost; nothing if it can.
obstacle() {
  [ -f "$1" ] || return 0
  if [ ! -w "${1%/*}" ]; then
    echo read-only
  elif awk -v path="$1" '$5 == path { found = 1 } END { exit !found }' /proc/self/mountinfo 2>/dev/null; then
    echo mounted
  elif has_hard_links "$1"; then
    echo linked
  fi
}

has_import_list() { [ -f "$1" ] && import_list "$1"; }

flake_beside() {
  for flake_folder in "$ROOT/etc/nixos" "$@"; do
    [ -e "$flake_folder/flake.nix" ] || continue
    printf '%s\n' "$flake_folder"
    return 0
  done
}

flake_facts() {
  if [ "$1" = - ]; then
    printf null
  else
    printf '{"exists":%s}' "$(yes_no test -e "$1/flake.nix")"
  fi
}

# On a small machine an evaluation takes a while, and the operator's program does not wait for ever.
EVALUATION_SECONDS=200
BESIDES_SECONDS=60

EXPOSURE='(system: let exposure = system.config.services.immich-exposure or null;
  in if exposure == null then "absent" else if exposure.enable then "on" else "off")'

# Another version of the module may lack the option.
MODULE='(system: let exposure = system.config.services.immich-exposure or { };
  in if exposure.enable or false && exposure ? module then builtins.fromJSON exposure.module else null)'

# The environment of Immich's unit has precedence, as in nix/immich.nix.
IMMICH_PORT='(system: let
  immich = system.config.services.immich or { };
  environment = system.config.systemd.services.immich-server.environment or { };
  in if !(immich.enable or false) then null
    else if environment ? IMMICH_PORT then builtins.fromJSON environment.IMMICH_PORT
    else immich.port)'

# A configuration.nix as it is, to compare with the running system.
# shellcheck disable=SC2016
DESCRIBED='let attempt = value: let tried = builtins.tryEval value; in if tried.success then tried.value else null;
  in {
    exposure = exposure system;
    immichPort = immichPort system;
    toplevel = builtins.unsafeDiscardStringContext "${system.config.system.build.toplevel}";
    nixos = attempt (system.config.system.nixos.label or system.config.system.nixos.version or null);
    immich = attempt (system.config.services.immich.package.version or null);
  }'

# `evaluated_facts WAY CONFIG_DIR FLAKE_DIR HOST`. It only writes copies in Nix's own store, as any evaluation of a system does.
evaluated_facts() {
  case $1 in
    managed)
      evaluated_file=$(configuration_folder "$2")/configuration.nix
      [ ! -f "$2/configuration.nix" ] || evaluated_file=$(readlink -f "$2/configuration.nix")
      if [ ! -f "$evaluated_file" ] || [ "$(import_state "$evaluated_file" ./immich-exposure)" = active ] ||
        [ -n "$(flake_beside "$2" "${evaluated_file%/*}")" ]; then
        printf null
      else
        evaluated nix-instantiate --eval --strict --json --read-write-mode -I "nixos-config=$evaluated_file" \
          --argstr configuration "$evaluated_file" -E "{ configuration }: let exposure = $EXPOSURE; immichPort = $IMMICH_PORT;
            system = import <nixpkgs/nixos> { configuration = /. + configuration; }; in $DESCRIBED"
      fi
      ;;
    flake)
      if [ ! -e "$3/flake.nix" ]; then
        printf null
      else
        evaluated nix --extra-experimental-features "nix-command flakes" eval --no-write-lock-file --json \
          --apply "systems: { hosts = builtins.attrNames systems;
            exposure = if systems ? \"$4\" then $EXPOSURE systems.\"$4\" else null;
            module = if systems ? \"$4\" then $MODULE systems.\"$4\" else null;
            immichPort = if systems ? \"$4\" then $IMMICH_PORT systems.\"$4\" else null; }" \
          "$(flake_url "$(flake_folder "$3")")#nixosConfigurations"
      fi
      ;;
    *) printf null ;;
  esac
}

# `evaluated COMMAND...` runs a command of Nix's that prints an object. If it fails, it may have printed half of one.
evaluated() {
  if timeout "$EVALUATION_SECONDS" "$@" >"$WORK/evaluated" 2>"$WORK/evaluation.log" </dev/null; then
    printf '{"error":null,%s' "$(tr -d '\r\n' <"$WORK/evaluated" | sed 's/^{//')"
    return
  fi
  evaluated_error=$(last_error "$WORK/evaluation.log")
  # If Nix has printed no error, it was cut off, and the result is unknown.
  if [ -n "$evaluated_error" ]; then printf '{"error":%s}' "$(json_string "$evaluated_error")"; else printf null; fi
}

# `theirs FOLDER`
theirs() {
  if has_our_logs; then not_ours "$1" "$STATE"; else not_ours "$1" "$STATE" "$LOGS"; fi
}

# `not_ours FOLDER...` lists those that exist without our mark.
not_ours() {
  found=
  for folder; do
    is_ours "$folder" || is_free "$folder" || found="$found,$(json_string "$folder")"
  done
  printf '[%s]' "${found#,}"
}

running_facts() {
  running_toplevel=
  [ ! -L "$CURRENT_SYSTEM" ] || running_toplevel=$(readlink -f "$CURRENT_SYSTEM")
  printf '{"toplevel":%s,"nixos":%s,"immich":%s}' "$(text_or_null "$running_toplevel")" \
    "$(text_or_null "$(running_nixos)")" "$(text_or_null "$(running_immich)")"
}

# A foreign module would share an account or a unit with ours, and NixOS removes an account that is no longer declared.
their_names() {
  if ! is_ours "$STATE" && ! has_module "$CURRENT_SYSTEM"; then
    {
      name_account immich-edge "The edge in front of Immich"
      name_account immich-bans "Bans at the edge in front of Immich"
      systemctl list-unit-files --plain --no-legend 'immich-edge.*' 'immich-bans.*' 2>/dev/null </dev/null |
        awk 'NF && $2 != "transient" { print "unit", $1 }'
    } | sed 's/.*/"&"/' | paste -s -d , -
  fi
}

# `name_account NAME FULL_NAME` prints the account, or the group, if it is not ours. Some systems keep an account that is no
# longer declared, and its group with it: ours has the full name from nix/edge.nix or nix/bans.nix. NixOS would take over a group
# without an account, let its members read the edge's key, and remove it once it is no longer declared.
name_account() {
  if account=$(getent passwd "$1" 2>/dev/null </dev/null); then
    [ "$(printf '%s' "$account" | cut -d : -f 5)" = "$2" ] || echo account "$1"
  elif has_group "$1"; then
    echo group "$1"
  fi
}

owner_fact() {
  if read_owner; then
    printf '{"id":%s,"name":%s}' "$(json_string "$OWNER_ID")" "$(json_string "$OWNER_NAME")"
  else
    printf null
  fi
}

# Prints JSON strings.
authorities() { printf '[%s]' "$(pool_fingerprints | sed 's/.*/"&"/' | paste -s -d , -)"; }

free_kib() {
  free=$(df -Pk "$ROOT$1" 2>/dev/null | awk 'NR == 2 { print $4 }') || free=
  printf '%s' "${free:-null}"
}

# `uploads_facts FOLDER|-`
uploads_facts() {
  case $1 in
    '')
      printf null
      return 0
      ;;
    -) facts_folder=$(immich_media) ;;
    *) facts_folder=$1 ;;
  esac
  facts_free=$(uploads_free "$facts_folder")
  facts_size=
  [ -z "$facts_free" ] || facts_size=$(timeout 10 df -Pk "$facts_folder" 2>/dev/null </dev/null | awk 'NR == 2 { print $2 }')
  printf '{"folder":%s,"freeKiB":%s,"sizeKiB":%s}' "$(text_or_null "$facts_folder")" "${facts_free:-null}" "${facts_size:-null}"
}

missing_commands() {
  missing=
  for name in $COMMANDS; do
    command -v "$name" >/dev/null || missing="$missing,\"$name\""
  done
  printf '[%s]' "${missing#,}"
}

print_facts() {
  printf '{"clock":%s,' "$(now)"
  printf '"nixos":%s,"nixosVersion":%s,' "$(yes_no test -e "$ROOT/etc/NIXOS")" "$(json_string "$(nixos_version)")"
  printf '"tailscaleVersion":%s,' "$(text_or_null "$(tailscale_version)")"
  printf '"tailscale":%s,' "$(tailscale_facts "$8")"
  printf '"pastTheEdge":%s,' "$(past_the_edge "$5" "$6" "$7" "$8")"
  # read_serving has saved it.
  printf '"funnel":%s,' "$(object_of cat "$WORK/funnel.json")"
  printf '"proxyPortOwner":%s,' "$(json_string "$(port_owner "$7")")"
  printf '"heldPorts":{%s},' "$(held_ports)"
  printf '"immich":%s,' "$(immich_facts "$5" "$6")"
  printf '"module":%s,' "$(object_of immich-exposure module)"
  printf '"configuration":%s,' "$(configuration_facts "$2")"
  printf '"flake":%s,"evaluated":%s,' "$(flake_facts "$3")" "$(evaluated_facts "$1" "$2" "$3" "$4")"
  printf '"running":%s,' "$(running_facts)"
  printf '"theirs":%s,"theirNames":[%s],' "$(theirs "$(configuration_folder "$2")/immich-exposure")" "$(their_names)"
  printf '"owner":%s,"authorities":%s,' "$(owner_fact)" "$(authorities)"
  printf '"diskFreeKiB":{"/nix":%s},' "$(free_kib /nix)"
  printf '"uploads":%s,' "$(uploads_facts "${9:-}")"
  printf '"commands":%s}\n' "$(missing_commands)"
}

if [ "${1:-}" = uploads ]; then
  case ${2:-} in
    - | /*) ;;
    *) die "The folder of Immich's uploads is an absolute path, not \"${2:-}\"; correct uploadLimits.folder." ;;
  esac
  set +e
  uploads_facts "$2"
  echo
  exit 0
fi
[ "${1:-}" != facts ] || shift
case ${1:-}:${2:-}:${3:-} in
  managed:/*:- | yours:/*:- | flake:/*:/*) ;;
  *)
    die "preflight.sh takes \"facts managed|flake|yours CONFIG_DIR FLAKE_DIR|- HOST|- IMMICH_ADDRESS|- IMMICH_PORT PROXY_PORT FUNNEL_PORT" \
      "[UPLOADS_FOLDER|-]\" with absolute paths; correct the arguments."
    ;;
esac
case ${4:-} in
  '' | *[!A-Za-z0-9._-]*) die "A host of a flake is a plain name, not \"${4:-}\"; set flake to DIR#HOST." ;;
  *) ;;
esac
check_address "${5:-}"
port "immich.port" "${6:-}"
port proxyPort "${7:-}"
port funnelPort "${8:-}"
case ${9:--} in
  - | /*) ;;
  *) die "The folder of Immich's uploads is an absolute path, not \"$9\"; correct uploadLimits.folder." ;;
esac
# No missing piece may end the script: each fact is independent.
set +e
print_facts "$@" >"$WORK/facts"
cat "$WORK/facts"
