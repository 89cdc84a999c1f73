"""Files that hold secrets: written completely or not at all, readable only by their owner."""

import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pki.errors import KeystoreError

_log = logging.getLogger(__name__)

_TEMPORARY_PREFIX = ".tmp-"
_LOCK_NAME = ".lock"

FILE_LIMIT = 4 * 1024 * 1024
"""Bytes. A certificate or key has a few thousand, a bundle or a sheet some tens of thousands."""


def write_file(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 atomically: at every moment either the old or the new content is there.

    A process that is killed while writing leaves only a temporary file, which `sweep` removes.

    Raises:
        OSError: the disk is full or read-only, for example. The old content is untouched.
    """
    temporary = path.parent / f"{_TEMPORARY_PREFIX}{path.name}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def read_file(path: Path) -> bytes | None:
    """Read a file; None if there is none. A mode that lets others read is repaired with a warning.

    Raises:
        KeystoreError: it is a link, not a regular file, or far too large for a keystore.
    """
    return _read(path, repair=True)


def look_into(path: Path) -> bytes | None:
    """Read a file as `read_file` does, but change nothing."""
    return _read(path, repair=False)


def _read(path: Path, *, repair: bool) -> bytes | None:
    """Check before reading: links and endless files are never ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise link_refusal(path) from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise KeystoreError(f"{path} is not a regular file. Move it out of the keystore.")
        if found.st_size > FILE_LIMIT:
            raise KeystoreError(
                f"{path} has {found.st_size >> 20} MiB, far more than any file of a keystore. Restore it "
                "from a backup."
            )
        if repair:
            _close_to_others(path, descriptor, stat.S_IMODE(found.st_mode), 0o600)
        return file.read(FILE_LIMIT)


def link_refusal(path: Path) -> KeystoreError:
    """The refusal of a link inside a keystore: it may lead anywhere."""
    return KeystoreError(f"{path} is a link, and a keystore has none. Put what it leads to in its place.")


def refuse_link(path: Path) -> None:
    """Refuse a folder of the keystore that is a link.

    Raises:
        KeystoreError: it is a link.
    """
    if path.is_symlink():
        raise link_refusal(path)


def remove_file(path: Path) -> None:
    """Remove a file durably, if it exists."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def move_file(source: Path, target: Path) -> None:
    """Move a file, if it exists, within one file system."""
    try:
        os.replace(source, target)
    except FileNotFoundError:
        return
    sync_folder(target.parent)
    sync_folder(source.parent)


def is_folder(path: Path) -> bool:
    """Tell whether this is a folder; one that cannot be accessed (failing drive, owned by root) is not."""
    try:
        return path.is_dir()
    except OSError:
        return False


def make_folder(path: Path) -> None:
    """Create a folder of mode 0700, or repair the mode of the existing one."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another run was faster
            os.mkdir(path, 0o700)
        sync_folder(path.parent)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _close_to_others(path, descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode), 0o700)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed run left."""
    for leftover in folder.glob(f"{_TEMPORARY_PREFIX}*"):
        remove_file(leftover)


def sync_folder(path: Path) -> None:
    """Make renames and removals in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_locked_folder(folder: Path) -> None:
    """Remove the lock file and the folder, unless something else is in it.

    As soon as the lock file is gone another run may proceed, so this must be the last step. A run that waits
    for the old lock file notices and starts again.
    """
    os.unlink(folder / _LOCK_NAME)
    remove_empty_folder(folder)


def remove_empty_folder(folder: Path) -> None:
    """Remove a folder if it is empty."""
    with suppress(OSError):
        os.rmdir(folder)


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with its contents; links are removed, not followed."""
    if path.is_dir() and not path.is_symlink():
        for each in path.iterdir():
            remove_tree(each)
        os.rmdir(path)
    else:
        remove_file(path)


@contextmanager
def locked(folder: Path, wait_seconds: float) -> Iterator[None]:
    """Create the folder if needed and hold its lock, which excludes other runs and threads.

    Raises:
        KeystoreError: another run held the lock for all of `wait_seconds`.
        OSError: the lock file cannot be created.
    """
    deadline = time.monotonic() + wait_seconds
    while (descriptor := _try_lock(folder)) is None:
        if time.monotonic() >= deadline:
            raise KeystoreError(
                f"Another run has been using the keystore {folder} for {wait_seconds:.0f} seconds. Wait "
                "until it has ended, then run again."
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(descriptor)


def _try_lock(folder: Path) -> int | None:
    """Return a descriptor that holds the lock, or None if another run holds it or has just removed it."""
    path = folder / _LOCK_NAME
    try:
        make_folder(folder)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:  # another run has purged the folder
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # a file that was purged between our open and our lock protects nothing
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _close_to_others(path: Path, descriptor: int, found: int, mode: int) -> None:
    if found & 0o077:
        _log.warning(
            "%s had mode %04o; it is %04o now, because it belongs to the keystore.", path, found, mode
        )
        os.fchmod(descriptor, mode)


def explain(error: OSError, folder: Path) -> KeystoreError:
    """Explain what the operating system refused, and what helps."""
    where = f"The keystore {folder}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return KeystoreError(
            f"{where} cannot be written because the disk is full. Free some space and run again; what was in "
            "the keystore is still there."
        )
    if error.errno == errno.EROFS:
        return KeystoreError(
            f"{where} is on a read-only disk. Mount the disk for writing, or set `keystore` to another "
            "folder."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return KeystoreError(
            f"{where} cannot be read or written by this user ({error.filename or folder}: "
            f"{error.strerror}). Run as the user who owns it, or change its owner."
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP):
        return KeystoreError(
            f"{where} has something in the way at {error.filename or folder} ({error.strerror}). Move that "
            "away, or set `keystore` to another folder."
        )
    return KeystoreError(
        f"{where} could not be read or written ({error.filename or folder}: {error.strerror}). Check the "
        "disk and run again; what was in the keystore is still there."
    )
