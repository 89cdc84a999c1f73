"""The rules, as functions of the facts of an exposure, and of the time where an exposure ends at a moment.

The facts are a mapping that `components.config.policy_facts` makes from the configuration and that the
component registers as its properties. So the same functions judge a stack file, a run and the resources of
another program. Numbers may be floats, because the engine knows no other kind; a missing value is None.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

Facts = Mapping[str, Any]
"""The facts of an exposure; the keys are those of `components.config.policy_facts`."""


class Level(StrEnum):
    """What a finding causes: nothing, a warning, or a refusal to deploy."""

    DISABLED = "disabled"
    ADVISORY = "advisory"
    MANDATORY = "mandatory"


@dataclass(frozen=True)
class Rule:
    """A name, what the rule requires, its default level, and how to find violations.

    `find` yields a full sentence with the remedy for each violation.
    """

    name: str
    wants: str
    level: Level
    find: Callable[[Facts], Iterator[str]]


@dataclass(frozen=True)
class Finding:
    """A violation that a rule found, and the rule's level."""

    rule: str
    level: Level
    sentence: str


MOST_VALIDITY_DAYS = 3650
"""Ten years: a certificate that is never renewed is forgotten."""

MOST_UPLOAD_MEGABYTES = 10_000
"""For one upload: a few of them fill the disk of a small server."""

MOST_UPLOAD_MEGABYTES_AN_HOUR = 50_000
"""For all links together: a day of it fills any disk."""

MOST_UPLOAD_FILES_AN_HOUR = 20_000
"""For all links together: Immich makes thumbnails of each, and a small server is days behind after that."""

LEAST_FREE_GIGABYTES = 5
"""With less, Immich and its database soon run out of space, and the family's photos cannot be saved."""

MOST_DATABASE_DAYS = 180
"""For a country database: by then many networks are used in another country."""

MOST_REQUESTS_A_SECOND = 500.0
"""For one visitor: five times the default, more than a page with hundreds of thumbnails needs."""

MOST_PASSWORDS_A_MINUTE = 30.0
"""For one visitor: nobody types a link's password every other second."""

MOST_WRONG_PASSWORDS_AN_HOUR = 600
"""For one link, from all visitors together: a dictionary word would be found within days."""

MOST_ZIP_FILES_A_MINUTE = 60.0
"""For one visitor: six times the default, and each can be a whole album."""

MOST_OFFENCES = 50
"""Before a ban: with more, a scanner has already found what it wants."""

MOST_OFFENCES_AN_HOUR = 600
"""That no ban follows: ten times the default. With a short findTime, a patient scanner is never banned."""

IPV6_CUSTOMER = 64
"""The bits of an IPv6 address that one customer of a provider cannot change at will."""

LEAST_BAN_SECONDS = 600
"""A shorter ban is only a pause."""

LONGEST_PREVIEW_HOURS = 14 * 24
"""Two weeks: a preview that lasts longer is an exposure."""

LONGEST_HOURS = 366 * 24
"""A year: a later end limits nothing in practice."""

PREVIEW = "-preview"
"""The suffix of the name of a stack that exists only for a short time."""


def is_rsa(host_key: str) -> bool:
    """Tell whether a host key is an RSA key, by whichever of the names of its type."""
    return "rsa" in host_key.split()[0].lower()


def _pinned(facts: Facts) -> Iterator[str]:
    key = str(facts.get("hostKey") or "").strip()
    if not key:
        yield "The server's host key is not pinned, so any machine that answers is trusted. Set hostKey."
    elif is_rsa(key):
        yield (
            "The pinned host key is an RSA key, with which today's servers sign nothing; pin the Ed25519 key."
        )


def _checked(facts: Facts) -> Iterator[str]:
    if facts.get("checkConnectTo"):
        yield (
            "The outside check connects to a configured address (check.connectTo) instead of the public "
            "one, so it does not prove what a stranger meets; leave it out, except in the lab."
        )
    elif facts.get("checkRootsFile"):
        yield (
            "The outside check trusts roots of its own (check.rootsFile), so it does not show whether a "
            "browser would trust the server; leave them out, except in the lab."
        )


def _watched(facts: Facts) -> Iterator[str]:
    if facts.get("guard") is False:
        yield "Nobody checks from outside once pulumi up has ended (guard: false); leave guard on."


