"""Step 8: the install sheets, each next to its device's bundle: instructions for the device's owner."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, UpdateResult

from components.client_certificate import ClientCertificate
from components.devices.keystore_location import KeystoreLocation
from components.engine.operator_error import without_traceback
from components.engine.step import Step, StepProvider
from handover.sheet import SheetContent, remove_sheet, sheet_path, wording_digest, write_sheet
from pki import KeystoreError, Platform

DELETE_WAIT_SECONDS = 2.0
"""How long removing the sheets waits for another run that is using the keystore."""


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        _write(props, but=())
        return CreateResult("sheets", props)

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        # The sheet of a removed device was deleted with its certificate.
        rewritten = any(_olds.get(key) != _news[key] for key in ("keystore", "wording"))
        _write(_news, but=() if rewritten else list(_contents(_olds)))
        return UpdateResult(_news)

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Remove the sheets if that is possible now; after a destroy, the next up writes them again.

        This must not fail: a leftover sheet does no harm, but a destroy stopped by one would.
        """
        with suppress(KeystoreError):
            for device in _props["sheets"]:
                remove_sheet(Path(_props["keystore"]), device, lock_wait_seconds=DELETE_WAIT_SECONDS)


def _write(props: dict[str, Any], *, but: Collection[SheetContent]) -> None:
    """Write each sheet, unless its content is among `but` and its file exists."""
    keystore = Path(props["keystore"])
    for content in _contents(props):
        if content not in but or not sheet_path(keystore, content.device).exists():
            write_sheet(keystore, content)


def _contents(props: dict[str, Any]) -> Iterator[SheetContent]:
    for device, sheet in props["sheets"].items():
        yield SheetContent(
            device=device,
            platform=Platform(sheet["platform"]),
            url=props["url"],
            fingerprint=sheet["fingerprint"],
            not_after=datetime.fromisoformat(sheet["notAfter"]),
            stack=props["stack"],
            previous_until=_moment(sheet["previousUntil"]),
        )


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


class InstallSheets(Step, module="immich", name="InstallSheets"):
    """The pages that tell each device's owner what to do. They contain no secret.

    One resource for all of them: the engine writes its whole state before and after each one.
    """

    def __init__(
        self,
        name: str,
        *,
        keystore: KeystoreLocation,
        platforms: Mapping[str, Platform],
        certificates: Mapping[str, ClientCertificate],
        url: pulumi.Output[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        self._keystore = Path(keystore.path)
        props: dict[str, pulumi.Input[Any]] = {
            **keystore.props_without_passphrase(),
            "url": url,
            # Keyed by name, so that a preview shows whose sheet changes.
            "sheets": {
                device: _sheet(platforms[device], certificate) for device, certificate in certificates.items()
            },
            # A change of the wording must rewrite the sheets.
            "wording": wording_digest(),
        }
        super().__init__(_Provider(), name, props, opts)

    def path(self, device: str) -> str:
        """Return the path of a device's HTML file."""
        return str(sheet_path(self._keystore, device))


def _sheet(platform: Platform, certificate: ClientCertificate) -> dict[str, pulumi.Input[str]]:
    return {
        "platform": platform,
        "fingerprint": certificate.fingerprint,
        "notAfter": certificate.not_after,
        "previousUntil": certificate.previous_until,
    }
