# shellcheck shell=sh
# What the owner has made with openssl. Arguments: the server's root, a folder for what lies on the phones.
set -eu
root=$1 phones=$2
certs=$root/var/lib/certs
secrets=$root/mnt/immich_drive/secrets
mkdir -p "$certs" "$secrets" "$phones"
cd "$phones"
umask 077

openssl genrsa -out "$secrets/ca-key.pem" 2048 2>/dev/null
openssl req -x509 -new -sha256 -key "$secrets/ca-key.pem" -days 3650 -subj "/O=MyOrg/CN=MyOrg Root" \
  -out "$certs/ca-cert.pem"
chmod 644 "$certs/ca-cert.pem"

for name in anna ben; do
  openssl genrsa -out "$name.key" 2048 2>/dev/null
  openssl req -new -key "$name.key" -subj "/CN=$name/O=MyOrg" -out "$name.csr"
  openssl x509 -req -sha256 -in "$name.csr" -CA "$certs/ca-cert.pem" -CAkey "$secrets/ca-key.pem" \
    -CAserial "$secrets/ca-cert.srl" -CAcreateserial -days 365 -out "$name.crt" 2>/dev/null
  rm "$name.csr"
done
