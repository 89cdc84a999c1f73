"""`frames/`: the secrets of picture frames, televisions and the like, which hold no certificate.

Each has one file, `frames/<name>.secret`: the secret's SHA-256, by which the server knows it, and on the next
line the secret itself, sealed with the keystore's passphrase. So a frame, like a device, can be revoked
without the passphrase.
"""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from pki.access import KeystoreAccess
from pki.contents import FRAMES, SECRET_SUFFIX
from pki.errors import KeystoreError
from pki.files import look_into, make_folder, remove_file, write_file
from pki.revocations import note_revoked, revoked_in

PREFIX = "ixframe_"
"""The prefix of every secret, so that secret scanners recognise it."""

SECRET = re.compile(PREFIX + "[a-z2-7]{32}")
"""160 bits in base32 (RFC 4648), in lower case. The edge accepts no other form (server/caddy/frames.go)."""

_MADE_AGAIN = "the next `up` makes a new secret, which the frame then needs"

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FrameSecret:
    """The secret that a frame sends, and its SHA-256, which is all that the server has."""

    name: str
    secret: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the secret, lower-case hexadecimal: the frame's name on the server."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


def new_secret() -> str:
    """Return a new random secret."""
    return PREFIX + base64.b32encode(secrets.token_bytes(20)).decode().lower()


class FrameStore:
    """The frames' files. The caller holds the keystore's lock and has normalised the names."""

    def __init__(self, access: KeystoreAccess) -> None:
        self._access = access

    @property
    def folder(self) -> Path:
        """Folder of the frames."""
        return self._access.folder / FRAMES

    def names(self) -> list[str]:
        """Names of all frames, sorted."""
        return sorted(path.stem for path in self.folder.glob(f"[!.]*{SECRET_SUFFIX}"))

    def adopt_or_make(self, name: str) -> FrameSecret:
        """Return the frame's secret; a new one if it has none, or if it was revoked for good."""
        content = look_into(self._path(name))
        if content is not None and self.fingerprint(name) not in revoked_in(self._access.folder):
            return self.open(name)
        made = FrameSecret(name, new_secret())
        make_folder(self.folder)
        write_file(self._path(name), self.sealed(made))
        return made

    def open(self, name: str) -> FrameSecret:
        """Return the secret of an existing frame, or say why that is impossible."""
        path = self._path(name)
        _, _, sealed = (look_into(path) or b"").partition(b"\n")
        found = FrameSecret(name, self._access.open_password(path, sealed, _context(name), _MADE_AGAIN))
        if found.fingerprint != self.fingerprint(name) or not SECRET.fullmatch(found.secret):
            raise self._damaged(path)
        return found

    def sealed(self, frame: FrameSecret) -> bytes:
        """Return the content of a frame's file."""
        seal = self._access.seal_password(frame.secret, _context(frame.name))
        return f"{frame.fingerprint}\n".encode() + seal

    def fingerprint(self, name: str) -> str:
        """Return the SHA-256 of a frame's secret, without opening it."""
        first, _, _ = (look_into(self._path(name)) or b"").partition(b"\n")
        found = first.decode(errors="replace")
        if not _FINGERPRINT.fullmatch(found):
            raise self._damaged(self._path(name))
        return found

    def revoke(self, name: str, fingerprint: str) -> None:
        """Record the secret as revoked and remove it, if it has this fingerprint."""
        if look_into(self._path(name)) is not None and self.fingerprint(name) == fingerprint:
            self.revoke_whatever(name)

    def revoke_whatever(self, name: str) -> None:
        """Record the frame's secret as revoked and remove it."""
        note_revoked(self._access.folder, name, self.fingerprint(name), self._access.clock())
        remove_file(self._path(name))

    def discard(self) -> None:
        """Remove all files."""
        for name in self.names():
            remove_file(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SECRET_SUFFIX}"

    def _damaged(self, path: Path) -> KeystoreError:
        return KeystoreError(f"{path} is damaged. Restore it from a backup, or delete it: {_MADE_AGAIN}.")


def _context(name: str) -> str:
    return f"frame {name}"
