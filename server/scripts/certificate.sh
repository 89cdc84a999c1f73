# shellcheck shell=sh
# Runs after lib.sh. The server's certificate for the node's own name, from `tailscale cert`.
#
#   issue CONFIG_DIR    certificate and key in STATE/tls, the name in CONFIG_DIR/immich-exposure/domain;
#                       prints {"domain":NAME,"fingerprint":SHA256,"certificatePem":PEM}
#   renew               the same for the name that is there, without output (by a timer of the NixOS module)
#   remove CONFIG_DIR   neither certificate nor name is there
#
# A raw TCP funnel never renews by itself, and without --min-validity one call more would give the old certificate.

TLS=$STATE/tls
MIN_VALIDITY=720h
# Stands while Caddy has not yet loaded what lies in STATE/tls, so that an interrupted run is finished by the next.
UNLOADED=$TLS/.unloaded

drop_new() { rm -rf "$TLS/.new"; }

# Fetch into a folder of its own: `tailscale cert` replaces files by rename, as 0600 root, the key after the certificate.
fetch() {
  drop_new
  mkdir -m 0700 "$TLS/.new"
  UNDO=drop_new
  say "Asking Tailscale for the certificate of $DOMAIN"
  timeout 300 tailscale cert --min-validity "$MIN_VALIDITY" --cert-file "$TLS/.new/server.crt" \
    --key-file "$TLS/.new/server.key" "$DOMAIN" >"$WORK/tailscale.log" 2>&1 </dev/null ||
    die "Tailscale could not get a certificate for $DOMAIN ($(tr -s '\n' ' ' <"$WORK/tailscale.log")); mend that and run" \
      "this again."
  { grep -q "^-----BEGIN CERTIFICATE-----" "$TLS/.new/server.crt" && grep -q "^-----BEGIN .*KEY-----" "$TLS/.new/server.key"; } ||
    die "Tailscale left no usable certificate and key for $DOMAIN; run \"sudo tailscale cert $DOMAIN\" on the server to see why."
}

# Put both in place with the owner and mode that Caddy, and nobody else, can read. Before the first rebuild there is no
# caddy group; the key then stays root's alone, and the module's tmpfiles rule opens it.
install_pair() {
  if ! cmp -s "$TLS/.new/server.crt" "$TLS/server.crt" || ! cmp -s "$TLS/.new/server.key" "$TLS/server.key"; then
    : >"$UNLOADED"
  fi
  chmod 0644 "$TLS/.new/server.crt"
  if caddy_group; then
    chown root:caddy "$TLS/.new/server.key"
    chmod 0640 "$TLS/.new/server.key"
  else
    chmod 0600 "$TLS/.new/server.key"
  fi
  mv -f "$TLS/.new/server.key" "$TLS/server.key"
  mv -f "$TLS/.new/server.crt" "$TLS/server.crt"
  drop_new
  if [ -e "$UNLOADED" ]; then
    say "The certificate of $DOMAIN is new"
    reload_caddy
    rm -f "$UNLOADED"
  fi
}

refresh() {
  need_tailscale 443
  make_state
  fetch
  install_pair
}

# SHA-256 of the first certificate's DER, lower-case hex (the server has no openssl).
fingerprint() {
  sed -n '/^-----BEGIN CERTIFICATE-----/,/^-----END CERTIFICATE-----/p;/^-----END CERTIFICATE-----/q' "$1" |
    grep -v -e "-----" | base64 -d | sha256sum | cut -d ' ' -f 1
}

issue() {
  refresh
  mkdir -p "$1/immich-exposure"
  echo "$DOMAIN" >"$WORK/domain"
  write_file 0644 "$1/immich-exposure/domain" <"$WORK/domain"
  certificate_pem=$(json_quote <"$TLS/server.crt")
  printf '{"domain":%s,"fingerprint":"%s","certificatePem":%s\\n"}\n' "$(json_string "$DOMAIN")" \
    "$(fingerprint "$TLS/server.crt")" "${certificate_pem%\"}"
}

remove() {
  rm -rf "$TLS"
  rm -f "$1/immich-exposure/domain"
  if [ -d "$1/immich-exposure" ]; then rmdir --ignore-fail-on-non-empty "$1/immich-exposure"; fi
}

need_root
case ${1:-}:${2:-} in
  issue:/* | remove:/* | renew:) ;;
  *) die "certificate.sh takes \"issue CONFIG_DIR\", \"renew\" or \"remove CONFIG_DIR\" with an absolute path; correct them." ;;
esac
lock
case $1 in
  issue) issue "$2" ;;
  renew) refresh ;;
  *) remove "$2" ;;
esac
