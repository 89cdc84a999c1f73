"""Named facts about certificates, and a keystore that is quick enough for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki import Keystore
from pki.certificate import is_signed_by

PASSPHRASE = "correct horse battery"
NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)

QUICK_ROUNDS = 10
"""Work factor of the tests' keystores: the real one takes a tenth of a second a file."""


def quick_keystore(
    folder: Path,
    passphrase: str | None = PASSPHRASE,
    *,
    stack: str | None = "home",
    now: datetime = NOW,
    lock_wait_seconds: float = 10.0,
) -> Keystore:
    """Open a keystore with a low work factor and a clock that stands still."""
    return Keystore(
        folder,
        passphrase,
        stack=stack,
        clock=lambda: now,
        kdf_rounds=QUICK_ROUNDS,
        lock_wait_seconds=lock_wait_seconds,
    )


def key_usage_names(certificate: x509.Certificate) -> set[str]:
    """The names of the key usages that are on."""
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
    )
    return {name for name in names if getattr(usage, name)}


def assert_common(certificate: x509.Certificate) -> None:
    """What every certificate of ours has: version 3, SHA-256, a long serial, critical constraints, an SKI."""
    assert certificate.version is x509.Version.v3
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert 64 < certificate.serial_number.bit_length() <= 159
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).critical
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).critical
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert identifier == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())


def assert_is_ca(certificate: x509.Certificate) -> None:
    """It may sign devices and lists of revoked ones, nothing else, and signed itself."""
    assert_common(certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints == x509.BasicConstraints(ca=True, path_length=0)
    assert key_usage_names(certificate) == {"key_cert_sign", "crl_sign"}
    assert len(certificate.extensions) == 3
    assert is_signed_by(certificate, certificate)


def assert_is_leaf(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """It is a TLS client's and only that, signed by `issuer`, which it points at and never outlives."""
    assert_common(certificate)
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints == x509.BasicConstraints(ca=False, path_length=None)
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer_identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    pointer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert pointer.key_identifier == issuer_identifier.digest
    assert len(extensions) == 5
    assert is_signed_by(certificate, issuer)
    assert certificate.not_valid_after_utc <= issuer.not_valid_after_utc
    assert certificate.not_valid_before_utc >= issuer.not_valid_before_utc


def snapshot(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder but the lock, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
