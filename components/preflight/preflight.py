"""Step 0: look at the server before anything is changed on it, and say everything that is in the way."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ResourceProvider, UpdateResult

from components.config.home import ModuleWay
from components.config.stack_config import ExposureConfig
from components.devices.keystore_location import KeystoreLocation, authorities_in
from components.engine.operator_error import OperatorError, without_traceback
from components.engine.server_words import plain_facts
from components.engine.step import Step, known
from components.preflight.list_sources import Look, look_at_lists
from components.preflight.rules import (
    Expected,
    ExpectedUploads,
    key_notes,
    node_key_end,
    notes,
    problems,
    warnings,
)
from components.remote.module_files import module_digest
from components.remote.remote_script import Server, script_text
from components.remote.server_name import domain_of
from components.remote.server_props import server_of, server_props
from components.remote.ssh import run_script
from pki.renewal_plan import RenewalPlan

OUTPUTS = ("domain", "tailscaleVersion", "warnings", "notes", "nodeKeyEnds")


class PreflightError(OperatorError):
    """The server is not ready; the message lists every reason with its remedy."""


class _Provider(ResourceProvider):
    serialize_as_secret_always = False  # it captures nothing

    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("preflight", examine(props))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # What is not set is missing on either side. That nothing is due any more is no reason to look.
        inputs = {*_olds, *_news}.difference(OUTPUTS, ["renewals"])
        changed = any(_olds.get(key) != _news.get(key) for key in inputs)
        # What was not as it should be is looked at again.
        soon = key_notes(_olds.get("nodeKeyEnds"), datetime.now(UTC))
        reasons = (changed, known(_news).get("renewals"), _olds.get("warnings"), soon)
        return DiffResult(changes=any(reasons))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        refuse_moving(_olds, _news)
        return UpdateResult(examine(_news))


def refuse_moving(olds: dict[str, Any], news: dict[str, Any]) -> None:
    """Refuse to go on elsewhere with an exposure that stands.

    No command is ever replaced, so what is left behind would stay open, and no run would know of it any more.
    A new address of the same machine (its host key tells) and a machine that was set up anew are fine.

    Raises ``PreflightError`` for another server, another ``configDir`` or another way in for the module.
    """
    if olds["host"] != news["host"] and olds["hostKey"] != news["hostKey"]:
        raise PreflightError(
            f"Immich is exposed on {olds['host']}, which would stay open if {news['host']} took its place; "
            "run pulumi destroy first, which still goes to the old server. If that one is gone for good, "
            "forget it with pulumi state delete --all; the keystore stays."
        )
    if olds["module"] != news["module"]:
        raise PreflightError(
            f"Immich is exposed with module: {olds['module']}, and nothing would take that back once it is "
            f"{news['module']}; run pulumi destroy first, then pulumi up."
        )
    if olds["module"] == ModuleWay.MANAGED and olds["configDir"] != news["configDir"]:
        raise PreflightError(
            f"The configuration in {olds['configDir']} exposes Immich, and nothing would restore it once "
            f"configDir is {news['configDir']}; run pulumi destroy first."
        )


def examine(props: dict[str, Any]) -> dict[str, Any]:
    """Gather the facts, judge them, and return the outputs of the resource.

    Raises ``SshError`` when the server cannot be asked and ``PreflightError`` when it is not ready.
    """
    expected = expected_of(props)
    facts = _facts(server_of(props), expected)
    lists = _look_at_lists(props)
    found = [*problems(facts, expected), *lists.wrong]
    if found:
        raise PreflightError(
            "\n".join(["The server is not ready to be exposed:", *(f"- {p}" for p in found)])
        )
    return {
        **props,
        "domain": domain_of(facts["tailscale"]["CertDomains"][0]),
        "tailscaleVersion": facts["tailscaleVersion"],
        "warnings": [*warnings(facts, expected), *lists.notes],
        "notes": notes(facts),
        "nodeKeyEnds": node_key_end(facts),
    }


def _look_at_lists(props: dict[str, Any]) -> Look:
    """Ask for the sources of lists, where there are any; a list that would ban nobody is in the way."""
    lines = props.get("banLists")
    return look_at_lists(server_of(props), lines, props.get("crowdsecKey")) if lines else Look([], [])


def expected_of(props: dict[str, Any]) -> Expected:
    """Return what the facts are held against; numbers come back from the engine as floats."""
    return Expected(
        config_dir=props["configDir"],
        module=ModuleWay(props["module"]),
        flake_dir=props.get("flakeDir"),
        flake_host=props.get("flakeHost"),
        module_digest=props.get("moduleDigest"),
        immich_address=props.get("immichAddress"),
        immich_port=int(props["immichPort"]),
        immich_managed=props["immichManaged"],
        lan=props["lan"],
        proxy_port=int(props["proxyPort"]),
        funnel_port=int(props["funnelPort"]),
        authorities=authorities_in(Path(props["keystore"])),
        take_over=props["takeOver"],
        adopt=bool(props.get("adopt")),
        stack_id=props.get("stackId"),
        allow_upgrade=props["allowUpgrade"],
        uploads=_uploads_of(props.get("uploads")),
    )


def _uploads_of(props: dict[str, Any] | None) -> ExpectedUploads | None:
    if not props:
        return None
    return ExpectedUploads(props.get("folder"), int(props["freeGigabytes"]), int(props["megabytesPerHour"]))


def _facts(server: Server, expected: Expected) -> dict[str, Any]:
    command = server.line(
        "facts",
        expected.module if expected.flake_dir is None else "flake",
        expected.config_dir,
        expected.flake_dir or "-",
        expected.flake_host or "-",
        expected.immich_address or "-",
        expected.immich_port,
        expected.proxy_port,
        *([expected.uploads.folder or "-"] if expected.uploads else []),
    )
    before = time.time()
    answer = run_script(server, command, script_text("preflight"))
    after = time.time()
    try:
        facts = plain_facts(json.loads(answer))
    except (ValueError, RecursionError) as error:
        raise PreflightError(
            "The server's answer to the preflight is not JSON; something prints text at login: make the "
            "shell start-up files of the SSH user silent for non-interactive sessions."
        ) from error
    if not isinstance(facts, dict):
        raise PreflightError("The server's answer to the preflight is not a JSON object; run it again.")
    return {**facts, "clockApart": clock_apart(facts.get("clock"), before, after)}


def clock_apart(clock: object, before: float, after: float) -> float:
    """Return how many seconds a clock is ahead of this machine's, at least; 0 when it may be right.

    It was read at some moment between ``before`` and ``after``, cut off to a whole second.
    """
    if not isinstance(clock, int | float):
        return 0.0
    return clock - after if clock > after else min(0.0, clock + 1 - before)


class Preflight(Step, module="immich", name="Preflight"):
    """Reads the server, never writes, and fails with every problem at once.

    It runs when the exposure is created and again whenever the connection, the ports or the way in change,
    when a certificate is due (a clock that is years ahead would have all renewed), or when something was
    worth a warning. ``told`` is what whoever has just looked has told already.
    """

    domain: pulumi.Output[str]
    """The node's public name, for example ``immich.tail1234.ts.net``."""
    tailscaleVersion: pulumi.Output[str]
    warnings: pulumi.Output[list[str]]
    notes: pulumi.Output[list[str]]
    nodeKeyEnds: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        config: ExposureConfig,
        keystore: KeystoreLocation,
        renewal_plan: RenewalPlan,
        told: pulumi.Output[list[str]],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {
            **server_props(server),
            **expected_props(config),
            **keystore.read_off({"renewals": _renewals(renewal_plan)}),
        }
        super().__init__(_Provider(), name, {**props, **dict.fromkeys(OUTPUTS)}, opts)
        self.warnings.apply(_warn)
        # They stand in the state, for a preview that does not look; who has looked has told them.
        keys = self.nodeKeyEnds.apply(lambda ends: key_notes(ends, datetime.now(UTC)))
        for notes_known in (self.notes, keys):
            pulumi.Output.all(notes=notes_known, told=told).apply(
                lambda both: _warn([note for note in both["notes"] or () if note not in both["told"]])
            )


