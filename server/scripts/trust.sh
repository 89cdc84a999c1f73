# shellcheck shell=sh
# Runs after lib.sh and, for install, after a function payload() that calls `put MODE device-ca.crt <<'END'`.
# The trust pool: the certificates of the authorities whose devices the edge may accept. It only ever contains certificates.
#
#   install   uses the payload's pool; the edge reloads if the pool has changed

POOL=$STATE/device-ca.crt
# Exists while the edge has not yet loaded the pool, so that the next run finishes an interrupted one.
UNLOADED=$STATE/.device-ca.unloaded

put() {
  [ "$2" = device-ca.crt ] || die "The payload may only hold device-ca.crt, not \"$2\"; remove the other file from it."
  cat >"$WORK/device-ca.crt"
  POOL_MODE=$1
}

put_back() {
  if [ -f "$WORK/before" ]; then cp -p "$WORK/before" "$POOL"; else rm -f "$POOL"; fi
}

install_pool() {
  payload
  [ -s "$WORK/device-ca.crt" ] || die "The payload holds no device-ca.crt; send the certificate of the authority."
  ! grep -q "^-----BEGIN .*KEY-----" "$WORK/device-ca.crt" ||
    die "The payload holds a private key, which must never leave the operator's machine; send the certificate alone."
  grep -q "^-----BEGIN CERTIFICATE-----" "$WORK/device-ca.crt" ||
    die "The payload is not a certificate in PEM form; send the authority's ca.crt."
  make_state
  [ ! -f "$POOL" ] || cp -p "$POOL" "$WORK/before"
  cmp -s "$WORK/device-ca.crt" "$POOL" || needs_proof
  # shellcheck disable=SC2034
  UNDO=put_back
  cmp -s "$WORK/device-ca.crt" "$POOL" || : >"$UNLOADED"
  write_file "$POOL_MODE" "$POOL" <"$WORK/device-ca.crt"
  if [ -e "$UNLOADED" ]; then
    say "The trust pool changed"
    reload_edge
    rm -f "$UNLOADED"
  fi
}

need_root
lock
case ${1:-} in
  install) install_pool ;;
  *) die "trust.sh knows the verb install alone, not \"${1:-}\"; correct the arguments." ;;
esac
