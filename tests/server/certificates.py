"""Certificates for tests of the edge: sound ones, and those that must be refused."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def ecdsa_key() -> Key:
    """Return a new key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key() -> Key:
    """Return a new RSA key of 2048 bits."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass(frozen=True)
class Identity:
    """A certificate with its key, as files; `fingerprint` is the lower-case hex SHA-256 of the DER form.

    The certificate's file may hold further certificates, those that lead up to the authority.
    """

    certificate: Path
    key: Path
    fingerprint: str


class TestAuthority:
    """A certificate authority that issues whatever a test asks for, also what no sound one would."""

    __test__ = False

    def __init__(
        self, folder: Path, common_name: str = "Immich Client CA", *, parent: TestAuthority | None = None
    ) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._key = ecdsa_key()
        self._name = _name(common_name)
        self._chain = b""
        self.certificate = folder / "ca.crt"
        issuer = parent or self
        builder = _certificate_builder(self._name, issuer._name, self._key, datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        signed = builder.sign(issuer._key, hashes.SHA256())
        self.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        if parent is not None:
            self._chain = self.certificate.read_bytes() + parent._chain
        self.identity = self._identity("ca-itself", signed, self._key)

    def below(self, folder: Path) -> TestAuthority:
        """Return an intermediate authority of this one, though its certificate allows none."""
        return TestAuthority(folder, "Immich Intermediate CA", parent=self)

    def pretend(self, folder: Path, signer: Identity) -> TestAuthority:
        """Return an authority that signs with the key of a mere device."""
        pretender = TestAuthority(folder, "unused")
        key = serialization.load_pem_private_key(signer.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        pretender._key = key
        pretender._name = x509.load_pem_x509_certificate(signer.certificate.read_bytes()).subject
        pretender._chain = signer.certificate.read_bytes()
        return pretender

    def issue(
        self,
        common_name: str | None,
        *,
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        lifetime: datetime.timedelta = datetime.timedelta(days=1),
        dns_name: str | None = None,
        key: Key | None = None,
        starts: datetime.timedelta | None = None,
    ) -> Identity:
        """Issue a certificate; a negative lifetime gives an expired one, no common name an empty subject.

        `starts` is when it begins to hold, from now on; without it, thirty days before its end.
        """
        key = key or ecdsa_key()
        builder = _certificate_builder(_name(common_name), self._name, key, lifetime, starts)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if dns_name is not None:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False
            )
        return self._identity(None, builder.sign(self._key, hashes.SHA256()), key)

    def self_signed(self, common_name: str) -> Identity:
        """Issue a certificate that names this authority as its issuer and is signed by its own key."""
        key = ecdsa_key()
        builder = _certificate_builder(_name(common_name), self._name, key, datetime.timedelta(days=1))
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        return self._identity(None, builder.sign(key, hashes.SHA256()), key)

    def _identity(self, name: str | None, certificate: x509.Certificate, key: Key) -> Identity:
        fingerprint = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        stem = self._folder / (name or fingerprint[:16])
        identity = Identity(stem.with_suffix(".crt"), stem.with_suffix(".key"), fingerprint)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        identity.certificate.write_bytes(pem if name else pem + self._chain)
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
    subject: x509.Name,
    issuer: x509.Name,
    key: Key,
    lifetime: datetime.timedelta,
    starts: datetime.timedelta | None = None,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    end = now + lifetime
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=30) if starts is None else now + starts)
        .not_valid_after(end)
    )
