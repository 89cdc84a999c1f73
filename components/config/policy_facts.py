"""What the rules of `policy/` examine: an exposure as a mapping of plain values, without any secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from components.config.checks import seconds
from components.config.stack_config import ConfigError, ExposureConfig
from policy.rules import Finding, Level, judge


def policy_facts(config: ExposureConfig, stack: str) -> dict[str, Any]:
    """Return the facts of an exposure; they are the component's properties, so that a policy pack sees them.

    Devices are not included, because no rule examines them.
    """
    limits, bans = config.rate_limits, config.bans
    return {
        "stack": stack,
        "hostKey": config.host_key,
        "checkConnectTo": config.check.connect_to,
        "checkRootsFile": config.check.roots_file,
        "guard": config.guard,
        "uploads": config.uploads,
        "uploadMegabytes": config.upload_megabytes,
        "uploadMegabytesPerHour": config.upload_limits.megabytes,
        "uploadFilesPerHour": config.upload_limits.files,
        "uploadFreeGigabytes": config.upload_limits.free_gigabytes,
        **_of_frames_and_lists(config),
        "rejectWith": config.reject_with,
        "requests": limits.requests,
        "windowSeconds": limits.window_seconds,
        "passwordAttempts": limits.password_attempts,
        "passwordWindowSeconds": limits.password_window_seconds,
        "linkPasswordsPerHour": limits.link_passwords_per_hour,
        "bundles": limits.bundles,
        "bundleWindowSeconds": limits.bundle_window_seconds,
        "banMaxRetry": bans.max_retry,
        "banFindSeconds": seconds(bans.find_time),
        "ipv6Prefix": bans.ipv6_prefix,
        "banSeconds": seconds(bans.ban_time),
        "leaseHours": config.lease_hours,
        "exposeUntil": config.expose_until.isoformat() if config.expose_until else None,
        "clientValidityDays": config.client_validity_days,
        "caValidityDays": config.ca.validity_days,
    }


def _of_frames_and_lists(config: ExposureConfig) -> dict[str, Any]:
    """Return what rules examine of frames and ban lists; empty if there are none."""
    facts: dict[str, Any] = {}
    if config.frames:
        facts |= {"frames": len(config.frames), "who": config.who}
    if config.ban_lists:
        facts |= {"banLists": True, "notify": config.notify is not None}
        if config.ban_lists.database is not None:
            facts["countryDays"] = config.ban_lists.database_days
    return facts


def in_words(finding: Finding) -> str:
    """Return a finding in words, with the key that sets its rule's level."""
    return f"{finding.sentence.removesuffix('.')} (policy {finding.rule})."


def enforce_policy(facts: Mapping[str, Any], config: ExposureConfig) -> None:
    """Warn of each finding of an advisory rule.

    Raises:
        ConfigError: with all findings of mandatory rules.
    """
    findings = judge(facts, config.policy)
    refused = [in_words(finding) for finding in findings if finding.level is Level.MANDATORY]
    if refused:
        raise ConfigError(facts["stack"], refused)
    for finding in findings:
        pulumi.warn(in_words(finding))
