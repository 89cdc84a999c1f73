"""Taking over an authority that was made by hand, and the devices that it has certified.

    adopted.json    whose authority was taken over, the devices known only by their certificates, and the
                    SHA-256 of each file that was taken over, to recognise copies of it

The authority's certificate and key become the keystore's own, `ca.crt` and `ca.key`. From then on it is
replaced in time like one that was made here. The devices hold their own keys, so there is nothing to install
and nothing to renew; they are enrolled by fingerprint for as long as their certificates are valid.

Nothing here is secret: `adopted.json` holds certificates, names, dates and digests.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki.authority import Authority, may_sign
from pki.certificate import distinguished_name, fingerprint, is_signed_by, parse_certificate, pem, same_key
from pki.contents import ADOPTED
from pki.document import read_document
from pki.errors import KeystoreError
from pki.files import read_file, write_file
from pki.key import PrivateKey, refuse_endless_key
from pki.work_factor import EndlessError


@dataclass(frozen=True)
class Source:
    """A file that somebody made by hand: where it came from, for messages, and what it holds."""

    place: str
    content: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Claim:
    """A device to take over, given by its certificate, or by its fingerprint and expiry.

    With neither, it is a device that was taken over before: the keystore has its certificate.
    """

    name: str
    certificate: Source | None = None
    fingerprint: str | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class AdoptedDevice:
    """A device that was taken over. `certificate_pem` is None if the certificate is not available."""

    name: str
    fingerprint: str
    until: datetime
    certificate_pem: str | None = None


@dataclass(frozen=True)
class Adoption:
    """What `adopted.json` says: the authority's fingerprint, the devices, and the digests by place."""

    _FORMAT: ClassVar[int] = 1

    authority: str
    devices: tuple[AdoptedDevice, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Adoption | None":
        """Read a keystore's adoption; None if nothing was taken over.

        Raises:
            KeystoreError: the file is damaged.
        """
        path = folder / ADOPTED
        content = read_file(path)
        if content is None:
            return None
        try:
            document = read_document(content, cls._FORMAT)
            devices = tuple(_device(name, each) for name, each in document["devices"].items())
            return cls(str(document["authority"]), devices, dict(document["files"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KeystoreError(f"{path} is damaged. Restore it from a backup.") from error

    def write(self, folder: Path) -> None:
        """Write it into the keystore, unless the file already says the same."""
        content = self.content()
        if read_file(folder / ADOPTED) != content:
            write_file(folder / ADOPTED, content)

    def content(self) -> bytes:
        """The file's content."""
        devices = {
            each.name: {
                "fingerprint": each.fingerprint,
                "until": each.until.isoformat(),
                "certificate": each.certificate_pem,
            }
            for each in self.devices
        }
        document = {
            "format": self._FORMAT,
            "authority": self.authority,
            "devices": devices,
            "files": dict(self.files),
        }
        return json.dumps(document, indent=2).encode() + b"\n"

    def is_of(self, certificate: x509.Certificate) -> bool:
        """Tell whether this is the authority that was taken over."""
        return self.authority == fingerprint(certificate)

    def needs(self, certificate: x509.Certificate, now: datetime) -> bool:
        """Tell whether a device that was taken over still depends on this authority."""
        return self.is_of(certificate) and any(each.until > now for each in self.devices)

    def device(self, name: str) -> AdoptedDevice | None:
        """The device of this name."""
        return next((each for each in self.devices if each.name == name), None)


def _device(name: str, values: Mapping[str, str]) -> AdoptedDevice:
    until = datetime.fromisoformat(values["until"])
    if until.tzinfo is None:
        raise ValueError("a moment without a time zone")
    return AdoptedDevice(name, values["fingerprint"], until, values["certificate"])


# Checking what was made by hand


def read_certificate(source: Source) -> x509.Certificate:
    """Read a certificate, PEM (with any text around it) or DER.

    Raises:
        KeystoreError: it contains none.
    """
    try:
        if b"-----BEGIN" in source.content:
            return parse_certificate(source.content)
        return parse_certificate(pem(x509.load_der_x509_certificate(source.content)))
    except ValueError as error:
        raise KeystoreError(
            f"{source.place} holds no certificate. Name the file that begins with BEGIN CERTIFICATE."
        ) from error


def read_authority(source: Source, now: datetime) -> x509.Certificate:
    """Read the certificate of an authority to take over.

    Raises:
        KeystoreError: it is not a certificate, not an authority's, not self-signed, or not valid now.
    """
    certificate = read_certificate(source)
    subject = distinguished_name(certificate.subject)
    if not may_sign(certificate):
        whose = f", but of '{subject}'" if subject else ""  # a server's often has a name in its SAN alone
        raise KeystoreError(
            f"{source.place} is not the certificate of an authority{whose}. Name the one that signed the "
            "devices' certificates (the chapter calls it ca-cert.pem)."
        )
    if not is_signed_by(certificate, certificate):
        raise KeystoreError(
            f"{source.place} is the certificate of an authority that did not sign itself ('{subject}'). "
            "Only a root can be taken over; name the root's certificate."
        )
    if now > certificate.not_valid_after_utc:
        raise KeystoreError(
            f"The authority in {source.place} expired on {_day(certificate.not_valid_after_utc)}, so none of "
            "its devices gets in any more. Remove `adopt` from the config; every device then gets a new "
            "certificate from a new authority."
        )
    if now < certificate.not_valid_before_utc:
        raise KeystoreError(
            f"The authority in {source.place} is valid only from {_day(certificate.not_valid_before_utc)}. "
            "Set this machine's clock right."
        )
    return certificate


def read_key(source: Source, passphrase: str | None, certificate: x509.Certificate, place: str) -> PrivateKey:
    """Read the private key of an authority: PEM, in PKCS#1, SEC1 or PKCS#8, encrypted or not.

    `place` is where the certificate came from.

    Raises:
        KeystoreError: it does not open, is not a key, has an unsupported type, or does not match.
    """
    key = _open_key(source, passphrase)
    if not same_key(certificate, key):
        raise KeystoreError(
            f"{source.place} is not the key of {place}. Name the key that this certificate was made with."
        )
    return key


def _open_key(source: Source, passphrase: str | None) -> PrivateKey:
    encrypted = b"ENCRYPTED" in source.content
    if encrypted and not passphrase:
        raise KeystoreError(
            f"{source.place} is encrypted. Set its passphrase with `pulumi config set --secret "
            "adoptCaPassphrase`."
        )
    secret = passphrase.encode() if encrypted and passphrase else None
    try:
        refuse_endless_key(source.content)
        key = serialization.load_pem_private_key(source.content, secret)
    except EndlessError as error:
        raise KeystoreError(
            f"{source.place} was not opened: {error}. Encrypt it with `openssl pkcs8 -topk8 -v2 aes256 -iter "
            "600000`, then run again."
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise KeystoreError(
                f"{source.place} does not open with adoptCaPassphrase, or it is damaged. Set the passphrase "
                "that the key was made with."
            ) from error
        raise KeystoreError(
            f"{source.place} holds no private key. Name the file that begins with BEGIN PRIVATE KEY or "
            "BEGIN RSA PRIVATE KEY."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise KeystoreError(
            f"{source.place} is a key of the kind {type(key).__name__.removesuffix('PrivateKey')}, which "
            "cannot certify new devices. Only RSA and ECDSA keys can be taken over."
        )
    return key


def take_device(
    claim: Claim, known: AdoptedDevice | None, authority: x509.Certificate, now: datetime
) -> AdoptedDevice:
    """Check a device to take over; `known` is what the keystore has under its name.

    A device that was taken over before may have expired since: that is no reason to refuse a run.

    Raises:
        KeystoreError: no certificate, or one of another authority, for another purpose, or expired.
    """
    device = _of_claim(claim, known, authority)
    if device.until <= now and (known is None or known.fingerprint != device.fingerprint):
        raise KeystoreError(
            f"The certificate of the device {claim.name!r} ended on {_day(device.until)}. Remove it from "
            "`adopt.devices` and name the device in `devices`: it then gets a new one."
        )
    return device


def _of_claim(claim: Claim, known: AdoptedDevice | None, authority: x509.Certificate) -> AdoptedDevice:
    if claim.fingerprint is not None and claim.until is not None:
        return AdoptedDevice(claim.name, claim.fingerprint.lower(), claim.until.astimezone(UTC))
    if claim.certificate is not None:
        return _of_certificate(claim.name, claim.certificate, authority)
    if known is None or known.certificate_pem is None:
        raise KeystoreError(
            f"There is no certificate of the device {claim.name!r}. Set `certificate` to its file, or set "
            "`fingerprint` and `until`."
        )
    return known


def _of_certificate(name: str, source: Source, authority: x509.Certificate) -> AdoptedDevice:
    certificate = read_certificate(source)
    _refuse_useless(name, source, certificate)
    if not is_signed_by(certificate, authority):
        raise KeystoreError(
            f"{source.place}, the certificate of the device {name!r}, was not issued by "
            f"'{distinguished_name(authority.subject)}', the authority that is taken over. Name another, or "
            "leave the device out."
        )
    return AdoptedDevice(
        name, fingerprint(certificate), certificate.not_valid_after_utc, pem(certificate).decode()
    )


def _refuse_useless(name: str, source: Source, certificate: x509.Certificate) -> None:
    """Refuse certificates that no Go server accepts from a client (crypto/x509)."""
    reason = None
    if certificate.signature_hash_algorithm is not None and isinstance(
        certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5
    ):
        reason = f"is signed with {certificate.signature_hash_algorithm.name.upper()}, which Caddy refuses"
    elif not _may_be_a_client(certificate):
        reason = "is for servers and not for clients (its extended key usage says so)"
    if reason is not None:
        raise KeystoreError(
            f"{source.place}, the certificate of the device {name!r}, {reason}. Leave it out of "
            "`adopt.devices` and name the device in `devices`: it then gets a new one."
        )


def _may_be_a_client(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return bool({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage))


def refuse_twins(devices: Sequence[AdoptedDevice]) -> None:
    """Refuse two names for one certificate: revoking one would leave the other.

    Raises:
        KeystoreError: two devices have the same fingerprint.
    """
    names: dict[str, str] = {}
    for device in devices:
        twin = names.setdefault(device.fingerprint, device.name)
        if twin != device.name:
            raise KeystoreError(
                f"The devices {twin!r} and {device.name!r} in `adopt.devices` share one certificate "
                f"({device.fingerprint[:16]}...). Remove one of the two."
            )


def take_authority(certificate: Source, key: Source, passphrase: str | None, now: datetime) -> Authority:
    """Read certificate and key of an authority to take over, and check that they match.

    Raises:
        KeystoreError: see `read_authority` and `read_key`.
    """
    parsed = read_authority(certificate, now)
    return Authority(parsed, read_key(key, passphrase, parsed, certificate.place))


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
