"""What the edge allows visitors, when it bans them, and how long the funnel stays open."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from components.config.checks import duration_problem, moment_problem, seconds
from components.config.reader import Section
from components.surface import table as surface_table

REJECT_WITH = ("forbidden", "drop")
"""What a stranger gets for a request that is not allowed: a 403 that reveals nothing, or no answer at all."""

COLD_VISIT = 50
"""How many requests a first visit to a link counts as: of its 150, 112 count 1/20 each (caddy/limits.go)."""

VISIT_SECONDS = 600
"""How many seconds a visitor who has used up the budget may have to wait for another visit."""

TYPING_ERRORS = 2
"""How many wrong passwords a guest must be able to type before the right one."""


@dataclass(frozen=True)
class RateLimits:
    """What one anonymous address may do in a window of seconds: requests, link passwords, zip files.

    `link_passwords_per_hour` is how many wrong passwords one link accepts from the whole internet.
    """

    requests: int
    window_seconds: int
    password_attempts: int
    password_window_seconds: int
    link_passwords_per_hour: int
    bundles: int
    bundle_window_seconds: int


@dataclass(frozen=True)
class Bans:
    """When fail2ban bans an address, and for how long; durations in fail2ban's format (`10m`, `1h`).

    `ipv6_prefix` is the part of an IPv6 address that counts as one visitor: 64 or 128 bits.
    """

    max_retry: int
    find_time: str
    ban_time: str
    ipv6_prefix: int


def read_features(top: Section) -> dict[str, bool]:
    """Read the group `features`: which parts of a shared link's page are on."""
    section = top.section("features", example="{map: false}")
    for feature in surface_table.load().features:
        if feature.fixed and section.value(feature.name) is not None:
            section.report(feature.name, "is always on (to share nothing, run pulumi destroy)", None)
    if section.value(surface_table.SETTING_OF_ITS_OWN) is not None:
        section.report(
            surface_table.SETTING_OF_ITS_OWN, "is a setting of its own, not one of features", "true"
        )
    features = {
        feature.name: section.boolean(feature.name, default=feature.default)
        for feature in surface_table.load().switches()
    }
    section.refuse_unknown()
    if features["download"] and not features["originals"]:
        section.report(
            "originals", "has no effect while features.download is on: zip files contain originals", "true"
        )
    return features


def read_rate_limits(top: Section) -> RateLimits:
    """Read the group `rateLimits`."""
    section = top.section("rateLimits", example="{requests: 3000, windowSeconds: 30}")
    limits = RateLimits(
        requests=section.integer("requests", default=3000, least=1, most=100_000),
        window_seconds=section.integer("windowSeconds", default=30, least=1, most=3_600),
        password_attempts=section.integer("passwordAttempts", default=10, least=1, most=1_000),
        password_window_seconds=section.integer("passwordWindowSeconds", default=60, least=1, most=86_400),
        link_passwords_per_hour=section.integer("linkPasswordsPerHour", default=60, least=1, most=10_000),
        bundles=section.integer("bundles", default=10, least=1, most=1_000),
        bundle_window_seconds=section.integer("bundleWindowSeconds", default=60, least=1, most=86_400),
    )
    section.refuse_unknown()
    _check_parts(section, limits)
    _check_visits(section, limits)
    _check_passwords(section, limits)
    return limits


def _check_parts(section: Section, limits: RateLimits) -> None:
    """Check that no limit of one kind of request exceeds the one of all requests."""
    tighter = (
        (
            "passwordAttempts",
            limits.password_attempts,
            "passwordWindowSeconds",
            limits.password_window_seconds,
            "passwords of links",
        ),
        ("bundles", limits.bundles, "bundleWindowSeconds", limits.bundle_window_seconds, "zip files"),
    )
    for key, count, window_key, window, what in tighter:
        keys = ("requests", "windowSeconds", key, window_key)
        faster = count * limits.window_seconds > limits.requests * window
        if faster and not section.problems.has(*map(section.name, keys)):
            section.report(
                key,
                f"allows more {what} ({count} in {window} s) than requests of any kind "
                f"({limits.requests} in {limits.window_seconds} s)",
                "10",
            )


def _check_visits(section: Section, limits: RateLimits) -> None:
    """Check that a guest can open a link, and soon another."""
    if limits.requests < COLD_VISIT and not section.problems.has(section.name("requests")):
        section.report(
            "requests", f"lets nobody in: the first visit to a link counts as {COLD_VISIT} requests", "3000"
        )
    elif COLD_VISIT * limits.window_seconds > limits.requests * VISIT_SECONDS and not section.problems.has(
        section.name("requests"), section.name("windowSeconds")
    ):
        section.report(
            "windowSeconds",
            f"keeps your guests out: with {limits.requests} requests in {limits.window_seconds} s, a guest "
            f"may have to wait more than {VISIT_SECONDS // 60} minutes to open a second link",
            "30",
        )


def _check_passwords(section: Section, limits: RateLimits) -> None:
    """Check that no single visitor can use up a link's passwords."""
    reported = section.problems.has(section.name("passwordAttempts"), section.name("linkPasswordsPerHour"))
    if limits.link_passwords_per_hour < limits.password_attempts and not reported:
        section.report(
            "linkPasswordsPerHour",
            f"is used up by one visitor, who may try {limits.password_attempts} passwords "
            f"in {limits.password_window_seconds} s, and then locks out everybody else",
            "60",
        )


def read_bans(top: Section) -> Bans:
    """Read the group `bans`."""
    section = top.section("bans", example="{maxRetry: 10, findTime: 10m, banTime: 1h}")
    bans = Bans(
        max_retry=section.integer("maxRetry", default=10, least=1, most=1_000),
        find_time=section.text("findTime", default="10m", example="10m", check=duration_problem),
        ban_time=section.text("banTime", default="1h", example="1h", check=duration_problem),
        ipv6_prefix=section.integer("ipv6Prefix", default=64, least=64, most=128),
    )
    if bans.ipv6_prefix not in (64, 128) and not section.problems.has(section.name("ipv6Prefix")):
        section.report("ipv6Prefix", "is 64 (one customer of a provider) or 128 (one address)", "64")
    section.refuse_unknown()
    if bans.max_retry <= TYPING_ERRORS and not section.problems.has(section.name("maxRetry")):
        section.report(
            "maxRetry",
            f"bans a guest who mistypes a link's password {'once' if bans.max_retry == 1 else 'twice'}",
            "10",
        )
    if not section.problems.has(*map(section.name, ("maxRetry", "findTime", "banTime"))):
        soonest = min(seconds(bans.find_time), seconds(bans.ban_time))
        if bans.max_retry > soonest:
            section.report(
                "maxRetry",
                f"stops nobody: with findTime {bans.find_time} and banTime {bans.ban_time} it allows more "
                "than one guess per second for ever",
                "10",
            )
    return bans


def read_expose_until(top: Section, now: datetime) -> datetime | None:
    """Read `exposeUntil`; None if it is not set."""
    example = f'"{(now + timedelta(days=14)).date()}T20:00:00Z"'
    text = top.optional_text("exposeUntil", example=example, check=moment_problem)
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    if top.value("leaseHours") not in (None, 0):
        top.report("exposeUntil", "is set together with leaseHours; set one of the two", '""')
    elif moment <= now:
        reason = "is in the past; set a later moment, leave it out, or close the funnel with pulumi destroy"
        top.report("exposeUntil", reason, example)
    return moment
