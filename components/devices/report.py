"""What the server says about its devices, and how the keystore learns what was revoked there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from components.devices.keystore_location import keystore_of
from components.engine.operator_error import OperatorError
from components.engine.props import from_props
from components.engine.server_words import TALKATIVE_LOGIN
from pki import KeystoreError, Revocation


@dataclass(frozen=True)
class DeviceReport:
    """The answer of devices.sh.

    ``enrolled`` maps each certificate to its device's name, expired ones included; ``refused`` lists those
    that were to be enrolled but had been revoked.
    """

    enrolled: Mapping[str, str]
    revoked: tuple[Revocation, ...]
    refused: tuple[str, ...]


def report_of(answer: str) -> DeviceReport:
    """Read the answer; text printed before it by a login script is skipped.

    Raises ``OperatorError`` if it cannot be read.
    """
    try:
        document = json.loads(answer.strip().rpartition("\n")[2])
        return DeviceReport(
            {str(each["fingerprint"]): str(each["name"]) for each in document["devices"]},
            tuple(from_props(Revocation, each) for each in document["revoked"]),
            tuple(str(each) for each in document["refused"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OperatorError(
            f"The server's answer about its devices is not JSON; {TALKATIVE_LOGIN}"
        ) from error


def for_good(revocations: Iterable[Revocation], names: Collection[str]) -> list[Revocation]:
    """Return the revocations; manual ones become final if the config no longer names the device."""
    return [replace(each, by_hand=each.by_hand and each.name in names) for each in revocations]


def tell_keystore(props: Mapping[str, Any], revocations: Collection[Revocation]) -> None:
    """Record revocations in the keystore if possible; the steps that need it report its problems."""
    with contextlib.suppress(KeystoreError):
        note_revocations(props, revocations)


def note_revocations(props: Mapping[str, Any], revocations: Collection[Revocation]) -> None:
    """Record revocations in the keystore.

    Raises ``KeystoreError``.
    """
    keystore_of(props).note_revocations(revocations)


def known_revocations(props: Mapping[str, Any]) -> dict[str, Revocation]:
    """Return the revocations in the keystore.

    Raises ``KeystoreError``.
    """
    return keystore_of(props).revocations()
