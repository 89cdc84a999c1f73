"""The contents of a keystore's folder: which files are its own, and which are not."""

import re
from pathlib import Path, PurePosixPath

from pki.marker import Marker

CURRENT, PREVIOUS, REVOKED = DEVICE_FOLDERS = ("devices", "previous", "revoked")
"""The folders of devices in use, of their previous files that are still valid, and of revoked ones."""

FRAMES, SECRET_SUFFIX = "frames", ".secret"
"""The folder of the frames' secrets (`pki.frame_store`), and their file extension."""

AUTHORITY_STEMS = ("ca", "ca-next")
"""File stems of the authority, and of its successor."""

ADOPTED = "adopted.json"
"""The record of what was taken over from a manual setup (`pki.adoption`)."""

REVOKED_LIST = "revoked.json"
"""Every fingerprint that was ever revoked (`pki.revocations`)."""

_AUTHORITY_SUFFIXES = frozenset({".crt", ".key"})
_DEVICE_SUFFIXES = frozenset({".crt", ".key", ".password", ".p12", ".mobileconfig", ".html"})
# the longest is a revoked device's, of a name of 63 characters (`pki.device_name`): 93 characters
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# moved files are named after the device and 16 digits of the certificate's fingerprint
_MOVED_STEM = re.compile(r"(?P<device>.+)-[0-9a-f]{16}")


def is_own(path: PurePosixPath) -> bool:
    """Tell whether a relative path is one of a keystore's files; an unsafe path never is."""
    if not all(_FILE_NAME.fullmatch(part) for part in path.parts):
        return False
    if len(path.parts) == 1:
        return path.name in (Marker.FILE_NAME, ADOPTED, REVOKED_LIST) or path.suffix in _AUTHORITY_SUFFIXES
    if path.parts[0] == FRAMES:
        return len(path.parts) == 2 and path.suffix == SECRET_SUFFIX
    return len(path.parts) == 2 and path.parts[0] in DEVICE_FOLDERS and path.suffix in _DEVICE_SUFFIXES


def own_files(folder: Path) -> list[PurePosixPath]:
    """List the keystore's files by their path below the folder, sorted. Symbolic links are excluded."""
    return [path for path in _files(folder) if is_own(path) and not (folder / path).is_symlink()]


def foreign_files(folder: Path) -> list[PurePosixPath]:
    """List what is in the folder but not the keystore's; hidden files are left out."""
    own = set(own_files(folder))
    return [path for path in _files(folder) if path not in own and not path.name.startswith(".")]


def moved_stem(stem: str, fingerprint: str) -> str:
    """The stem of moved files, with the SHA-256 of their certificate in hexadecimal."""
    return f"{stem}-{fingerprint[:16]}"


def device_of(folder: str, stem: str) -> str:
    """The name of the device whose files have this stem in one of the device folders."""
    moved = _MOVED_STEM.fullmatch(stem) if folder == REVOKED else None
    return stem if moved is None else moved["device"]


def _files(folder: Path) -> list[PurePosixPath]:
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(PurePosixPath(path.relative_to(folder).as_posix()) for path in found)
