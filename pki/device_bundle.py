"""What a device's owner gets from the keystore: the bundle and its password."""

from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from pki.access import KeystoreAccess
from pki.bundle import open_bundle
from pki.contents import CURRENT
from pki.device_files import DeviceFiles
from pki.errors import KeystoreError
from pki.files import explain


@dataclass(frozen=True)
class DeviceBundle:
    """A device's certificate, its PKCS#12 bundle with its password, and Apple's profile if it has one."""

    name: str
    certificate: x509.Certificate
    bundle: bytes = field(repr=False)
    profile: bytes | None = field(repr=False)
    password: str = field(repr=False)


def read_device_bundle(access: KeystoreAccess, name: str) -> DeviceBundle:
    """Read the files of a device in use. Changes nothing and takes no lock.

    Raises:
        KeystoreError: see `Keystore.read_device`.
    """
    access.require_passphrase()
    files = DeviceFiles(access.folder / CURRENT, name)
    certificate = access.read_certificate(files.certificate, _read(access, files.certificate, name))
    access.refuse_out_of_date(files.certificate, certificate, "run `pulumi up`, which issues a new one")
    password = access.open_password(files.password, _read(access, files.password, name), name)
    bundle = _read(access, files.bundle, name)
    _refuse_other_bundle(files, bundle, password, certificate)
    profile = _read(access, files.mobileconfig, name) if files.mobileconfig.is_file() else None
    return DeviceBundle(name, certificate, bundle, profile, password)


def _refuse_other_bundle(
    files: DeviceFiles, bundle: bytes, password: str, certificate: x509.Certificate
) -> None:
    try:
        bundled = open_bundle(bundle, password).cert
    except ValueError:
        bundled = None
    if bundled is None or bundled.certificate != certificate:
        raise KeystoreError(
            f"{files.bundle} does not hold the certificate of {files.certificate}. Delete it and run `pulumi "
            "up`, which writes it again."
        )


def _read(access: KeystoreAccess, path: Path, device: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise KeystoreError(
            f"{path} is missing. Is {device!r} in `devices` of the stack's config, and is {access.folder} "
            "its keystore? Then run `pulumi up` first, which makes what is missing. A device that was taken "
            "over (`adopt.devices`) has its certificate already, and no bundle."
        ) from error
    except OSError as error:
        raise explain(error, access.folder) from error
