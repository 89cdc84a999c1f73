"""One file with a whole keystore in it, for another disk or another machine.

It is a plain tar of the keystore's files, encrypted as they are in the keystore, after a manifest with the
SHA-256 of each. Reading it back trusts nothing: names, types and sizes are checked before anything is
written, and the keystore appears under its name only after every file has been opened.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from pki.access import KeystoreAccess
from pki.contents import is_own, own_files
from pki.document import read_document
from pki.errors import KeystoreError
from pki.files import (
    FILE_LIMIT,
    locked,
    make_folder,
    read_file,
    remove_locked_folder,
    remove_tree,
    sync_folder,
    write_file,
)
from pki.inspection import inspect

Files: TypeAlias = Mapping[PurePosixPath, bytes]
"""Content by path below the keystore's folder."""

_MANIFEST = "manifest.json"
_FORMAT = "immich-exposure keystore backup 1"
_FILES_LIMIT = 100_000

BACKUP_LIMIT = 512 * 1024 * 1024
"""Maximum size of a backup in bytes; one of a hundred devices has ten million."""


def read_keystore(folder: Path) -> Files:
    """Return the keystore's own files. The caller holds its lock.

    Raises:
        KeystoreError: it contains no authority.
    """
    files = {path: read_file(folder / path) or b"" for path in own_files(folder)}
    if PurePosixPath("ca.key") not in files:
        raise KeystoreError(f"There is no keystore in {folder}: ca.key is missing. Check the path.")
    return files


def pack(files: Files, now: datetime) -> bytes:
    """Return the backup of these files."""
    manifest = {
        "format": _FORMAT,
        "made": now.isoformat(timespec="seconds"),
        "files": {str(path): hashlib.sha256(content).hexdigest() for path, content in files.items()},
    }
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, _MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n", now)
        for path, content in files.items():
            _add(archive, str(path), content, now)
    return target.getvalue()


def unpack(content: bytes) -> Files:
    """Read a backup.

    Raises:
        KeystoreError: it is not a backup, is damaged, or contains files that no keystore has.
    """
    members = _members(content)
    digests = _manifest(members.pop(_MANIFEST, None))
    if members.keys() != digests.keys():
        raise _refusal("its files are not the ones that its manifest lists")
    for name, found in members.items():
        if not is_own(PurePosixPath(name)):
            raise _refusal(f"{name!r} is not a file of a keystore")
        if hashlib.sha256(found).hexdigest() != digests[name]:
            raise _refusal(f"{name} is not as it was when the backup was made")
    return {PurePosixPath(name): found for name, found in members.items()}


def made_on(content: bytes) -> str:
    """The day on which a backup that `unpack` accepts was made, according to itself: ISO 8601."""
    document = read_document(_members(content)[_MANIFEST], _FORMAT)
    try:
        return datetime.fromisoformat(document["made"]).date().isoformat()
    except (KeyError, TypeError, ValueError):
        return "an unknown day"


def restore(access: KeystoreAccess, content: bytes, lock_wait_seconds: float) -> None:
    """Restore the keystore from a backup, after opening all of it with its passphrase.

    Raises:
        KeystoreError: the folder is not empty, the backup is refused, the passphrase is wrong, or a file in
            it is damaged. In that case no folder is created.
    """
    files, folder = unpack(content), access.folder
    access.require_passphrase()
    staged = replace(access, folder=folder.parent / f".{folder.name}.import")
    with locked(staged.folder, lock_wait_seconds):
        try:
            _refuse_full(folder)
            _write(staged.folder, files)
            _refuse_damaged(staged, folder)
            os.rename(staged.folder, folder)
        except (KeystoreError, OSError):
            _clear(staged.folder)
            remove_locked_folder(staged.folder)
            raise
        sync_folder(folder.parent)


def _refuse_full(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise KeystoreError(
            f"{folder} already exists and is not an empty folder; a backup never overwrites a keystore. "
            "Name a new folder, or move that one away."
        )


def _write(staged: Path, files: Files) -> None:
    _clear(staged)  # a killed import's
    for path, content in files.items():
        make_folder((staged / path).parent)
        write_file(staged / path, content)


def _clear(staged: Path) -> None:
    for path in staged.iterdir():
        if path.name != ".lock":
            remove_tree(path)


def _refuse_damaged(staged: KeystoreAccess, folder: Path) -> None:
    try:
        damages = [finding.sentence for finding in inspect(staged) if finding.damage]
        if damages:
            raise _refusal(f"{len(damages)} of its files are not usable ({' '.join(damages)})")
    except KeystoreError as error:
        # the staging folder is removed again, so name the final place
        raise KeystoreError(str(error).replace(str(staged.folder), str(folder))) from None


def _members(content: bytes) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                _refuse_member(member, members)
                file = archive.extractfile(member)
                members[member.name] = b"" if file is None else file.read()
    except (tarfile.TarError, ValueError, OSError) as error:
        raise _refusal("it is damaged, or it is not a backup") from error
    return members


def _refuse_member(member: tarfile.TarInfo, members: Mapping[str, bytes]) -> None:
    if not member.isreg() or member.issparse():  # a sparse file takes no space until it is read
        raise _refusal(f"{member.name!r} in it is not a regular file")
    if member.name in members:
        raise _refusal(f"{member.name!r} is in it twice")
    if member.size > FILE_LIMIT or len(members) >= _FILES_LIMIT:
        raise _refusal(f"{member.name!r} in it is too large for a keystore, or one file too many")


def _manifest(content: bytes | None) -> dict[str, str]:
    if content is None:
        raise _refusal("it has no manifest")
    try:
        document = read_document(content, _FORMAT)
        return {str(name): str(digest) for name, digest in document["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refusal("its manifest is damaged, or of another version of this program") from error


def _refusal(reason: str) -> KeystoreError:
    return KeystoreError(f"The backup cannot be used: {reason}. Use another copy of it.")


def _add(archive: tarfile.TarFile, name: str, content: bytes, now: datetime) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o600, int(now.timestamp())
    archive.addfile(member, io.BytesIO(content))
