"""What is handed over: one device's files, each with the type that makes a device take it rightly."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from pki import KeystoreError, device_name
from pki.bundle import open_bundle
from pki.certificate import fingerprint
from pki.device_files import DeviceFiles
from pki.files import explain
from pki.key import KDF_ROUNDS
from pki.vault import Vault

PKCS12 = "application/x-pkcs12"
APPLE_PROFILE = "application/x-apple-aspen-config"


@dataclass(frozen=True)
class OneTimeFile:
    """One file that can be fetched once.

    `attachment` says whether a browser shall save it. A configuration profile is not one: Safari installs a
    profile only straight from the page, and since iOS 15 no longer from the Files app.
    """

    file_name: str
    content_type: str
    content: bytes
    purpose: str
    attachment: bool = True


@dataclass(frozen=True)
class Handover:
    """All that a device gets, and the password that opens it."""

    device: str
    fingerprint: str
    not_after: datetime
    files: tuple[OneTimeFile, ...]
    password: str = field(repr=False)


def read_handover(
    keystore: Path,
    device: str,
    passphrase: str,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Handover:
    """Read what `device` gets from the keystore. Changes nothing and takes no lock.

    Raises:
        KeystoreError: bad name, no such device, wrong passphrase, expired certificate, missing or damaged
            file.
    """
    name = device_name(device)
    vault = Vault(keystore, passphrase, None, clock, KDF_ROUNDS)
    vault.require_passphrase()
    paths = DeviceFiles(keystore / "devices", name)
    certificate = vault.read_certificate(paths.certificate, _read(paths.certificate, keystore, name))
    vault.refuse_out_of_date(paths.certificate, certificate, "run `pulumi up`, which issues a new one")
    password = vault.open_password(paths.password, _read(paths.password, keystore, name), name)
    bundle = _read(paths.bundle, keystore, name)
    _refuse_other_bundle(paths, bundle, password, certificate)
    files = [
        OneTimeFile(
            paths.bundle.name, PKCS12, bundle, "The certificate file, for the Immich app and for browsers."
        )
    ]
    profile = paths.bundle.with_suffix(".mobileconfig")
    if profile.is_file():
        purpose = "The same as a configuration profile: Safari on an iPhone or iPad needs this one."
        content = _read(profile, keystore, name)
        files.append(OneTimeFile(profile.name, APPLE_PROFILE, content, purpose, attachment=False))
    return Handover(name, fingerprint(certificate), certificate.not_valid_after_utc, tuple(files), password)


def _refuse_other_bundle(
    paths: DeviceFiles, bundle: bytes, password: str, certificate: x509.Certificate
) -> None:
    try:
        bundled = open_bundle(bundle, password).cert
    except ValueError:
        bundled = None
    if bundled is None or bundled.certificate != certificate:
        raise KeystoreError(
            f"{paths.bundle} does not hold the certificate of {paths.certificate}. Delete it and run `pulumi "
            f"up`, which writes it anew."
        )


def _read(path: Path, keystore: Path, device: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise KeystoreError(
            f"{path} is missing. Is {device!r} in `devices` of the stack's config, and is {keystore} its "
            "keystore? Then run `pulumi up` first, which makes what is missing. A device that was taken over "
            "(`adopt.devices`) has its certificate already, and no bundle."
        ) from error
    except OSError as error:
        raise explain(error, keystore) from error
