"""`keystore.json`: the stack that a keystore belongs to, and a check of its passphrase."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pki.document import read_document
from pki.errors import KeystoreError
from pki.files import read_file, write_file
from pki.sealed import BrokenSealError, DamagedSealError, seal, unseal


@dataclass(frozen=True)
class Marker:
    """The content of `keystore.json`.

    `stack` is None for a keystore that was created without one. `check` is a sealed text that opens with the
    right passphrase: it distinguishes a wrong passphrase from a damaged key file.
    """

    FILE_NAME: ClassVar[str] = "keystore.json"
    _FORMAT: ClassVar[int] = 1
    _CHECK: ClassVar[str] = "immich-exposure keystore"

    stack: str | None
    check: str

    @classmethod
    def new(cls, stack: str | None, passphrase: str, rounds: int) -> "Marker":
        """Create the marker of a new keystore."""
        return cls(stack, seal(cls._CHECK, passphrase, context=cls._CHECK, rounds=rounds).decode())

    @classmethod
    def read(cls, folder: Path) -> "Marker | None":
        """Read a keystore's marker; None if it has none.

        Raises:
            KeystoreError: the file is damaged.
        """
        path = folder / cls.FILE_NAME
        content = read_file(path)
        if content is None:
            return None
        try:
            document = read_document(content, cls._FORMAT)
            return cls(document["stack"], document["check"])
        except (ValueError, KeyError, TypeError) as error:
            raise KeystoreError(
                f"{path} is damaged. Restore it from a backup, or delete it: the next run writes it again."
            ) from error

    def write(self, folder: Path) -> None:
        """Write the marker into the keystore."""
        write_file(folder / self.FILE_NAME, self.content())

    def content(self) -> bytes:
        """The file's content."""
        document = {"format": self._FORMAT, "stack": self.stack, "check": self.check}
        return json.dumps(document, indent=2).encode() + b"\n"

    def knows(self, passphrase: str) -> bool:
        """Tell whether this is the keystore's passphrase."""
        try:
            return unseal(self.check.encode(), passphrase, context=self._CHECK) == self._CHECK
        except (BrokenSealError, DamagedSealError):
            return False