def _budgeted(facts: Facts) -> Iterator[str]:
    if not facts.get("uploads"):
        return
    if facts["uploadMegabytes"] > MOST_UPLOAD_MEGABYTES:
        yield (
            f"Strangers may upload {facts['uploadMegabytes']:.0f} MB at once; set uploadMegabytes to "
            f"{MOST_UPLOAD_MEGABYTES} at most, or switch uploads off."
        )
    if facts["uploadMegabytesPerHour"] > MOST_UPLOAD_MEGABYTES_AN_HOUR:
        yield (
            f"Strangers may upload {facts['uploadMegabytesPerHour']:.0f} MB in an hour; set "
            f"uploadLimits.megabytesPerHour to {MOST_UPLOAD_MEGABYTES_AN_HOUR} at most."
        )
    if facts["uploadFreeGigabytes"] < LEAST_FREE_GIGABYTES:
        yield (
            f"Strangers may upload until {facts['uploadFreeGigabytes']:.0f} GB are free; set "
            f"uploadLimits.freeGigabytes to {LEAST_FREE_GIGABYTES} at least."
        )
    if facts["uploadFilesPerHour"] > MOST_UPLOAD_FILES_AN_HOUR:
        yield (
            f"Strangers may upload {facts['uploadFilesPerHour']:.0f} files in an hour; set "
            f"uploadLimits.filesPerHour to {MOST_UPLOAD_FILES_AN_HOUR} at most."
        )
    if not _ends_within(facts, LONGEST_HOURS):
        yield (
            "Strangers may upload for as long as the exposure lasts; give it an end within a year "
            "(leaseHours or exposeUntil), or switch uploads off."
        )


def _ends_within(facts: Facts, hours: float) -> bool:
    """Tell whether the server itself closes the funnel within so many hours."""
    if facts.get("leaseHours"):
        return float(facts["leaseHours"]) <= hours
    try:
        end = datetime.fromisoformat(str(facts.get("exposeUntil") or ""))
        return end - datetime.now(UTC) <= timedelta(hours=hours)
    except (ValueError, TypeError):  # not a moment, or one without a time zone
        return False


def _frames(facts: Facts) -> Iterator[str]:
    if facts.get("frames") and not facts.get("who") and not _ends_within(facts, LONGEST_HOURS):
        yield (
            "A frame's secret never expires, and nobody sees which frames are in use; set who: true, or give "
            "the exposure an end within a year (leaseHours or exposeUntil)."
        )


def _lists(facts: Facts) -> Iterator[str]:
    if facts.get("banLists") and not facts.get("notify"):
        yield "A ban list that cannot be updated is reported to nobody; set notify."
    days = facts.get("countryDays") or 0
    if days > MOST_DATABASE_DAYS:
        yield (
            f"The country database may be {days:.0f} days old; set banLists.countryDays to "
            f"{MOST_DATABASE_DAYS} at most."
        )


def _limited(facts: Facts) -> Iterator[str]:
    for what, rate, most, key in (
        ("requests in a second", _rate(facts, "requests", "window"), MOST_REQUESTS_A_SECOND, "requests"),
        (
            "link passwords in a minute",
            60 * _rate(facts, "passwordAttempts", "passwordWindow"),
            MOST_PASSWORDS_A_MINUTE,
            "passwordAttempts",
        ),
        (
            "zip files in a minute",
            60 * _rate(facts, "bundles", "bundleWindow"),
            MOST_ZIP_FILES_A_MINUTE,
            "bundles",
        ),
        (
            "wrong passwords in an hour for one link",
            facts["linkPasswordsPerHour"],
            MOST_WRONG_PASSWORDS_AN_HOUR,
            "linkPasswordsPerHour",
        ),
    ):
        if rate > most:
            yield f"A stranger may send {rate:.0f} {what}, more than {most:.0f}; lower rateLimits.{key}."
    if facts["banMaxRetry"] > MOST_OFFENCES:
        yield (
            f"A stranger is banned only after {facts['banMaxRetry']:.0f} offences; set bans.maxRetry to "
            f"{MOST_OFFENCES} at most."
        )
    offences = facts["banMaxRetry"] * 3600 / facts["banFindSeconds"]
    if offences > MOST_OFFENCES_AN_HOUR:
        yield (
            f"A patient stranger commits {offences:.0f} offences in an hour and is never banned; set "
            f"bans.findTime to {facts['banMaxRetry'] * 3600 / MOST_OFFENCES_AN_HOUR:.0f}s at least."
        )
    if facts["ipv6Prefix"] > IPV6_CUSTOMER:
        yield (
            "Each IPv6 address counts as a visitor of its own, and a provider gives one customer so many "
            f"that limits and bans are useless; set bans.ipv6Prefix to {IPV6_CUSTOMER}."
        )
    if facts["banSeconds"] < LEAST_BAN_SECONDS:
        yield f"A ban lasts {facts['banSeconds']:.0f} seconds; set bans.banTime to 10m at least."


def _rate(facts: Facts, count: str, window: str) -> float:
    return float(facts[count]) / float(facts[f"{window}Seconds"])


