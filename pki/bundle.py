"""The PKCS#12 bundle that a person imports on a phone or a computer."""

import secrets
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import KeySerializationEncryption, PrivateFormat, pkcs12

from pki.key import PrivateKey
from pki.work_factor import refuse_endless


class Platform(StrEnum):
    """The platforms that a bundle is made for."""

    IOS = "ios"
    ANDROID = "android"
    MACOS = "macos"
    WINDOWS = "windows"
    LINUX = "linux"


class BundleFormat(StrEnum):
    """How a bundle is encrypted."""

    COMPATIBLE = "3des-sha1"
    MODERN = "aes256-sha256"


# Android before 14, older iOS and macOS, and Windows Server 2016 report "wrong password" for AES-256 bundles.
# On Linux (NSS, OpenSSL, GnuTLS) AES-256 works, while strict crypto policies may reject SHA-1.
_FORMATS = {Platform.LINUX: BundleFormat.MODERN}

# No 0, 1, i, l, o, u: a person types this on a phone. 20 characters of 30 are 98 bits, so the low
# number of rounds that an old phone can handle (and the old cipher's weak key derivation) do not matter.
_ALPHABET = "23456789abcdefghjkmnpqrstvwxyz"
_GROUPS, _GROUP_LENGTH = 5, 4
BUNDLE_ROUNDS = 20_000

# DER of the object identifiers pbeWithSHA1And3-KeyTripleDES-CBC (RFC 7292 C) and id-PBES2 (RFC 8018).
_TRIPLE_DES_IDENTIFIER = bytes.fromhex("060a2a864886f70d010c0103")
_PBES2_IDENTIFIER = bytes.fromhex("06092a864886f70d01050d")


def format_for(platform: Platform) -> BundleFormat:
    """The encryption that every version of the platform still in use can read."""
    return _FORMATS.get(platform, BundleFormat.COMPATIBLE)


def new_password() -> str:
    """Make a bundle password of five readable groups, such as `k7mf-2xqp-9wdt-hc4n-3rvy`."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP_LENGTH)) for _ in range(_GROUPS))
    return "-".join(groups)


def make_bundle(
    *,
    name: str,
    key: PrivateKey,
    certificate: x509.Certificate,
    authority: x509.Certificate,
    password: str,
    bundle_format: BundleFormat,
    rounds: int = BUNDLE_ROUNDS,
) -> bytes:
    """Return a PKCS#12 file (RFC 7292) with key, certificate and the CA. `name` is the friendly name."""
    return pkcs12.serialize_key_and_certificates(
        name.encode(), key, certificate, [authority], _encryption(bundle_format, password, rounds)
    )


def open_bundle(content: bytes, password: str) -> pkcs12.PKCS12KeyAndCertificates:
    """Read a bundle.

    Raises:
        ValueError: wrong password, not a PKCS#12 file, or one that would take far too long to open.
    """
    refuse_endless(content)
    return pkcs12.load_pkcs12(content, password.encode())


def format_of(content: bytes) -> BundleFormat | None:
    """Tell how a bundle is encrypted, by the identifiers in its plain outer layer; None if it is neither."""
    if _TRIPLE_DES_IDENTIFIER in content:
        return BundleFormat.COMPATIBLE
    if _PBES2_IDENTIFIER in content:
        return BundleFormat.MODERN
    return None


def _encryption(bundle_format: BundleFormat, password: str, rounds: int) -> KeySerializationEncryption:
    builder = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(rounds)
    if bundle_format == BundleFormat.COMPATIBLE:
        builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).hmac_hash(
            hashes.SHA1()
        )
    else:
        builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).hmac_hash(hashes.SHA256())
    return builder.build(password.encode())
