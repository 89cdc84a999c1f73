"""The Immich releases that this project knows, and what their pages request: `server/immich-releases.toml`.

Does not depend on Pulumi.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass

from components.surface.supported_versions import Version, parse_version
from components.surface.table import PROJECT

FILE = PROJECT / "server/immich-releases.toml"


class ReleasesError(ValueError):
    """The file contradicts itself; the message names the line."""


@dataclass(frozen=True)
class Line:
    """Releases whose pages make the same requests, from `first` to `last`.

    `asks` holds requests such as ``GET /share/{key}``, `alone` those among them that not every release makes;
    `headers` are the ones the page itself sends; `sdk` is the version of `@immich/sdk` that represents the
    API; `seen` names the source.
    """

    first: Version
    last: Version
    sdk: str
    seen: str
    headers: tuple[str, ...]
    asks: tuple[str, ...]
    alone: tuple[str, ...]

    def __contains__(self, version: Version) -> bool:
        return self.first <= version <= self.last

    @property
    def name(self) -> str:
        """Return the range of releases as text."""
        return f"{_text(self.first)} to {_text(self.last)}"


@functools.cache
def load() -> tuple[Line, ...]:
    """Read the lines, oldest first.

    Raises:
        ReleasesError: if a version is not valid, or the lines are not in order.
    """
    text = tomllib.loads(FILE.read_text(encoding="utf-8"))
    lines = tuple(
        Line(
            first=_version(fields["first"]),
            last=_version(fields["last"]),
            sdk=fields["sdk"],
            seen=fields["seen"],
            headers=tuple(fields["headers"]),
            asks=(*text["asks"], *fields["asks"]),
            alone=tuple(fields["asks"]),
        )
        for fields in text["lines"]
    )
    bounds = [bound for line in lines for bound in (line.first, line.last)]
    if bounds != sorted(bounds):
        raise ReleasesError(f"The lines of {FILE.name} are not in the order of their releases.")
    return lines


def line_of(version: Version) -> Line:
    """Return a release's line; an unknown release is treated like the one before it."""
    return next((line for line in reversed(load()) if line.first <= version), load()[0])


def unknown_release(text: object) -> list[str]:
    """Return a sentence if a release is unknown to this project; none if the version cannot be read."""
    version = parse_version(str(text or ""))
    if version is None or version in line_of(version):
        return []
    before = _text(line_of(version).last)
    return [
        f"Immich {_text(version)} is not among the releases that this project knows. Visitors may ask for "
        f"what the page of {before} asks for and nothing more, so a shared link might not open: try one from "
        "outside, and update this project if it does not."
    ]


def _version(text: str) -> Version:
    version = parse_version(text)
    if version is None:
        raise ReleasesError(f"{FILE.name} holds {text!r}, which is not a version of three numbers.")
    return version


def _text(version: Version) -> str:
    return ".".join(map(str, version))
