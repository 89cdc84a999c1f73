"""What an exposure makes public, in words: for the preview, the outputs and the person who reads them."""

from __future__ import annotations

from components.config import ExposureConfig


def what_becomes_public(config: ExposureConfig) -> list[str]:
    """Return sentences that say who can reach what, for how long, and within which limits."""
    limits, bans = config.rate_limits, config.bans
    return [
        f"Anyone on the internet can reach port {config.funnel_port} of the node's public name; "
        "the name itself becomes public through certificate transparency logs.",
        "Anyone who has a shared link can see and download what it shares; everything else answers 403.",
        _uploads(config),
        _devices(config),
        f"Without a certificate, one address may send {limits.requests} requests in {limits.window_seconds} "
        f"seconds and try {limits.password_attempts} link passwords in {limits.password_window_seconds}; "
        f"{bans.max_retry} offences within {bans.find_time} ban it for {bans.ban_time}.",
        _duration(config),
    ]


def _uploads(config: ExposureConfig) -> str:
    if config.uploads:
        return "Anyone who has a shared link that allows it can upload files."
    return "Nobody can upload through a shared link."


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
