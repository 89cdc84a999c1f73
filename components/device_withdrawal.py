"""The first step of every run: devices no longer named are revoked, whatever fails afterwards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.devices.keystore_location import KeystoreLocation, authorities_in
from components.devices.let_in import stay_arguments
from components.devices.report import for_good, report_of, tell_keystore
from components.engine.operator_error import without_traceback
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider, differs
from components.remote.remote_script import Server, script_digest, script_text
from components.remote.ssh import run_script, tell

LOSES = "loses access for good"
"""What happens to a device that is no longer named, as previews and comments put it."""

STAYS = f"{LOSES} when it is no longer named here"
"""The text next to each name: a preview shows it, with a minus, when the name is removed."""

STAYS_AS_FRAME = f"{STAYS} as a frame"
"""The same for a frame: a device whose name now belongs to a frame is revoked."""

REASONS = ("mayComeIn", "text")
FOUND = "toBeRevoked"
"""Devices, by fingerprint, that are enrolled on the server and must be revoked; empty once they are."""


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        # If the state was lost, the server knows this stack by another id; the server is its own if it has
        # the authority.
        own = authorities_in(Path(props["keystore"])) if props["takeOver"] else ()
        withdraw(props, ",".join(own) or "-")
        return CreateResult("devices", {**props, FOUND: {}})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=differs(_olds, _news, FOUND) or bool(_news.get(FOUND)))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        if _news.get(FOUND) or any(_olds.get(key) != _news.get(key) for key in REASONS):
            withdraw(_news, "-")
        return UpdateResult({**_news, FOUND: {}})


def withdraw(props: dict[str, Any], authorities: str) -> None:
    """Keep only the named devices, and record in the keystore which ones were enrolled.

    The keystore is only written, never consulted: it may be missing, foreign, or encrypted with another
    passphrase.

    Raises ``SshError``, also with the script's own last sentence, and ``OperatorError``.
    """
    server, names = from_props(Server, props), sorted(props["mayComeIn"])
    who = [f"frame={name}" if props["mayComeIn"][name] == STAYS_AS_FRAME else name for name in names]
    line = server.line("stay", authorities, *who, *stay_arguments(props.get(FOUND) or {}))
    report = report_of(run_script(server, line, script_text("devices"), tell=tell))
    tell_keystore(props, for_good(report.revoked, names))


class DeviceWithdrawal(Step, module="immich", name="DeviceWithdrawal"):
    """The names that may stay: as soon as this is created or changed, no device with another name gets in.

    The engine deletes last, and not at all after a failed step. A lost device must therefore not wait for its
    own deletion; every other step waits for this one. ``devices`` lists everybody who may stay; ``frames``
    those of them that have a secret instead of a certificate. ``found`` lists devices that a look at the
    server found enrolled and that must be removed; it is empty if the server could not be read.
    """

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        keystore: KeystoreLocation,
        devices: Sequence[str],
        frames: Collection[str],
        take_over: bool,
        found: pulumi.Output[dict[str, str]],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props: dict[str, pulumi.Input[Any]] = {
            **props_of(server),
            **keystore.props_without_passphrase(),
            "text": script_digest("devices"),
            "takeOver": take_over,
            "mayComeIn": {each: STAYS_AS_FRAME if each in frames else STAYS for each in devices},
            FOUND: found,
        }
        super().__init__(_Provider(), name, props, opts)
