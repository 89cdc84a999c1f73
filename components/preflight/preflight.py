"""Step 0: read the server before anything is changed on it, and report everything that is in the way."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.config.home import ModuleWay
from components.config.stack_config import ExposureConfig
from components.devices.keystore_location import KeystoreLocation, authorities_in
from components.engine.operator_error import OperatorError, without_traceback
from components.engine.props import from_props, props_of
from components.engine.server_words import TALKATIVE_LOGIN, plain_facts
from components.engine.step import Step, StepProvider, differs, known, warn_each
from components.preflight.list_sources import Look, look_at_lists
from components.preflight.rules import (
    Configured,
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
from components.remote.ssh import run_script
from pki.renewal_plan import RenewalPlan

OUTPUTS = ("domain", "warnings", "notes", "nodeKeyEnds")


class PreflightError(OperatorError):
    """The server is not ready; the message lists every reason with its remedy."""


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("preflight", examine(props))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # A certificate that is no longer due is no reason to run.
        changed = differs(_olds, _news, *OUTPUTS, "renewals")
        # Earlier warnings are checked again.
        soon = key_notes(_olds.get("nodeKeyEnds"), datetime.now(UTC))
        reasons = (changed, known(_news).get("renewals"), _olds.get("warnings"), soon)
        return DiffResult(changes=any(reasons))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        refuse_moving(_olds, _news)
        return UpdateResult(examine(_news, exposed=True))


def refuse_moving(olds: dict[str, Any], news: dict[str, Any]) -> None:
    """Refuse to continue an existing exposure on another server or in another way.

    No command is ever replaced, so what is left behind would stay open, and no later run would know of it. A
    new address of the same machine (shown by its host key) and a reinstalled machine are fine.

    Raises ``PreflightError`` for another server, another ``configDir`` or another ``module``.
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


def examine(props: dict[str, Any], *, exposed: bool = False) -> dict[str, Any]:
    """Gather the facts, judge them, and return the outputs of the resource.

    `exposed` says that this stack has been on the server before.

    Raises ``SshError`` if the server cannot be reached and ``PreflightError`` if it is not ready.
    """
    expected = _expected(props, exposed=exposed)
    facts = _facts(from_props(Server, props), expected)
    lists = _look_at_lists(props)
    found = [*problems(facts, expected), *lists.wrong]
    if found:
        raise PreflightError(
            "\n".join(["The server is not ready to be exposed:", *(f"- {p}" for p in found)])
        )
    return {
        **props,
        "domain": domain_of(facts["tailscale"]["domain"]),
        "warnings": [*warnings(facts, expected), *lists.notes],
        "notes": notes(facts),
        "nodeKeyEnds": node_key_end(facts),
    }


def _look_at_lists(props: dict[str, Any]) -> Look:
    """Check the sources of ban lists, if any; a list that would ban nobody is a problem."""
    lines, server = props.get("banLists"), from_props(Server, props)
    return look_at_lists(server, lines, props.get("crowdsecKey")) if lines else Look([], [])


def _expected(props: Mapping[str, Any], *, exposed: bool) -> Expected:
    """Return the values the facts are compared with."""
    authorities = authorities_in(Path(props["keystore"]))
    return from_props(Expected, {**props, "authorities": authorities, "exposed": exposed})


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
        expected.funnel_port,
        *([expected.uploads.folder or "-"] if expected.uploads else []),
    )
    before = time.time()
    answer = run_script(server, command, script_text("preflight"))
    after = time.time()
    try:
        facts = plain_facts(json.loads(answer))
    except (ValueError, RecursionError) as error:
        raise PreflightError(
            f"The server's answer to the preflight is not JSON; {TALKATIVE_LOGIN}"
        ) from error
    if not isinstance(facts, dict):
        raise PreflightError("The server's answer to the preflight is not a JSON object; run it again.")
    return {**facts, "clockApart": clock_apart(facts.get("clock"), before, after)}


def clock_apart(clock: object, before: float, after: float) -> float:
    """Return by how many seconds, at least, a clock is ahead of this machine's; 0 if it may be right.

    It was read at some moment between ``before`` and ``after``, truncated to a whole second.
    """
    if not isinstance(clock, int | float):
        return 0.0
    return clock - after if clock > after else min(0.0, clock + 1 - before)


class Preflight(Step, module="immich", name="Preflight"):
    """Reads the server, never writes, and fails with all problems at once.

    It runs when the exposure is created, and again if the connection, the ports or the way the module gets in
    change, if a certificate is due (a clock years ahead would renew all of them), or if there was a warning.
    ``already_given`` holds the notes that this run has already warned of.
    """

    domain: pulumi.Output[str]
    """The node's public name, for example ``immich.tail1234.ts.net``."""
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
        already_given: pulumi.Output[list[str]],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {
            **props_of(server),
            **props_of(configured(config)),
            "keystore": config.keystore,
            "banLists": config.ban_lists.lines() if config.ban_lists else None,
            "crowdsecKey": config.crowdsec_key,
            **keystore.read_off({"renewals": _renewals(renewal_plan)}),
        }
        super().__init__(_Provider(), name, {**props, **dict.fromkeys(OUTPUTS)}, opts)
        self.warnings.apply(warn_each)
        # A preview that cannot reach the server warns of the notes in the state. One that can has already
        # given its own.
        keys = self.nodeKeyEnds.apply(lambda ends: key_notes(ends, datetime.now(UTC)))
        for notes_known in (self.notes, keys):
            pulumi.Output.all(notes=notes_known, given=already_given).apply(
                lambda both: warn_each([note for note in both["notes"] or () if note not in both["given"]])
            )


def configured(config: ExposureConfig) -> Configured:
    """Return what a configuration expects of the server."""
    # If the module is in the owner's repository, it must be this version.
    theirs = config.module is ModuleWay.YOURS
    return Configured(
        config_dir=config.config_dir,
        module=config.module,
        flake_dir=config.flake.directory if config.flake else None,
        flake_host=config.flake.host if config.flake else None,
        module_digest=module_digest() if theirs else None,
        immich_address=config.immich.address,
        immich_port=config.immich.port,
        immich_managed=config.immich.managed,
        lan=config.lan,
        proxy_port=config.proxy_port,
        funnel_port=config.funnel_port,
        take_over=config.take_over,
        adopt=config.adopt is not None,
        allow_upgrade=config.allow_upgrade,
        uploads=expected_uploads(config),
    )


def expected_uploads(config: ExposureConfig) -> ExpectedUploads | None:
    """Return the limits the disk is checked against; None if guests cannot upload."""
    limits = config.upload_limits
    if not config.uploads:
        return None
    return ExpectedUploads(limits.folder, limits.free_gigabytes, limits.megabytes)


def _renewals(renewal_plan: RenewalPlan) -> list[str]:
    """Return whose certificate is due; preflight then checks the clock it is due by."""
    due = [name for name, step in sorted(renewal_plan.devices_due.items()) if step]
    return [*(["the authority"] if renewal_plan.authority_due else []), *due]
