"""`revoked.json`: every certificate that was ever revoked, by its fingerprint.

The files of a revoked device lie in `revoked/`, where somebody may move them from. What is noted here stays
revoked wherever its files are. A backup of before the revocation knows nothing of it: `import` says which
certificates it brings into use, and the server goes by what it has withdrawn itself.

Nothing in it is secret, and nothing in it is sealed: revoking a device needs no passphrase.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pki.contents import REVOKED_LIST
from pki.document import read_document
from pki.errors import KeystoreError
from pki.files import read_file, write_file

_FORMAT = 1


def revoked_in(folder: Path) -> Mapping[str, str]:
    """The names of what was revoked in a keystore, by fingerprint (SHA-256, lower-case hexadecimal).

    Raises:
        KeystoreError: the file is damaged.
    """
    path = folder / REVOKED_LIST
    content = read_file(path)
    if content is None:
        return {}
    try:
        document = read_document(content)
        if document["format"] != _FORMAT:
            raise ValueError(f"unknown format {document['format']!r}")
        return {str(each): str(entry["name"]) for each, entry in document["revoked"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeystoreError(f"{path} is damaged. Restore it from a backup.") from error


def note_revoked(folder: Path, name: str, fingerprint: str, now: datetime) -> None:
    """Note that a device's certificate was revoked; a second time changes nothing."""
    if fingerprint in revoked_in(folder):
        return
    content = read_file(folder / REVOKED_LIST)
    document: Any = read_document(content) if content else {"format": _FORMAT, "revoked": {}}
    document["revoked"][fingerprint] = {"name": name, "at": now.isoformat(timespec="seconds")}
    write_file(folder / REVOKED_LIST, json.dumps(document, indent=2).encode() + b"\n")
