"""`revoked.json`: every certificate that was ever revoked, by its fingerprint.

The files of a revoked device lie in `revoked/`, where somebody may move them from. What is noted here stays
revoked wherever its files are. Certificates that the keystore never had are here as well: of devices that
were taken over, or issued after a backup was made. A backup of before the revocation knows nothing of it:
`import` says which certificates it brings into use, and the server goes by what it has withdrawn itself.

Nothing in it is secret, and nothing in it is sealed: revoking a device needs no passphrase.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pki.contents import REVOKED_LIST
from pki.document import read_document
from pki.errors import KeystoreError
from pki.files import read_file, write_file

_FORMAT = 1


@dataclass(frozen=True)
class Revocation:
    """That a certificate was revoked, whose it was, and when (seconds since 1970).

    `by_hand`: by the owner on the server, while the config still names the device. It stays out; but only
    when it leaves the config is it the keystore's turn, which then issues anew for that name.
    """

    fingerprint: str
    name: str
    since: int
    by_hand: bool = False

    @property
    def day(self) -> str:
        """The day, in UTC."""
        return f"{datetime.fromtimestamp(self.since, UTC):%Y-%m-%d}"


def united(*many: Iterable[Revocation]) -> dict[str, Revocation]:
    """Every revocation once, by fingerprint: the first that says it, and for good before by hand."""
    known: dict[str, Revocation] = {}
    for each in (each for one in many for each in one):
        there = known.get(each.fingerprint)
        if there is None or (there.by_hand and not each.by_hand):
            known[each.fingerprint] = each
    return known


def revoked_in(folder: Path) -> Mapping[str, str]:
    """The names of what was revoked for good, by fingerprint (SHA-256, lower-case hexadecimal).

    Raises:
        KeystoreError: the file is damaged.
    """
    return {each.fingerprint: each.name for each in revocations_in(folder).values() if not each.by_hand}


def revocations_in(folder: Path) -> dict[str, Revocation]:
    """All that was revoked, by fingerprint.

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
        return {str(each): _revocation(str(each), entry) for each, entry in document["revoked"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeystoreError(f"{path} is damaged. Restore it from a backup.") from error


def _revocation(fingerprint: str, entry: Mapping[str, Any]) -> Revocation:
    since = int(datetime.fromisoformat(entry["at"]).timestamp())
    return Revocation(fingerprint, str(entry["name"]), since, entry.get("byHand") is True)


def note_revoked(folder: Path, name: str, fingerprint: str, now: datetime) -> None:
    """Note that a device's certificate was revoked; a second time changes nothing."""
    note_revocations(folder, [Revocation(fingerprint, name, int(now.timestamp()))])


def note_revocations(folder: Path, more: Iterable[Revocation]) -> None:
    """Note more of them; nothing is ever taken out."""
    known = revocations_in(folder)
    union = united(known.values(), more)
    if union != known:
        document = {"format": _FORMAT, "revoked": {each: _entry(union[each]) for each in union}}
        write_file(folder / REVOKED_LIST, json.dumps(document, indent=2).encode() + b"\n")


def _entry(revocation: Revocation) -> dict[str, str | bool]:
    at = datetime.fromtimestamp(revocation.since, UTC).isoformat(timespec="seconds")
    by_hand: dict[str, str | bool] = {"byHand": True} if revocation.by_hand else {}
    return {"name": revocation.name, "at": at, **by_hand}
