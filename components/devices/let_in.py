"""Who is enrolled on the server, compared with the config and the keystore.

The server's own record is next to its devices. If the server is restored from a backup, or compared with an
old state, record and devices are equally old and agree: a phone revoked since then is enrolled again, and a
newer one is not. Only the config and the keystore reveal that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pki import Revocation


@dataclass(frozen=True)
class Authorized:
    """Who may be enrolled: the config's ``names``, and what the keystore knows, if it is on this machine.

    That is each device's certificate (``current``, by name), and what was revoked (by fingerprint; true if
    the owner revoked it on the server).
    """

    names: Collection[str] = ()
    current: Mapping[str, str] = field(default_factory=dict)
    revoked: Mapping[str, bool] = field(default_factory=dict)


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The name in a file that somebody put on the server by hand may be anything."""

NOT_NAMED = "is enrolled on the server, but the config does not name it"
REVOKED = "is enrolled on the server, but was revoked"
REVOKED_BY_HAND = "is enrolled on the server, but was revoked there by hand"


def wrongly_enrolled(devices: Sequence[str], authorized: Authorized) -> dict[str, str]:
    """Return, in words by fingerprint, the devices that must not be enrolled any more.

    ``devices`` lists the enrolled ones, as `FINGERPRINT NAME`.
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


def stay_arguments(found: Mapping[str, str]) -> list[str]:
    """Return arguments of `devices.sh stay` for the result of `wrongly_enrolled`; a name alone needs none."""
    by_hand = [f"by-hand={each}" for each, words in found.items() if words.endswith(REVOKED_BY_HAND)]
    return [*by_hand, *(f"revoked={each}" for each, words in found.items() if words.endswith(REVOKED))]


def missing_devices(devices: Sequence[str], revoked: Collection[str], authorized: Authorized) -> list[str]:
    """Return a sentence if the server lacks present certificates of devices, unless they were revoked."""
    there = {fingerprint for fingerprint, _ in _split(devices)}.union(revoked, authorized.revoked)
    lacking = [name for name, fingerprint in sorted(authorized.current.items()) if fingerprint not in there]
    if not lacking:
        return []
    return [f"The server has not enrolled the present certificate of {', '.join(lacking)}; up enrols it."]


def revoked_but_named(
    revoked: Sequence[Revocation], devices: Sequence[str], authorized: Authorized
) -> list[str]:
    """Return a sentence for each device that the config names and the owner has revoked on the server.

    One that left the config in the meantime is revoked for good; the keystore says so, not the server.
    """
    enrolled = {name for _, name in _split(devices)}
    out = set(authorized.names) - enrolled
    latest = {each.name: each for each in sorted(revoked, key=lambda each: each.since) if each.name in out}
    return [
        revocation_sentence(each)
        for each in latest.values()
        if authorized.revoked.get(each.fingerprint, True)
    ]


def revocation_sentence(revocation: Revocation) -> str:
    """Return the sentence about a device that the config still names."""
    return (
        f"{revocation.name} was revoked on the server on {revocation.day} and stays revoked. Set "
        "`revoked: true` for it in the config, or remove it there; if it is named again after that "
        "`pulumi up`, it gets in with a new certificate or secret."
    )


def _split(devices: Sequence[str]) -> list[tuple[str, str]]:
    parts = (line.partition(" ") for line in devices)
    return [(fingerprint, name) for fingerprint, _, name in parts]
