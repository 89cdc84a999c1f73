"""What the server says of its devices, and how the keystore learns what was revoked there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.engine.operator_error import OperatorError
from pki import Keystore, KeystoreError, Revocation


@dataclass(frozen=True)
class DeviceReport:
    """The answer of devices.sh.

    ``enrolled`` gives the name of each certificate's device, ended ones included; ``refused`` are those that
    were to be let in and had been revoked.
    """

    enrolled: Mapping[str, str]
    revoked: tuple[Revocation, ...]
    refused: tuple[str, ...]


def report_of(answer: str) -> DeviceReport:
    """Read the answer; whatever a login script prints before it is passed over.

    Raises ``OperatorError`` when it is none.
    """
    try:
        document = json.loads(answer.strip().rpartition("\n")[2])
        return DeviceReport(
            {str(each["fingerprint"]): str(each["name"]) for each in document["devices"]},
            tuple(_revocation(each) for each in document["revoked"]),
            tuple(str(each) for each in document["refused"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OperatorError(
            "The server's answer about its devices is not JSON; something prints text at login: make the "
            "shell start-up files of the SSH user silent for non-interactive sessions."
        ) from error


def _revocation(document: Mapping[str, Any]) -> Revocation:
    return Revocation(
        document["fingerprint"], document["name"], int(document["since"]), bool(document["byHand"])
    )


def for_good(revocations: Iterable[Revocation], names: Collection[str]) -> list[Revocation]:
    """Return them with those by hand made final whose device the config no longer names."""
    return [replace(each, by_hand=each.by_hand and each.name in names) for each in revocations]


def tell_keystore(props: Mapping[str, Any], revocations: Collection[Revocation]) -> None:
    """Note them down in the keystore, as far as there is one: whoever needs it says what is wrong with it."""
    with contextlib.suppress(KeystoreError):
        note_revocations(props, revocations)


def note_revocations(props: Mapping[str, Any], revocations: Collection[Revocation]) -> None:
    """Note them down in the keystore.

    Raises ``KeystoreError``.
    """
    _keystore(props).note_revocations(revocations)


def known_revocations(props: Mapping[str, Any]) -> dict[str, Revocation]:
    """Return what the keystore knows to be revoked.

    Raises ``KeystoreError``.
    """
    return _keystore(props).revocations()


def _keystore(props: Mapping[str, Any]) -> Keystore:
    return Keystore(Path(props["keystore"]), stack=props["owner"])
