"""The differences between two checkouts of this project, grouped by what the files are for.

The newer one is untrusted until somebody has read it: its files are compared, never run, and no link in it is
followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.config.stack_settings import StackFileError, read_file
from components.remote.module_files import digest, module_files
from components.surface.table import Row, Table, TableError, read

SKIPPED = frozenset({".git", ".venv", ".toolchain", ".lab", "stacks/keystore"})
"""Folders that are not part of a change. There are no others: a file could hide in a skipped folder."""

COMPILED = "__pycache__"
"""Made by Python where it runs. The newer checkout never runs, so there it counts as part of the change."""

LINK = "link to"

AREAS = (
    (".github/", "runs by itself, with the rights of this repository"),
    (".gitlab-ci.yml", "runs by itself, with the rights of this repository"),
    (".ci/", "runs by itself, with the rights of this repository"),
    ("server/scripts/", "runs as root on the server"),
    ("server/surface.toml", "says what strangers reach"),
    ("server/", "lands on the server"),
    ("components/", "the program, which runs where the keys are"),
    ("pki/", "the program, which runs where the keys are"),
    ("handover/", "the program, which runs where the keys are"),
    ("toolchain/", "the program, which runs where the keys are"),
    ("__main__.py", "the program, which runs where the keys are"),
    ("Pulumi.yaml", "the program, which runs where the keys are"),
    ("Makefile", "the program, which runs where the keys are"),
    ("requirements", "other people's packages, which run where the keys are"),
    ("pyproject.toml", "other people's packages, which run where the keys are"),
    ("policy/", "the rules that are looked at here"),
    ("stacks/", "settings"),
    ("docs/", "words, tests and the lab"),
    ("tests/", "words, tests and the lab"),
    ("lab/", "words, tests and the lab"),
    ("README.md", "words, tests and the lab"),
)
"""The start of a path, and what such a file is for. The first match counts; most urgent first."""

ELSE = "something else"


COMPILED_FROM = ("caddy/", "nix/package.nix")
"""The module's files that the edge is compiled from."""


@dataclass(frozen=True)
class Digests:
    """Digests of all files of the module, and of those that the edge is compiled from."""

    module: str
    edge: str


@dataclass(frozen=True)
class Change:
    """One file: its path, `added`, `removed` or `changed` (with `, a link` appended), and what it is for."""

    path: str
    how: str
    area: str


def changed_files(old: Path, new: Path) -> list[Change]:
    """Return every file that differs, by area in the order of `AREAS`, then by path."""
    before = {path: what for path, what in _files(old) if COMPILED not in path.split("/")}
    after = dict(_files(new))
    changes = [
        Change(path, _how(path, before, after) + _kind(after.get(path, "")), _area(path))
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path)
    ]
    order = [*dict.fromkeys(area for _, area in AREAS), ELSE]
    return sorted(changes, key=lambda change: (order.index(change.area), change.path))


def _how(path: str, before: dict[str, str], after: dict[str, str]) -> str:
    if path not in before:
        return "added"
    return "changed" if path in after else "removed"


def _kind(what: str) -> str:
    return ", a link" if what.startswith(LINK) else ""


def _area(path: str) -> str:
    return next((area for beginning, area in AREAS if path.startswith(beginning)), ELSE)


def _files(root: Path) -> Iterator[tuple[str, str]]:
    """Yield path and digest of every file; for a link, its target's path, not its target's content."""
    for folder, names, files in os.walk(root):
        links = [name for name in names if (Path(folder) / name).is_symlink()]
        skipped = [name for name in names if (Path(folder) / name).relative_to(root).as_posix() in SKIPPED]
        names[:] = sorted(set(names).difference(skipped, links))
        for name in sorted([*files, *links]):
            path = Path(folder) / name
            yield path.relative_to(root).as_posix(), _digest(path)


def _digest(path: Path) -> str:
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        return f"{LINK} {os.readlink(path)}"
    kind = f"{stat.S_IFMT(found.st_mode)} {found.st_mode & 0o111}"
    if not stat.S_ISREG(found.st_mode):
        return kind
    with path.open("rb") as file:
        return f"{kind} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def module_of(project: Path) -> Digests | None:
    """Return the digests of a checkout's NixOS module; None if they cannot be determined."""
    folder = project / "server"
    if any(path.is_symlink() for path in (folder, *folder.rglob("*"))):
        return None
    try:
        files = module_files(folder)
    except (OSError, UnicodeDecodeError):
        return None
    return Digests(digest(files), digest([file for file in files if file.path.startswith(COMPILED_FROM)]))


def surface_of(project: Path) -> Table | None:
    """Return a checkout's surface table; None if it cannot be read."""
    try:
        content = read_file(project / "server/surface.toml")
        return None if content is None else read(content)
    except (StackFileError, TableError, tomllib.TOMLDecodeError, KeyError, TypeError, AssertionError):
        return None


def requests(table: Table) -> dict[str, str]:
    """Return the requests that strangers may send, as text, each with the feature that it belongs to."""
    return {_request(row): row.feature for row in table.rows}


def _request(row: Row) -> str:
    return f"{' '.join(row.methods)} {row.path}{' with a link' if row.link else ''}, pattern {row.pattern}"
