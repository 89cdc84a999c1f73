"""A new passphrase for a whole keystore: at every moment either the old or the new one opens all of it.

Everything that the passphrase protects is first re-encrypted into a separate folder. Renaming that folder is
the commit. Before it, the folder means nothing. After it, the next run that takes the keystore's lock first
moves the files into place.
"""

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pki.access import KeystoreAccess
from pki.contents import SECRET_SUFFIX, device_of, own_files
from pki.errors import KeystoreError
from pki.files import (
    make_folder,
    move_file,
    read_file,
    remove_tree,
    sync_folder,
    write_file,
)
from pki.frame_store import FrameStore
from pki.marker import Marker

COMMITTED = "rekey"
"""Name of the folder whose files will replace those of the keystore."""

_UNFINISHED = "rekey-unfinished"


def change_passphrase(access: KeystoreAccess, passphrase: str) -> None:
    """Re-encrypt all keys and secrets with a new passphrase. The caller holds the keystore's lock.

    Bundles stay as they are: their own passwords protect them.

    Raises:
        KeystoreError: a file does not open with the old passphrase, or the new one is short, easily guessed
            or the same.
    """
    renewed = replace(access, passphrase=passphrase)
    renewed.require_strong_passphrase()
    if passphrase == access.passphrase:
        raise KeystoreError("The new passphrase is the old one. Choose another.")
    contents = _re_encrypted(access, renewed)
    _stage(access.folder, contents)
    os.replace(access.folder / _UNFINISHED, access.folder / COMMITTED)
    sync_folder(access.folder)
    finish(access.folder)


def finish(folder: Path) -> None:
    """Complete a committed change of passphrase, and discard an uncommitted one."""
    committed = folder / COMMITTED
    for path in own_files(committed):
        move_file(committed / path, folder / path)
    for leftover in (committed, folder / _UNFINISHED):
        if leftover.exists():
            remove_tree(leftover)


def _re_encrypted(access: KeystoreAccess, renewed: KeystoreAccess) -> dict[PurePosixPath, bytes]:
    """Content by path of every file that depends on the passphrase."""
    contents: dict[PurePosixPath, bytes] = {}
    for path in own_files(access.folder):
        source = access.folder / path
        content = read_file(source) or b""
        if path.suffix == ".key":
            contents[path] = renewed.encrypt(access.open_key(source, content))
        elif path.suffix == ".password":
            device = device_of(path.parts[0], path.stem)
            contents[path] = renewed.seal_password(access.open_password(source, content, device), device)
        elif path.suffix == SECRET_SUFFIX:
            contents[path] = FrameStore(renewed).sealed(FrameStore(access).open(path.stem))
    if not contents:
        raise KeystoreError(f"There is no key in the keystore {access.folder}. Check its path.")
    marker = Marker.read(access.folder)
    stack = access.stack if marker is None else marker.stack
    new_marker = Marker.new(stack, renewed.secret, access.kdf_rounds)
    return {PurePosixPath(Marker.FILE_NAME): new_marker.content(), **contents}


def _stage(folder: Path, contents: dict[PurePosixPath, bytes]) -> None:
    staged = folder / _UNFINISHED
    make_folder(staged)
    for path, content in contents.items():
        make_folder((staged / path).parent)
        write_file(staged / path, content)