def expected_props(config: ExposureConfig) -> dict[str, pulumi.Input[Any]]:
    """Return the properties that ``expected_of`` reads."""
    # Whoever has the module in a repository of their own must have this version of it.
    theirs = config.module is ModuleWay.YOURS and config.flake is None
    return {
        "configDir": config.config_dir,
        "module": config.module,
        "flakeDir": config.flake.directory if config.flake else None,
        "flakeHost": config.flake.host if config.flake else None,
        "moduleDigest": module_digest() if theirs else None,
        "immichAddress": config.immich.address,
        "immichPort": config.immich.port,
        "immichManaged": config.immich.managed,
        "lan": config.lan,
        "proxyPort": config.proxy_port,
        "funnelPort": config.funnel_port,
        "keystore": config.keystore,
        "takeOver": config.take_over,
        "adopt": config.adopt is not None,
        "allowUpgrade": config.allow_upgrade,
        "banLists": config.ban_lists.lines() if config.ban_lists else None,
        "crowdsecKey": config.crowdsec_key,
        "uploads": _uploads(config),
    }


def expected_uploads(config: ExposureConfig) -> ExpectedUploads | None:
    """Return what the disk is held against; None where guests upload nothing."""
    return _uploads_of(_uploads(config))


def _uploads(config: ExposureConfig) -> dict[str, Any] | None:
    """Return the same as properties."""
    limits = config.upload_limits
    if not config.uploads:
        return None
    return {
        "folder": limits.folder,
        "freeGigabytes": limits.free_gigabytes,
        "megabytesPerHour": limits.megabytes,
    }


def _renewals(renewal_plan: RenewalPlan) -> list[str]:
    """Return whose certificate is due; by whose clock, the preflight asks."""
    due = [name for name, step in sorted(renewal_plan.devices_due.items()) if step]
    return [*(["the authority"] if renewal_plan.authority_due else []), *due]


def _warn(sentences: list[str] | None) -> None:
    for sentence in sentences or ():
        pulumi.warn(sentence)