def _ending(facts: Facts) -> Iterator[str]:
    for key, whose, setting in (
        ("clientValidityDays", "A device's certificate", "clientValidityDays"),
        ("caValidityDays", "The authority", "ca.validityDays"),
    ):
        if facts[key] > MOST_VALIDITY_DAYS:
            yield (
                f"{whose} is valid for {facts[key]:.0f} days; set {setting} to {MOST_VALIDITY_DAYS} at most."
            )


def _for_a_while(facts: Facts) -> Iterator[str]:
    if not str(facts["stack"]).rpartition("/")[2].endswith(PREVIEW):
        return
    if facts.get("leaseHours"):
        if facts["leaseHours"] > LONGEST_PREVIEW_HOURS:
            yield (
                f"A stack whose name ends with {PREVIEW} may stay open for {facts['leaseHours']:.0f} "
                f"hours; set leaseHours to {LONGEST_PREVIEW_HOURS} at most."
            )
    elif not facts.get("exposeUntil"):
        yield (
            f"A stack whose name ends with {PREVIEW} has no end; set leaseHours or exposeUntil, so that "
            "the server itself closes the funnel."
        )
    elif not _ends_within(facts, LONGEST_PREVIEW_HOURS):
        yield (
            f"A stack whose name ends with {PREVIEW} may stay open until {facts['exposeUntil']}; set "
            f"exposeUntil to a moment within {LONGEST_PREVIEW_HOURS // 24} days."
        )


RULES: tuple[Rule, ...] = (
    Rule(
        "host-key-pinned", "The server's host key is pinned, and is not an RSA key.", Level.MANDATORY, _pinned
    ),
    Rule(
        "checked-from-outside",
        "The check that lets the funnel stay open uses the public address.",
        Level.ADVISORY,
        _checked,
    ),
    Rule("watched", "The server checks itself from outside at regular intervals.", Level.ADVISORY, _watched),
    Rule(
        "uploads-have-budgets",
        "Strangers' uploads are limited, and the exposure has an end.",
        Level.ADVISORY,
        _budgeted,
    ),
    Rule(
        "frames-are-seen",
        "It is known which frames are in use, or the exposure ends.",
        Level.ADVISORY,
        _frames,
    ),
    Rule(
        "ban-lists-are-kept-up",
        "The owner is notified when a ban list fails, and no country database is old.",
        Level.ADVISORY,
        _lists,
    ),
    Rule(
        "strangers-are-limited",
        "Limits and bans are not loosened so far that they are useless.",
        Level.ADVISORY,
        _limited,
    ),
    Rule("certificates-end", "Certificates are valid for ten years at most.", Level.ADVISORY, _ending),
    Rule("previews-end", "A stack named *-preview closes on its own.", Level.MANDATORY, _for_a_while),
)
"""Every rule, in the order in which findings are reported."""


def judge(facts: Facts, levels: Mapping[str, str] | None = None) -> list[Finding]:
    """Return all findings; `levels` holds the levels that an owner has set, by rule name."""
    findings = []
    for rule in RULES:
        level = Level((levels or {}).get(rule.name, rule.level))
        if level is not Level.DISABLED:
            findings += [Finding(rule.name, level, sentence) for sentence in rule.find(facts)]
    return findings


# Secrets in plain text

PRIVATE_KEY = "a private key"

_SECRETS = (
    (
        PRIVATE_KEY,
        re.compile(
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-|\bAGE-SECRET-KEY-1"
        ),
    ),
    ("a key of Tailscale's", re.compile(r"\btskey-[a-z]+-[A-Za-z0-9]{6,}")),
    ("an access token of ntfy's", re.compile(r"\btk_[a-z0-9]{29}\b")),
    ("a token of GitHub's", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{20,}")),
    ("a token of GitLab's", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}")),
    ("a token of Pulumi's", re.compile(r"\bpul-[0-9a-f]{40}\b")),
    ("a key of AWS's", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
    ("a password in an address", re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.I)),
    ("a token in an address", re.compile(r"[?&](?:access_)?(?:token|auth|password|secret)=[^&\s]{8}", re.I)),
)
"""Secrets with a known format, so that ordinary text is not mistaken for one."""


_PEM_IN_BASE64 = re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/]{26,}")


def _decoded(text: str) -> str:
    """Return a text with what it holds of PEM in base64, as many tools want it, decoded."""

    def begin(found: re.Match[str]) -> str:
        whole = found[0][: len(found[0]) // 4 * 4]
        return base64.b64decode(whole).decode("latin-1")

    return _PEM_IN_BASE64.sub(begin, text)


def secrets_in(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path of each apparent secret in plain values, and its kind; never the secret itself."""
    if isinstance(value, str):
        text = _decoded(value)
        yield from ((path, what) for what, shape in _SECRETS if shape.search(text))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if any(secrets_in(str(key))):
                yield path, "a secret in place of a name"
                continue
            yield from secrets_in(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from secrets_in(each, f"{path}[{index}]")
