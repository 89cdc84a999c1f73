"""The certificate that a device presents when it connects."""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki.authority import Authority
from pki.certificate import CLOCK_SKEW, certificate_builder, key_usage, subject_name, whole_second
from pki.key import PrivateKey
from pki.profile import DeviceProfile


def device_subject(profile: DeviceProfile) -> x509.Name:
    """The subject that the profile asks for."""
    return subject_name(common_name=profile.common_name, organization=profile.organization)


def issue_certificate(
    authority: Authority, profile: DeviceProfile, key: PrivateKey, now: datetime
) -> x509.Certificate:
    """Sign a client certificate for `key`. It never outlives the authority.

    The extended key usage is clientAuth alone, so that a stolen device cannot impersonate a server. The key
    may only sign, whatever its type: a TLS client proves itself by a signature (RFC 8446 4.4.3), and
    RFC 5280 4.2.1.12 counts keyEncipherment inconsistent with clientAuth.
    """
    now = whole_second(now)
    builder = certificate_builder(
        subject=device_subject(profile),
        issuer=authority.certificate.subject,
        key=key,
        not_before=max(now - CLOCK_SKEW, authority.not_before),
        not_after=min(now + timedelta(days=profile.validity_days), authority.not_after),
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(_authority_key_identifier(authority.certificate), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _authority_key_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Refer to the CA's subject key identifier, even if another tool chose it."""
    try:
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        identifier = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
