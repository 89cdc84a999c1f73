"""Versions that are too old or broken: `server/versions.json`, which the NixOS module also reads.

A version is three numbers; anything after a `-` or `+` is ignored. Does not depend on Pulumi.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass

from components.surface.table import PROJECT

FILE = PROJECT / "server/versions.json"

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Advisory:
    """An advisory or an issue, its subject, and which safeguard of ours holds without the newer version."""

    id: str
    about: str
    guard: str


@dataclass(frozen=True)
class SupportedVersions:
    """The versions of one program: `lowest`, those `refused` with what is wrong with each, and why."""

    lowest: Version
    refused: Mapping[Version, str]
    advisories: tuple[Advisory, ...]
    pinned: Version | None = None

    def lowest_text(self) -> str:
        """Return the lowest version as text."""
        return ".".join(str(number) for number in self.lowest)

    def accepts(self, version: Version) -> bool:
        """Return whether a version is new enough and not refused."""
        return version >= self.lowest and version not in self.refused


def parse_version(text: str) -> Version | None:
    """Return ``(major, minor, patch)`` of a version such as ``1.98.9-t0a1b``, or ``None``."""
    numbers = text.split("-", 1)[0].split("+", 1)[0].split(".")
    if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
        return None
    major, minor, patch = (int(number) for number in numbers)
    return major, minor, patch


@functools.cache
def load() -> Mapping[str, SupportedVersions]:
    """Read the file; raises ValueError if a version in it is not valid."""
    text = json.loads(FILE.read_text(encoding="utf-8"))
    return {program: _supported(fields) for program, fields in text.items()}


def _supported(fields: Mapping[str, object]) -> SupportedVersions:
    refused, advisories = fields["refused"], fields["advisories"]
    assert isinstance(refused, dict) and isinstance(advisories, list)
    return SupportedVersions(
        lowest=_version(str(fields["lowest"])),
        refused={_version(text): why for text, why in refused.items()},
        advisories=tuple(Advisory(**advisory) for advisory in advisories),
        pinned=_version(str(fields["pinned"])) if "pinned" in fields else None,
    )


def _version(text: str) -> Version:
    version = parse_version(text)
    if version is None:
        raise ValueError(f"{FILE.name} holds {text!r}, which is not a version of three numbers.")
    return version
