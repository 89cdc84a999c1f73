"""Renewal, between the configuration, the keystore and the engine.

The program looks at the keystore's certificates at every preview and update and writes the next step of each
into its inputs as words. So a preview shows `renewal: "due since 2036-10-22"`, and the diff below counts a
change although nothing else differs. The provider decides by the same rule, and by itself, when it takes the
step.

A run can die after the keystore took a step and before the engine noted it down. So the program writes as
well until when what it found is valid: what is newer there than in the state is a change, or the server would
never hear of it. What is older, from a backup, is none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import DiffResult

from components.config.stack_config import ExposureConfig
from components.engine.step import known
from pki import Renewal
from pki.renewal_plan import RenewalPlan, plan_renewals

QUIET = frozenset({"renewal", "renewBeforeDays", "graceDays", "found"})
"""Inputs that say when, not what: another value of theirs alone changes no certificate."""


def device_renewal(config: ExposureConfig) -> Renewal:
    """When devices are renewed."""
    return Renewal(config.renew_before_days, min(config.grace_days, config.renew_before_days))


def authority_renewal(config: ExposureConfig) -> Renewal:
    """When the next authority takes over: before its devices are due, whose certificates end no later."""
    days = config.ca.renew_before_days or config.renew_before_days + 1
    return Renewal(min(days, config.ca.validity_days - 1), device_renewal(config).grace_days)


def renewal_plan_of(config: ExposureConfig, now: datetime | None = None) -> RenewalPlan:
    """Look at the keystore of a configuration, now unless a moment is given."""
    return plan_renewals(
        Path(config.keystore),
        [device.name for device in config.devices],
        authority=authority_renewal(config),
        devices=device_renewal(config),
        now=now or datetime.now(UTC),
    )


def renewal_props(renewal: Renewal) -> dict[str, pulumi.Input[Any]]:
    """Return the inputs that `renewal_of` reads."""
    return {"renewBeforeDays": renewal.before_days, "graceDays": renewal.grace_days}


def due_props(step: str, found: Sequence[str]) -> dict[str, pulumi.Input[Any]]:
    """Return the inputs that `renewing_diff` reads as well.

    `step` is empty when nothing is due; `found` are the ends of what is in the keystore, ISO 8601.
    """
    return {"renewal": step, "found": list(found)}


def renewal_of(props: Mapping[str, Any]) -> Renewal:
    """Return the renewal that `renewal_props` wrote."""
    return Renewal(int(props["renewBeforeDays"]), int(props["graceDays"]))


def renewing_diff(
    olds: Mapping[str, Any],
    news: Mapping[str, Any],
    *,
    ignore: Collection[str],
    outputs: Collection[str] = (),
) -> DiffResult:
    """Tell whether there is something to do: a step, or another input than those that say when.

    `outputs` that the state does not have are one reason more: an older version of this program made it.
    """
    news = known(news)
    quiet = QUIET.union(ignore)
    if olds.get("previousFingerprint"):
        quiet -= {"graceDays"}  # a grace that is running becomes longer or shorter
    given = {key for key, value in news.items() if value is not None}
    differs = any(news[key] != olds.get(key) for key in given - quiet)
    lacks = any(name not in olds for name in outputs)
    unknown = _is_news(news.get("found") or (), olds)
    return DiffResult(changes=bool(news.get("renewal")) or differs or lacks or unknown)


def _is_news(found: Sequence[str], olds: Mapping[str, Any]) -> bool:
    """Tell whether the keystore has what the state does not know of: a newer one, or one authority less."""
    if not found or not olds.get("notAfter"):
        return False
    there, noted = (datetime.fromisoformat(moment) for moment in (found[-1], olds["notAfter"]))
    return there > noted or (there == noted and len(found) != len(olds.get("trusted") or found))
