"""Certificates for tests of the edge: sound ones, and those that must be refused."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, as files; `fingerprint` is the lower-case hex SHA-256 of the DER form."""

    certificate: Path
    key: Path
    fingerprint: str


class TestAuthority:
    """A certificate authority that issues whatever a test asks for, also what no sound one would."""

    __test__ = False

    def __init__(self, folder: Path, common_name: str = "Immich Client CA") -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(common_name)
        self.certificate = folder / "ca.crt"
        builder = _certificate_builder(self._name, self._name, self._key, datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        signed = builder.sign(self._key, hashes.SHA256())
        self.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        common_name: str | None,
        *,
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        lifetime: datetime.timedelta = datetime.timedelta(days=1),
        dns_name: str | None = None,
    ) -> Identity:
        """Issue a certificate; a negative lifetime gives an expired one, no common name an empty subject."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _certificate_builder(_name(common_name), self._name, key, lifetime)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if dns_name is not None:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        fingerprint = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        stem = self._folder / fingerprint[:16]
        identity = Identity(stem.with_suffix(".crt"), stem.with_suffix(".key"), fingerprint)
        identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return identity


def _name(common_name: str | None) -> x509.Name:
    if common_name is None:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    end = datetime.datetime.now(datetime.UTC) + lifetime
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=30))
        .not_valid_after(end)
    )
