"""The table of what strangers may request of Immich, `server/surface.toml`, and all operations of its API.

Does not depend on Pulumi. The configuration, the generated document (`components.surface.files`) and the
tests read the table through `load`.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
TABLE_FILE = PROJECT / "server/surface.toml"
OPERATIONS_FILE = PROJECT / "server/immich-operations.json"

SETTING_OF_ITS_OWN = "uploads"
"""The feature with a setting of its own, because it lets strangers write."""

FRAMES = "frames"
"""The feature name in the rows for frames; no visitor has it."""

_NO_BODY = "1KB"


class TableError(ValueError):
    """The table contradicts itself; the message names the row."""


@dataclass(frozen=True)
class Feature:
    """A part of the surface that is on or off as a whole.

    `visitors` completes "Anyone who has a link can ..."; a `fixed` feature cannot be switched off.
    """

    name: str
    visitors: str
    about: str
    default: bool = True
    fixed: bool = False

    @property
    def setting(self) -> str:
        """The edge's setting that switches it."""
        prefix = "" if self.name == SETTING_OF_ITS_OWN else "FEATURE_"
        return f"{prefix}{self.name.upper()}"


@dataclass(frozen=True)
class Row:
    """One kind of request that is allowed. `path` has patterns in braces; in `pattern` they are expanded.

    `link`: only with the key or slug of a link. `body`: the largest body, in Caddy's notation, or `upload`.
    `operations`: the names in `@immich/sdk`; empty for pages and files.
    """

    feature: str
    methods: tuple[str, ...]
    path: str
    why: str
    evidence: str
    pattern: str
    link: bool = False
    body: str = _NO_BODY
    operations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Closed:
    """An operation that Immich allows with a link and the edge does not, and why."""

    operation: str
    why: str


@dataclass(frozen=True, order=True)
class Operation:
    """An operation of Immich's API: its SDK name, the method, the path below /api with `{parameter}`s."""

    name: str
    method: str
    path: str
    link: bool


@dataclass(frozen=True)
class Table:
    """The whole table, in file order."""

    features: tuple[Feature, ...]
    rows: tuple[Row, ...]
    closed: tuple[Closed, ...]
    frames: tuple[Row, ...]
    """What a frame may request."""

    def switches(self) -> tuple[Feature, ...]:
        """The features that can be set in the configuration's group `features`."""
        return tuple(
            feature for feature in self.features if not feature.fixed and feature.name != SETTING_OF_ITS_OWN
        )

    def rows_of(self, feature: str) -> tuple[Row, ...]:
        """The rows of a feature."""
        return tuple(row for row in self.rows if row.feature == feature)

    def open_operations(self, features: Sequence[str] | None = None) -> frozenset[str]:
        """The SDK's names of the operations that these features (None: all features) allow."""
        return frozenset(
            name
            for row in self.rows
            if features is None or row.feature in features
            for name in row.operations
        )


@functools.cache
def load() -> Table:
    """Read this project's table; raises what `read` raises."""
    return read(TABLE_FILE.read_text(encoding="utf-8"))


def read(content: str) -> Table:
    """Read a table from the text of its file.

    Raises:
        TableError: if a row names an unknown feature or pattern, or a feature has no row.
    """
    text = tomllib.loads(content)
    patterns = text["patterns"]
    features = tuple(Feature(name, **fields) for name, fields in text["features"].items())
    rows = tuple(_row(fields, patterns) for fields in text["rows"])
    named, used = {feature.name for feature in features}, {row.feature for row in rows}
    if named != used:
        raise TableError(
            f"Features and rows of {TABLE_FILE.name} differ in: {', '.join(sorted(named ^ used))}."
        )
    frames = tuple(_row({"feature": FRAMES, **fields}, patterns) for fields in text["frames"]["rows"])
    return Table(features, rows, tuple(Closed(**fields) for fields in text["closed"]), frames)


def _row(fields: dict[str, object], patterns: dict[str, str]) -> Row:
    path = str(fields["path"])

    def filled(match: re.Match[str]) -> str:
        literal, name = match.groups()
        if literal is not None:
            return literal.replace(".", r"\.")
        if name not in patterns:
            raise TableError(f"The row {path} of {TABLE_FILE.name} uses an unknown pattern: {name}.")
        return patterns[name]

    operations = fields.get("operations", ())
    methods = fields["methods"]
    assert isinstance(methods, list) and isinstance(operations, list | tuple)
    return Row(
        feature=str(fields["feature"]),
        methods=tuple(methods),
        path=path,
        why=str(fields["why"]),
        evidence=str(fields["evidence"]),
        pattern=re.sub(r"([^{}]+)|\{(\w+)\}", filled, path),
        link=fields.get("link") is True,
        body=str(fields.get("body", _NO_BODY)),
        operations=tuple(operations),
    )


@functools.cache
def immich_operations() -> dict[str, tuple[Operation, ...]]:
    """The operations of each supported `@immich/sdk` version, written by `tests/server/immich_sdk.py`."""
    text = json.loads(OPERATIONS_FILE.read_text(encoding="utf-8"))
    return {
        version: tuple(Operation(**fields) for fields in operations) for version, operations in text.items()
    }
