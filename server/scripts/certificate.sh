# shellcheck shell=sh
# Runs after lib.sh. The server's certificate for the node's own name, from `tailscale cert`.
#
#   issue    certificate and key in STATE/tls, the name in STATE/domain.env;
#            prints {"domain":NAME,"fingerprint":SHA256,"certificatePem":PEM}
#   renew    the same if there is an exposure, without output (run by a timer of the NixOS module); fails if the node's name
#            has changed
#
# A raw TCP funnel never renews on its own, and without --min-validity another call would return the old certificate.

TLS=$STATE/tls
MIN_VALIDITY=720h
# Exists while the edge has not yet loaded what is in STATE/tls, so that the next run finishes an interrupted one.
UNLOADED=$TLS/.unloaded

drop_new() { rm -rf "$TLS/.new"; }

# Fetch into a separate folder: `tailscale cert` replaces files by rename, as 0600 root, the key after the certificate.
fetch() {
  drop_new
  mkdir -m 0700 "$TLS/.new"
  # shellcheck disable=SC2034
  UNDO=drop_new
  say "Asking Tailscale for the certificate of $DOMAIN"
  timeout 300 tailscale cert --min-validity "$MIN_VALIDITY" --cert-file "$TLS/.new/server.crt" \
    --key-file "$TLS/.new/server.key" "$DOMAIN" >"$WORK/tailscale.log" 2>&1 </dev/null ||
    die "Tailscale could not get a certificate for $DOMAIN ($(tr -s '\n' ' ' <"$WORK/tailscale.log")); fix that and run" \
      "this again."
  { grep -q "^-----BEGIN CERTIFICATE-----" "$TLS/.new/server.crt" && grep -q "^-----BEGIN .*KEY-----" "$TLS/.new/server.key"; } ||
    die "Tailscale left no usable certificate and key for $DOMAIN; run \"sudo tailscale cert $DOMAIN\" on the server to see why."
}

# Put both in place so that only root and the edge can read them. Before the first rebuild the edge's group does not exist;
# the key then stays readable by root only, until the edge's start makes it accessible (see "prepare" in state.sh).
install_pair() {
  echo "IMMICH_EXPOSURE_DOMAIN=$DOMAIN" >"$WORK/domain"
  if ! cmp -s "$WORK/domain" "$DOMAIN_FILE"; then
    needs_proof
    : >"$UNLOADED"
  fi
  if ! cmp -s "$TLS/.new/server.crt" "$TLS/server.crt" || ! cmp -s "$TLS/.new/server.key" "$TLS/server.key"; then
    : >"$UNLOADED"
  fi
  chmod 0644 "$TLS/.new/server.crt"
  if has_group immich-edge; then
    chown root:immich-edge "$TLS/.new/server.key"
    chmod 0640 "$TLS/.new/server.key"
  else
    chmod 0600 "$TLS/.new/server.key"
  fi
  mv -f "$TLS/.new/server.key" "$TLS/server.key"
  mv -f "$TLS/.new/server.crt" "$TLS/server.crt"
  write_file 0644 "$DOMAIN_FILE" <"$WORK/domain"
  drop_new
  if [ -e "$UNLOADED" ]; then
    say "$DOMAIN has a new certificate"
    reload_edge
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
  certificate_pem=$(json_quote <"$TLS/server.crt")
  printf '{"domain":%s,"fingerprint":"%s","certificatePem":%s\\n"}\n' "$(json_string "$DOMAIN")" \
    "$(fingerprint "$TLS/server.crt")" "${certificate_pem%\"}"
}

# A server can have the module and its timers, but no exposure. If a node's name has changed, the certificate of the name that
# the edge serves is kept: half a change would be worse than none.
renew() {
  if ! is_ours "$STATE" || [ ! -f "$TLS/server.crt" ]; then return 0; fi
  need_tailscale 443
  renewed_name=$(recorded_domain)
  [ -z "$renewed_name" ] || [ "$renewed_name" = "$DOMAIN" ] ||
    die "This node's name in the tailnet changed from $renewed_name to $DOMAIN, so the certificate was not renewed and the exposure" \
      "leads nowhere; run \"pulumi up\" to expose it under the new name, or give it its old name back at" \
      "https://login.tailscale.com/admin/machines."
  refresh
}

need_root
case ${1:-}:${2:-} in
  issue: | renew:) ;;
  *) die "certificate.sh knows the verbs issue and renew, alone, not \"$*\"; use one of them." ;;
esac
lock
"$1"
