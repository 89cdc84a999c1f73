"""The differences between two checkouts of this project, grouped by what the files are for.

The newer one is untrusted until somebody has read it: its files are compared, never run, and no link in it is
followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.config.stack_settings import StackFileError, read_file
from components.remote.module_files import digest, module_files
from components.surface.table import Row, Table, TableError, read

GIT = ".git"
"""Git's own folder, which no commit can hold."""

KEYSTORES = "stacks/keystore"
"""The default place of the keystores, which may be in the repository, as they are encrypted."""

MADE_HERE = frozenset(
    {".venv", ".toolchain", ".lab", KEYSTORES, ".mypy_cache", ".ruff_cache", ".pytest_cache"}
)
"""Installed or made by a run, so it is skipped in the older checkout. In the newer one it is reported."""

COMPILED = "__pycache__"
"""Made by Python where it runs. The newer checkout never runs, so there it counts as part of the change."""

LINK = "link to"

PROGRAM = "the program, which runs where the keys are"
RUNS_AUTOMATICALLY = "runs automatically, with the rights of this repository"
PACKAGES = "other people's packages, which run where the keys are"
NOT_COMPARED = "installed or made by a run, and not compared"
KEYS = "keys of the authority and the devices, encrypted"
ELSE = "something else"

AREAS = (
    (".github/", RUNS_AUTOMATICALLY),
    (".gitlab-ci.yml", RUNS_AUTOMATICALLY),
    (".ci/", RUNS_AUTOMATICALLY),
    ("server/scripts/", "runs as root on the server"),
    ("server/surface.toml", "says what strangers reach"),
    ("server/", "is installed on the server"),
    ("flake.nix", "is installed on the server"),
    ("flake.lock", "is installed on the server"),
    *(
        (path, PROGRAM)
        for path in (
            "components/",
            "pki/",
            "handover/",
            "toolchain/",
            "plugin/",
            "__main__.py",
            "Pulumi.",
            "Makefile",
            ".pre-commit-config.yaml",
        )
    ),
    ("requirements", PACKAGES),
    ("pyproject.toml", PACKAGES),
    ("policy/", "the rules that are checked here"),
    (f"{KEYSTORES}/", KEYS),
    ("stacks/", "settings"),
    ("docs/", "documents, tests and the lab"),
    ("tests/", "documents, tests and the lab"),
    ("lab/", "documents, tests and the lab"),
    ("README.md", "documents, tests and the lab"),
    *((path, ELSE) for path in ("examples/", "template/", ".gitignore", ".editorconfig", "LICENSE")),
    *((path, ELSE) for path in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
)
"""The start of a path, and what such a file is for; the first match counts.

Whatever is not named here is `PROGRAM`: Python imports what is in the project's folder before anything that
is installed (`yaml.py`, for example).
"""

_ORDER = [NOT_COMPARED, *dict.fromkeys(area for _, area in AREAS)]
"""The areas, most urgent first."""

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
    brought = {path for path in MADE_HERE if os.path.lexists(new / path)}
    compared = brought & {KEYSTORES}
    skipped = {GIT, *MADE_HERE - compared}
    before = {path: what for path, what in _files(old, skipped) if COMPILED not in path.split("/")}
    after = dict(_files(new, skipped))
    changes = [
        *(Change(path, "there", NOT_COMPARED) for path in brought - compared),
    ] + [
        Change(path, _how(path, before, after) + _kind(after.get(path, "")), _area(path))
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path)
    ]
    return sorted(changes, key=lambda change: (_ORDER.index(change.area), change.path))


def _how(path: str, before: dict[str, str], after: dict[str, str]) -> str:
    if path not in before:
        return "added"
    return "changed" if path in after else "removed"


def _kind(what: str) -> str:
    return ", a link" if what.startswith(LINK) else ""


def _area(path: str) -> str:
    return next((area for beginning, area in AREAS if path.startswith(beginning)), PROGRAM)


def _files(root: Path, skipped: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield path and digest of every file; for a link, its target's path, not its target's content."""
    for folder, names, files in os.walk(root):
        links = [name for name in names if (Path(folder) / name).is_symlink()]
        paths = {name: (Path(folder) / name).relative_to(root).as_posix() for name in (*names, *files)}
        names[:] = sorted(name for name in set(names).difference(links) if paths[name] not in skipped)
        for name in sorted([*files, *links]):
            if paths[name] not in skipped:
                yield paths[name], _digest(Path(folder) / name)


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
    except (StackFileError, TableError, tomllib.TOMLDecodeError):
        return None
    except (KeyError, TypeError, AssertionError, RecursionError):
        return None


def requests(table: Table) -> dict[str, str]:
    """Return the requests that strangers may send, as text, each with the feature that it belongs to."""
    return {_request(row): row.feature for row in table.rows}


def _request(row: Row) -> str:
    return f"{' '.join(row.methods)} {row.path}{' with a link' if row.link else ''}, pattern {row.pattern}"
