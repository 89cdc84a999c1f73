"""The last word: a TLS server that asks for a client certificate, and devices that come."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from pki import AuthorityProfile, DeviceProfile, Keystore, KeyType
from pki.certificate import certificate_builder, pem, subject_name
from pki.key import generate_key
from tests.unit.pki.facts import PASSPHRASE, QUICK_ROUNDS

SERVER_NAME = "server.test"


def keystore(folder: Path) -> Keystore:
    """A keystore on the real clock, because TLS looks at that."""
    store = Keystore(folder, PASSPHRASE, kdf_rounds=QUICK_ROUNDS)
    store.adopt_or_create_authority(AuthorityProfile())
    return store


def server_context(folder: Path, trust_pool: Path) -> ssl.SSLContext:
    """A server that requires a certificate of `trust_pool`; its own lies in `folder`/server.crt."""
    key, now = generate_key(KeyType.ECDSA_P256), datetime.now(UTC)
    name = subject_name(common_name=SERVER_NAME, organization="Test")
    certificate = (
        certificate_builder(
            subject=name, issuer=name, key=key, not_before=now, not_after=now + timedelta(days=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(pem(certificate))
    (folder / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=trust_pool)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    return context


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes:
    """Run a handshake in memory and return the client certificate (DER) that the server accepted."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname=SERVER_NAME)
    for _ in range(10):
        with suppress(ssl.SSLWantReadError):
            client_side.do_handshake()
        with suppress(ssl.SSLWantReadError):
            server_side.do_handshake()
            certificate = server_side.getpeercert(binary_form=True)
            assert certificate is not None
            return certificate
    raise AssertionError("the handshake went back and forth without an end")


def client_context(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=folder / "server.crt")


@pytest.mark.parametrize("key_type", KeyType)
def test_a_device_gets_in_with_its_encrypted_key(key_type: KeyType, tmp_path: Path) -> None:
    store = keystore(tmp_path / "keystore")
    device = store.adopt_or_issue_device("phone", DeviceProfile("phone", key_type=key_type))
    server = server_context(tmp_path, tmp_path / "keystore/ca.crt")
    client = client_context(tmp_path)
    [probe] = store.probe_credentials()
    client.load_cert_chain(probe.certificate_path, probe.key_path, password=PASSPHRASE)
    accepted = x509.load_der_x509_certificate(shake_hands(server, client))
    assert accepted.fingerprint(hashes.SHA256()).hex() == device.fingerprint


def test_a_stranger_and_a_device_of_another_authority_do_not(tmp_path: Path) -> None:
    keystore(tmp_path / "keystore")
    other = keystore(tmp_path / "other").adopt_or_issue_device("phone", DeviceProfile("phone"))
    server = server_context(tmp_path, tmp_path / "keystore/ca.crt")
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(server, client_context(tmp_path))
    client = client_context(tmp_path)
    client.load_cert_chain(other.certificate_path, other.key_path, password=PASSPHRASE)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake_hands(server, client)
