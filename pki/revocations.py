"""`revoked.json`: every certificate that was ever revoked, by its fingerprint.

The files of a revoked device are in `revoked/`, and somebody may move them. What is recorded here stays
revoked wherever its files are. That includes certificates that the keystore never had: of devices that were
taken over, or issued after a backup was made. A backup from before the revocation does not know of it:
`import` says which certificates it brings into use, and the server relies on its own list.

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
    """A revoked certificate: its device, and when it was revoked (seconds since 1970).

    `by_hand`: the owner revoked it on the server, while the config still names the device. It stays revoked,
    but the keystore issues a new certificate for that name only once the device has left the config.
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
    """Every revocation once, by fingerprint: the first one, but a final one before one by hand."""
    known: dict[str, Revocation] = {}
    for each in (each for one in many for each in one):
        there = known.get(each.fingerprint)
        if there is None or (there.by_hand and not each.by_hand):
            known[each.fingerprint] = each
    return known


def revoked_in(folder: Path) -> Mapping[str, str]:
    """The names of devices that were revoked for good, by fingerprint (SHA-256, lower-case hexadecimal).

    Raises:
        KeystoreError: the file is damaged.
    """
    return {each.fingerprint: each.name for each in revocations_in(folder).values() if not each.by_hand}


def revocations_in(folder: Path) -> dict[str, Revocation]:
    """All revocations, by fingerprint.

    Raises:
        KeystoreError: the file is damaged.
    """
    path = folder / REVOKED_LIST
    content = read_file(path)
    if content is None:
        return {}
    try:
        document = read_document(content, _FORMAT)
        return {str(each): _revocation(str(each), entry) for each, entry in document["revoked"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeystoreError(f"{path} is damaged. Restore it from a backup.") from error


def _revocation(fingerprint: str, entry: Mapping[str, Any]) -> Revocation:
    since = int(datetime.fromisoformat(entry["at"]).timestamp())
    return Revocation(fingerprint, str(entry["name"]), since, entry.get("byHand") is True)


def note_revoked(folder: Path, name: str, fingerprint: str, now: datetime) -> None:
    """Record that a device's certificate was revoked; repeating it changes nothing."""
    note_revocations(folder, [Revocation(fingerprint, name, int(now.timestamp()))])


def note_revocations(folder: Path, more: Iterable[Revocation]) -> None:
    """Record more of them; none is ever removed."""
    known = revocations_in(folder)
    union = united(known.values(), more)
    if union != known:
        document = {"format": _FORMAT, "revoked": {each: _entry(union[each]) for each in union}}
        write_file(folder / REVOKED_LIST, json.dumps(document, indent=2).encode() + b"\n")


def _entry(revocation: Revocation) -> dict[str, str | bool]:
    at = datetime.fromtimestamp(revocation.since, UTC).isoformat(timespec="seconds")
    by_hand: dict[str, str | bool] = {"byHand": True} if revocation.by_hand else {}
    return {"name": revocation.name, "at": at, **by_hand}
