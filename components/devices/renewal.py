"""Renewal, between the configuration, the keystore and the engine.

At every preview and update the program looks at the keystore's certificates and writes each one's next step
into its inputs, in words. So a preview shows `renewal: "due since 2036-10-22"`, and the diff below reports a
change although nothing else differs. When the step runs, the provider decides independently by the same rule.

A run can die after the keystore took a step and before the engine recorded it. So the diff also reads the
certificates' expiry dates. A certificate newer than the one in the state is a change; otherwise the server
would never hear of it. An older one, from a backup, is not. The dates are no input: the first run cannot know
them, so the second would write the state once more for each device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pulumi.dynamic import DiffResult

from components.config.stack_config import ExposureConfig
from components.engine.step import known
from pki import Renewal
from pki.renewal_plan import RenewalPlan, plan_renewals

QUIET = frozenset({"renewal", "renewBeforeDays", "graceDays"})
"""Inputs that say when, not what: a new value for one of them alone changes no certificate."""


def device_renewal(config: ExposureConfig) -> Renewal:
    """When devices are renewed."""
    return Renewal(config.renew_before_days, min(config.grace_days, config.renew_before_days))


def authority_renewal(config: ExposureConfig) -> Renewal:
    """When the next authority takes over: before its devices are due, since no certificate outlives it."""
    days = config.ca.renew_before_days or config.renew_before_days + 1
    return Renewal(min(days, config.ca.validity_days - 1), device_renewal(config).grace_days)


def renewal_plan_of(config: ExposureConfig, now: datetime | None = None) -> RenewalPlan:
    """Look at a configuration's keystore, as of now unless another time is given."""
    return plan_renewals(
        Path(config.keystore),
        [device.name for device in config.devices],
        authority=authority_renewal(config),
        devices=device_renewal(config),
        now=now or datetime.now(UTC),
    )


def was_looked_into(news: Mapping[str, Any]) -> bool:
    """Tell whether the program that wrote these inputs has the keystore (see `KeystoreLocation.read_off`)."""
    return "renewal" in known(news)


def renewing_diff(
    olds: Mapping[str, Any],
    news: Mapping[str, Any],
    *,
    expiries: Callable[[Path], Sequence[str]],
    ignore: Collection[str],
) -> DiffResult:
    """Tell whether there is something to do: a renewal step, or a changed input other than the timing ones.

    `expiries` reads the certificates' expiry dates in a keystore, ISO 8601.
    """
    news = known(news)
    quiet = QUIET.union(ignore)
    if olds.get("previousFingerprint"):
        quiet -= {"graceDays"}  # a running grace period becomes longer or shorter
    given = {key for key, value in news.items() if value is not None}
    differs = any(news[key] != olds.get(key) for key in given - quiet)
    unknown = was_looked_into(news) and _is_news(expiries(Path(news["keystore"])), olds)
    return DiffResult(changes=bool(news.get("renewal")) or differs or unknown)


def _is_news(found: Sequence[str], olds: Mapping[str, Any]) -> bool:
    """Tell whether the keystore has news: a newer certificate, or another number of authorities."""
    if not found or not olds.get("notAfter"):
        return False
    there, noted = (datetime.fromisoformat(moment) for moment in (found[-1], olds["notAfter"]))
    return there > noted or (there == noted and len(found) != len(olds.get("trusted") or found))
