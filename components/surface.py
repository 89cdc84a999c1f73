"""What an exposure makes public, in words: for the preview, the outputs and the person who reads them.

A mapping of short lines, because that is what ``pulumi preview`` shows well: it cuts long texts, and with
fixed keys a reviewer sees the one line that changes.
"""

from __future__ import annotations

from components.config import ExposureConfig
from components.surface_table import SETTING_OF_ITS_OWN, load

Words = dict[str, list[str]]


def what_becomes_public(config: ExposureConfig) -> Words:
    """Return, by topic, who can reach what, within which limits and for how long."""
    can, cannot = _links(config)
    return {
        "the name": [
            f"port {config.funnel_port} of the node's name answers anyone on the internet",
            "the name becomes public through certificate transparency logs",
        ],
        "whoever has a shared link can": can,
        "whoever has only a shared link cannot": cannot,
        "everything else": [_strangers(config)],
        "full access, with a certificate": [f"{device.name} ({device.platform})" for device in config.devices]
        or ["nobody"],
        "limits of one address": _limits(config),
        "until": [_until(config)],
    }


def _links(config: ExposureConfig) -> tuple[list[str], list[str]]:
    """Return what a link lets people do, and what is switched off."""
    on = {SETTING_OF_ITS_OWN: config.uploads, **config.features}
    features = load().features
    can = [feature.visitors for feature in features if on.get(feature.name, feature.default)]
    cannot = [feature.visitors for feature in features if not on.get(feature.name, feature.default)]
    if config.uploads:
        can[-1] += f" (up to {config.upload_megabytes} MB each)"
    return can, cannot


def _strangers(config: ExposureConfig) -> str:
    return "answers 403" if config.strangers == "refuse" else "is not answered"


def _limits(config: ExposureConfig) -> list[str]:
    limits, bans = config.rate_limits, config.bans
    return [
        f"{limits.requests} requests in {limits.window_seconds} seconds",
        f"{limits.password_attempts} link passwords in {limits.password_window_seconds} seconds",
        f"{limits.bundles} zip files in {limits.bundle_window_seconds} seconds",
        f"{bans.max_retry} offences within {bans.find_time} ban it for {bans.ban_time}",
    ]


def _until(config: ExposureConfig) -> str:
    if config.expose_until is not None:
        return f"the server closes the funnel by itself at {config.expose_until.isoformat()}"
    if config.lease_hours is not None:
        return f"the server closes the funnel by itself {config.lease_hours} hours after it was opened"
    return "pulumi destroy closes the funnel"
