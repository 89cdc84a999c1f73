"""Step 8: one install sheet per device, next to its bundle: instructions for the device's owner."""

from __future__ import annotations

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
from handover.sheet import SheetContent, remove_sheet, sheet_digest, write_sheet
from pki import KeystoreError, Platform

DELETE_WAIT_SECONDS = 2.0
"""How long removing a sheet waits for another run that is using the keystore."""


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["device"], _write(props))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_write(_news))

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Remove the sheet if that is possible now; after a destroy, the next up writes it again.

        This must not fail: a leftover sheet does no harm, but a destroy stopped by one would.
        """
        with suppress(KeystoreError):
            remove_sheet(Path(_props["keystore"]), _props["device"], lock_wait_seconds=DELETE_WAIT_SECONDS)


def _write(props: dict[str, Any]) -> dict[str, Any]:
    return {**props, "path": str(write_sheet(Path(props["keystore"]), _content(props)))}


def _content(props: dict[str, Any]) -> SheetContent:
    return SheetContent(
        device=props["device"],
        platform=Platform(props["platform"]),
        url=props["url"],
        fingerprint=props["fingerprint"],
        not_after=datetime.fromisoformat(props["notAfter"]),
        stack=props["stack"],
        previous_until=_moment(props["previousUntil"]),
    )


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


class InstallSheet(Step, module="immich", name="InstallSheet"):
    """The page that tells a device's owner what to do. It contains no secret."""

    path: pulumi.Output[str]
    """The path of the HTML file."""

    def __init__(
        self,
        name: str,
        *,
        keystore: KeystoreLocation,
        device: str,
        platform: Platform,
        certificate: ClientCertificate,
        url: pulumi.Output[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        content = {
            **keystore.props_without_passphrase(),
            "device": device,
            "platform": platform,
            "url": url,
            "fingerprint": certificate.fingerprint,
            "notAfter": certificate.not_after,
            "previousUntil": certificate.previous_until,
        }
        # The digest makes a change of the sheet's wording a change of the sheet.
        digest = pulumi.Output.all(**content).apply(lambda props: sheet_digest(_content(props)))
        super().__init__(_Provider(), name, {**content, "digest": digest, "path": None}, opts)
