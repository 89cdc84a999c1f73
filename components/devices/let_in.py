"""Who is let in on the server, held against the config and the keystore.

What the server has noted down lies beside its devices. Restored from a backup, or met by a state that was,
both are as they were once, and differ in nothing: a phone that has been revoked since is let in again, and
one that came since is not. The config and the keystore know better.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Authorized:
    """Who may be in: the ``names`` of the config, and what the keystore knows, as far as it is here.

    That is each device's certificate (``current``, by name), and what was revoked (by fingerprint; true for
    what was revoked by the owner's hand).
    """

    names: Collection[str] = ()
    current: Mapping[str, str] = field(default_factory=dict)
    revoked: Mapping[str, bool] = field(default_factory=dict)


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What the server says of a file that somebody put there by hand may be anything."""

NOT_NAMED = "is let in on the server; the config does not name it"
REVOKED = "is let in on the server; it was revoked"
REVOKED_BY_HAND = "is let in on the server; it was revoked there by hand"


def not_to_be_in(devices: Sequence[str], authorized: Authorized) -> dict[str, str]:
    """Return whom the server must let in no more, in words by fingerprint.

    ``devices`` are those whom it lets in, as `FINGERPRINT NAME`.
    """
    return {
        fingerprint: f"{name if NAME.fullmatch(name) else 'A device'} {why}"
        for fingerprint, name in _split(devices)
        if (why := _why(fingerprint, name, authorized))
    }


def _why(fingerprint: str, name: str, authorized: Authorized) -> str | None:
    if fingerprint in authorized.revoked:
        return REVOKED_BY_HAND if authorized.revoked[fingerprint] else REVOKED
    return None if name in authorized.names else NOT_NAMED


def words_of_stay(found: Mapping[str, str]) -> list[str]:
    """Return what `devices.sh stay` is told of what `not_to_be_in` found; of a name it needs no word."""
    by_hand = [f"by-hand={each}" for each, words in found.items() if words.endswith(REVOKED_BY_HAND)]
    return [*by_hand, *(f"revoked={each}" for each, words in found.items() if words.endswith(REVOKED))]


def not_let_in(devices: Sequence[str], revoked: Collection[str], authorized: Authorized) -> list[str]:
    """Return a sentence where the server lacks devices' present certificates, which nobody has revoked."""
    there = {fingerprint for fingerprint, _ in _split(devices)}.union(revoked, authorized.revoked)
    lacking = [name for name, fingerprint in sorted(authorized.current.items()) if fingerprint not in there]
    if not lacking:
        return []
    return [f"The server does not let in the present certificate of {', '.join(lacking)}; up lets it in."]


def _split(devices: Sequence[str]) -> list[tuple[str, str]]:
    parts = (line.partition(" ") for line in devices)
    return [(fingerprint, name) for fingerprint, _, name in parts]
