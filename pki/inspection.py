"""Checks every file of a keystore: does it open, and does it fit the others? Changes nothing."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from pki.access import KeystoreAccess
from pki.adoption import Adoption
from pki.authority_store import AuthorityStore
from pki.bundle import open_bundle
from pki.certificate import fingerprint, is_signed_by, parse_certificate
from pki.contents import CURRENT, DEVICE_FOLDERS, PREVIOUS, device_of, foreign_files, own_files
from pki.device_files import DeviceFiles
from pki.errors import KeystoreError
from pki.files import look_into, read_file
from pki.frame_store import FrameStore
from pki.marker import Marker
from pki.mobileconfig import bundle_of_mobileconfig
from pki.revocations import revoked_in

_REMADE = "Delete it; the next `up` makes it again."


@dataclass(frozen=True)
class Finding:
    """A problem, in a sentence or two with the remedy.

    `damage` says that a file is lost, damaged or foreign. Otherwise the keystore is intact, and the finding
    is an expiry, a leftover or something that the next `up` recreates.
    """

    sentence: str
    damage: bool


def inspect(access: KeystoreAccess) -> list[Finding]:
    """List every problem of a keystore. The caller holds its lock.

    Raises:
        KeystoreError: the passphrase is too short or not this keystore's.
    """
    access.require_passphrase()
    _refuse_other_passphrase(access)
    findings = [*_of_marker(access), *_of_authority(access), *_of_adoption(access)]
    authorities = [certificate for _, certificate in certificates_in(access.folder)]
    revoked = revoked_in(access.folder)
    for files in device_files(access.folder):
        findings += _of_device(access, files, authorities, revoked)
    findings += _of_frames(access, revoked)
    for path in foreign_files(access.folder):
        place = access.folder / path
        sentence = f"{place} does not belong to the keystore. Move it elsewhere; a backup leaves it out."
        findings.append(Finding(sentence, damage=False))
    return findings


def certificates_in(folder: Path) -> list[tuple[Path, x509.Certificate]]:
    """Every readable certificate directly in a folder, with its path, sorted."""
    found = []
    for path in sorted(folder.glob("*.crt")):
        try:
            found.append((path, parse_certificate(look_into(path) or b"")))
        except (KeystoreError, ValueError):
            continue  # `inspect` reports it if the file is one of a pair
    return found


def device_files(folder: Path) -> list[DeviceFiles]:
    """The files of every device in use and of everything that was revoked, sorted."""
    owners = {(path.parts[0], path.stem) for path in own_files(folder) if path.parts[0] in DEVICE_FOLDERS}
    return [DeviceFiles(folder / where, stem) for where, stem in sorted(owners)]


def _refuse_other_passphrase(access: KeystoreAccess) -> None:
    marker = Marker.read(access.folder)
    if marker is not None and not marker.knows(access.secret):
        raise KeystoreError(
            f"The keystore {access.folder} does not open with this passphrase. Use the one that it was "
            "created with or last changed to."
        )


def _of_marker(access: KeystoreAccess) -> Iterator[Finding]:
    if Marker.read(access.folder) is None:
        path = access.folder / Marker.FILE_NAME
        yield Finding(f"{path} is missing. The next `up` writes it again.", damage=False)


def _of_authority(access: KeystoreAccess) -> Iterator[Finding]:
    store = AuthorityStore(access)
    damages = []
    for files in store.all():
        try:
            store.open_pair(files)
        except KeystoreError as error:
            damages.append(Finding(str(error), damage=True))
    yield from damages
    if damages:
        return
    try:
        store.certificate()
    except KeystoreError as error:
        yield Finding(str(error), damage=False)


def _of_adoption(access: KeystoreAccess) -> Iterator[Finding]:
    try:
        Adoption.read(access.folder)
    except KeystoreError as error:
        yield Finding(str(error), damage=True)


def _of_frames(access: KeystoreAccess, revoked: Collection[str]) -> Iterator[Finding]:
    store = FrameStore(access)
    for name in store.names():
        try:
            found = store.open(name)
        except KeystoreError as error:
            yield Finding(str(error), damage=True)
            continue
        if found.fingerprint in revoked:
            yield Finding(
                f"The secret of the frame {name!r} was revoked; the next `up` makes a new one.", damage=False
            )


def _of_device(
    access: KeystoreAccess, files: DeviceFiles, authorities: list[x509.Certificate], revoked: Collection[str]
) -> Iterator[Finding]:
    content = read_file(files.certificate)
    if content is None:
        yield Finding(
            f"{files.certificate} is missing, but other files of {files.stem!r} exist. Restore it from "
            "a backup; if it was never handed out, the next `up` starts over.",
            damage=False,
        )
        return
    try:
        certificate = access.read_certificate(files.certificate, content)
    except KeystoreError as error:
        yield Finding(str(error), damage=True)
        return
    if files.folder.name in (CURRENT, PREVIOUS) and fingerprint(certificate) in revoked:
        yield Finding(f"{files.certificate} was revoked, but is still in use.", damage=True)
    if files.folder.name == CURRENT:
        yield from _of_validity(access, files, certificate, authorities)
    yield from _of_key(access, files, certificate)
    yield from _of_bundle(access, files, certificate)


def _of_validity(
    access: KeystoreAccess,
    files: DeviceFiles,
    certificate: x509.Certificate,
    authorities: list[x509.Certificate],
) -> Iterator[Finding]:
    if not any(is_signed_by(certificate, authority) for authority in authorities):
        yield Finding(
            f"{files.certificate} was not signed by the authority of this keystore, or it is damaged. "
            "Restore both from the same backup.",
            damage=True,
        )
    try:
        access.refuse_out_of_date(files.certificate, certificate, "have a new one issued")
    except KeystoreError as error:
        yield Finding(str(error), damage=False)


def _of_key(access: KeystoreAccess, files: DeviceFiles, certificate: x509.Certificate) -> Iterator[Finding]:
    content = read_file(files.key)
    if content is None:
        yield Finding(f"{files.key} is missing. Restore it from a backup.", damage=True)
        return
    try:
        access.refuse_other_key(
            files.key, access.open_key(files.key, content), files.certificate, certificate
        )
    except KeystoreError as error:
        yield Finding(str(error), damage=True)


def _of_bundle(
    access: KeystoreAccess, files: DeviceFiles, certificate: x509.Certificate
) -> Iterator[Finding]:
    sealed, bundle = read_file(files.password), read_file(files.bundle)
    if sealed is None or bundle is None:
        lost = files.password if sealed is None else files.bundle
        yield Finding(f"{lost} is missing. The next `up` makes a new bundle.", damage=False)
        return
    try:
        password = access.open_password(files.password, sealed, device_of(files.folder.name, files.stem))
        bundled = open_bundle(bundle, password).cert
    except KeystoreError as error:
        yield Finding(str(error), damage=True)
        return
    except ValueError:
        yield Finding(f"{files.bundle} does not open with its password. {_REMADE}", damage=True)
        return
    if bundled is None or bundled.certificate != certificate:
        yield Finding(f"{files.bundle} is not the bundle of {files.certificate}. {_REMADE}", damage=True)
    profile = read_file(files.mobileconfig)
    if profile is not None and bundle_of_mobileconfig(profile) != bundle:
        yield Finding(
            f"{files.mobileconfig} does not hold the bundle next to it. The next `up` writes it again.",
            damage=False,
        )
