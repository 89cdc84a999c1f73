"""The certificate authority that signs the devices' certificates."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pki.certificate import CLOCK_SKEW, Certified, certificate_builder, key_usage, subject_name, whole_second
from pki.key import PrivateKey
from pki.profile import AuthorityProfile


@dataclass(frozen=True)
class Authority(Certified):
    """A certificate authority: its certificate, and the key that stays in the keystore.

    `key` is for signing inside this package. Pass on only `certificate_pem` and the other properties.
    """

    key: PrivateKey = field(repr=False, compare=False)


def authority_subject(profile: AuthorityProfile) -> x509.Name:
    """The subject that the profile asks for."""
    return subject_name(
        common_name=profile.common_name, organization=profile.organization, country=profile.country
    )


def create_authority(profile: AuthorityProfile, key: PrivateKey, now: datetime) -> Authority:
    """Sign a new CA certificate with its own key.

    basicConstraints and keyUsage are critical, as RFC 5280 4.2.1.9 and 4.2.1.3 require. The path length of 0
    means that it signs devices but no further authority.
    """
    subject = authority_subject(profile)
    now = whole_second(now)
    builder = certificate_builder(
        subject=subject,
        issuer=subject,
        key=key,
        not_before=now - CLOCK_SKEW,
        not_after=now + timedelta(days=profile.validity_days),
    )
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def may_sign(certificate: x509.Certificate) -> bool:
    """Tell whether the certificate says that its holder is a CA (RFC 5280 6.1.4 k and n).

    Without a key usage extension, as from `openssl req -x509`, the key may be used for anything.
    """
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid
    except ValueError:
        return False
