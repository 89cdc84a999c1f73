"""The certificate of one hand-over: self-signed, for one address, and discarded with the process."""

import ipaddress
import secrets
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_CLOCK_SKEW = timedelta(days=1)
_VALIDITY = timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """A server's TLS context, and its certificate's fingerprint."""

    context: ssl.SSLContext
    fingerprint: str
    """SHA-256 of the certificate's DER form, lower-case hexadecimal."""


def new_identity(address: Address) -> Identity:
    """Create a key and a certificate for `address`, TLS 1.2 or newer."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(address, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, certificate, key)
    return Identity(context, certificate.fingerprint(hashes.SHA256()).hex())


def _certificate(address: Address, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Immich hand-over")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(address)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _load(context: ssl.SSLContext, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Load the key. Python's `ssl` reads keys only from a file: encrypted, deleted at once."""
    password = secrets.token_bytes(32).hex().encode()
    with tempfile.TemporaryDirectory(prefix="handover-") as folder:  # mode 0700
        path = Path(folder) / "identity.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(password),
            )
        )
        context.load_cert_chain(path, password=lambda: password)
