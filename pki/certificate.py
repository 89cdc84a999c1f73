"""X.509 facts that the authority and the devices share."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from pki.key import PrivateKey

# Tolerance for slow clocks: a phone that is behind by less than this still accepts a new certificate.
CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Certified:
    """Something that has a certificate, with the properties that people need."""

    certificate: x509.Certificate

    @property
    def certificate_pem(self) -> str:
        """The certificate as PEM text."""
        return pem(self.certificate).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate's DER form, 64 lower-case hex digits."""
        return fingerprint(self.certificate)

    @property
    def not_before(self) -> datetime:
        """First moment of validity, UTC."""
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """Last moment of validity, UTC."""
        return self.certificate.not_valid_after_utc

    @property
    def subject(self) -> str:
        """The subject as `CN=phone, O=MyOrg`."""
        return distinguished_name(self.certificate.subject)


def pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def parse_certificate(content: bytes) -> x509.Certificate:
    """Read a PEM certificate and parse all parts that are used later, which the library does only on demand.

    Raises:
        ValueError: it is not a certificate, or has unreadable parts.
    """
    try:
        certificate = x509.load_pem_x509_certificate(content)
        _ = (certificate.extensions, certificate.public_key(), certificate.subject, certificate.issuer)
    except (
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        UnsupportedAlgorithm,
    ) as error:
        raise ValueError(str(error)) from error
    return certificate


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, 64 lower-case hex digits: a device's name in the server's allowlist."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def distinguished_name(name: x509.Name) -> str:
    """Write a name in the order in which it is encoded, as OpenSSL prints it."""
    return ", ".join(attribute.rfc4514_string() for attribute in name)


def subject_name(*, common_name: str, organization: str, country: str | None = None) -> x509.Name:
    """Build the subject `CN=, O=[, C=]`."""
    attributes = [
        x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
    ]
    if country is not None:
        attributes.append(x509.NameAttribute(NameOID.COUNTRY_NAME, country))
    return x509.Name(attributes)


def certificate_builder(
    *, subject: x509.Name, issuer: x509.Name, key: PrivateKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    """Start a certificate with what all our certificates have in common.

    The serial is random and has 159 bits (RFC 5280 4.1.2.2 allows 20 octets); the subject key identifier is
    the SHA-1 form of RFC 5280 4.2.1.2 (1).
    """
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def key_usage(
    *,
    digital_signature: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    """Build a key usage extension; usages that are not named are off."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_encipherment=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def whole_second(moment: datetime) -> datetime:
    """Truncate to the second in UTC: certificates hold no fractions."""
    return moment.astimezone(UTC).replace(microsecond=0)


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Tell whether `issuer` signed `certificate`: the names match and the signature is valid."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def same_key(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Tell whether the certificate is for this key."""
    return certificate.public_key() == key.public_key()
