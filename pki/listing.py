"""What a keystore's files reveal without the passphrase."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from pki.access import KeystoreAccess
from pki.adoption import Adoption
from pki.bundle import format_of
from pki.certificate import parse_certificate
from pki.contents import AUTHORITY_STEMS, DEVICE_FOLDERS, device_of
from pki.device_files import DeviceFiles
from pki.errors import KeystoreError
from pki.files import look_into
from pki.frame_store import FrameStore
from pki.inspection import certificates_in, device_files

_STATES = dict(zip(DEVICE_FOLDERS, ("device", "previous", "revoked"), strict=True))


@dataclass(frozen=True)
class Record:
    """One certificate of a keystore.

    `state` is authority, device, previous (still valid during the grace period), revoked, adopted (taken
    over, without a key), or retired (an authority that no device needs any more); `certificate` is None if
    the file cannot be read. `bundle` says how the bundle is encrypted and which files accompany it, or `-`.
    """

    name: str
    state: str
    certificate: x509.Certificate | None
    bundle: str = "-"


def records(folder: Path) -> list[Record]:
    """List authorities, devices in use, and renewed or revoked ones. Takes no lock, changes nothing."""
    devices = (_record(files) for files in device_files(folder))
    return [*_authorities(folder), *devices, *_adopted(folder)]


def frames(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and fingerprint of each frame, `unreadable` if the file is damaged."""
    store = FrameStore(KeystoreAccess(folder, None, None, lambda: datetime.now(UTC), 1))
    for name in store.names():
        try:
            yield name, store.fingerprint(name)
        except KeystoreError:
            yield name, "unreadable"


def _authorities(folder: Path) -> Iterator[Record]:
    for path, certificate in certificates_in(folder):
        state = "authority" if path.stem in AUTHORITY_STEMS else "retired"
        yield Record(path.stem, state, certificate)


def _adopted(folder: Path) -> Iterator[Record]:
    """The adopted devices whose certificate is known."""
    adoption = Adoption.read(folder)
    for device in adoption.devices if adoption else ():
        if device.certificate_pem is not None:
            yield Record(device.name, "adopted", parse_certificate(device.certificate_pem.encode()))


def _record(files: DeviceFiles) -> Record:
    folder = files.folder.name
    return Record(
        device_of(folder, files.stem), _STATES[folder], _certificate(files.certificate), _bundle(files)
    )


def _certificate(path: Path) -> x509.Certificate | None:
    try:
        return parse_certificate(look_into(path) or b"")
    except (KeystoreError, ValueError):
        return None


def _bundle(files: DeviceFiles) -> str:
    try:
        content = look_into(files.bundle)
    except KeystoreError:
        return "unreadable"
    if content is None:
        return "-"
    found = format_of(content)
    beside = " + mobileconfig" if files.mobileconfig.exists() else ""
    return f"{found or 'unknown'}{beside}"
