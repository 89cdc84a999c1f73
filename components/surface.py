"""What an exposure makes public, in words: for the preview, the outputs and the person who reads them."""

from __future__ import annotations

from components.config import ExposureConfig
from components.surface_table import SETTING_OF_ITS_OWN, load


def what_becomes_public(config: ExposureConfig) -> list[str]:
    """Return sentences that say who can reach what, for how long, and within which limits."""
    limits, bans = config.rate_limits, config.bans
    return [
        f"Anyone on the internet can reach port {config.funnel_port} of the node's public name; "
        "the name itself becomes public through certificate transparency logs.",
        *_visitors(config),
        _devices(config),
        f"Without a certificate, one address may send {limits.requests} requests in {limits.window_seconds} "
        f"seconds, try {limits.password_attempts} link passwords in {limits.password_window_seconds} "
        f"and fetch {limits.bundles} zip files in {limits.bundle_window_seconds}; "
        f"{bans.max_retry} offences within {bans.find_time} ban it for {bans.ban_time}.",
        _duration(config),
    ]


def _visitors(config: ExposureConfig) -> list[str]:
    """Return what a link lets people do, what is switched off, and what all other requests meet."""
    on = {SETTING_OF_ITS_OWN: config.uploads, **config.features}
    features = load().features
    can = [feature.visitors for feature in features if on.get(feature.name, feature.default)]
    cannot = [feature.visitors for feature in features if not on.get(feature.name, feature.default)]
    if config.uploads:
        can[-1] += f" (up to {config.upload_megabytes} MB each)"
    other = "everything else answers 403" if config.strangers == "refuse" else "all else is not answered"
    return [
        f"Anyone who has a shared link can {_joined(can, 'and')}; {other}.",
        *([f"Nobody who has only a shared link can {_joined(cannot, 'or')}."] if cannot else []),
    ]


def _joined(parts: list[str], word: str) -> str:
    """Join parts of a sentence: commas, and the word before the last."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _devices(config: ExposureConfig) -> str:
    if not config.devices:
        return "No device has full access."
    names = ", ".join(f"{device.name} ({device.platform})" for device in config.devices)
    return f"Full access, with a client certificate, have: {names}."


def _duration(config: ExposureConfig) -> str:
    if config.expose_until is not None:
        return f"The server closes the funnel by itself at {config.expose_until.isoformat()}."
    if config.lease_hours is not None:
        return f"The server closes the funnel by itself {config.lease_hours} hours after it was opened."
    return "The funnel stays open until pulumi destroy closes it."
