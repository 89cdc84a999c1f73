"""Settings that have no effect because of their place in the stack file.

The engine reads what is below `config:` in the project's own namespace. It ignores everything else silently,
so a setting that its owner relies on would be missing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import yaml

ENGINE_KEYS = frozenset({"config", "encryptedkey", "encryptionsalt", "environment", "secretsprovider"})
"""The top-level keys of a stack file (pulumi: sdk/go/common/workspace, ProjectStack)."""

Stray = tuple[str, str]
"""A key that has no effect, and the message about it."""


def stack_file(project_dir: Path, stack: str) -> Path:
    """Return the path of the stack's settings; `stackConfigDir` in Pulumi.yaml names the folder."""
    return project_dir / "stacks" / f"Pulumi.{stack}.yaml"


def uncertain(file: Path, namespace: str, project: str) -> Iterator[Stray]:
    """Yield the settings of a stack file that are at its top level, or are spelled in two ways.

    A key without a namespace is in that of `project`. Yields nothing if the file is missing or unreadable.
    """
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return  # the engine has already refused what it cannot read
    if isinstance(document, dict):
        yield from beside_config(document, file.name, namespace)
        config = document.get("config")
        keys = map(str, config if isinstance(config, dict) else ())
        yield from spelled_twice((key for key in keys if ":" in key or project == namespace), namespace)


def own_name(key: str, namespace: str) -> str | None:
    """Return a key without its namespace, in every form the engine accepts; None for another namespace."""
    space, colon, name = key.partition(":")
    if not colon:
        return key
    return name.removeprefix("config:") if space == namespace else None


def spelled_twice(keys: Iterable[str], namespace: str) -> Iterator[Stray]:
    """Yield the keys that are the same setting as an earlier one, in another of the engine's spellings.

    The engine takes one of the two, and not the same one each time.
    """
    spelled: dict[str, str] = {}
    for key in keys:
        name = own_name(key, namespace)
        if name is None:
            continue
        other = spelled.setdefault(name, key)
        if other != key:
            yield key, f"is the same setting as {other}, and either may apply; remove one of the two"


def beside_config(document: Iterable[object], file_name: str, namespace: str) -> Iterator[Stray]:
    """Yield the settings among the keys at the top level of a stack file."""
    for key in document:
        if key not in ENGINE_KEYS:
            name = str(key).rpartition(":")[2]
            said = f"is next to `config:` in {file_name}, where it has no effect"
            yield str(key), f"{said}; move it below `config:` as `  {namespace}:{name}: ...`"


def in_other_namespaces(keys: Iterable[str], namespace: str) -> Iterator[Stray]:
    """Yield the keys whose namespace nearly matches this one."""
    for key in keys:
        space, colon, name = key.partition(":")
        if colon and space != namespace and _is_nearly(space, namespace):
            said = f"is not a known key: the namespace is {namespace}, not {space}"
            yield key, f"{said}; write `{namespace}:{name}: ...`"


def in_the_programs(
    keys: Collection[str], project: str, namespace: str, known: Collection[str]
) -> Iterator[Stray]:
    """Yield our settings that are in the namespace of somebody else's program, such as one of `template/`.

    `pulumi config set` puts a key there that is given without a namespace. A program may have a setting of
    that name for itself, if ours is set as well.
    """
    for key in keys:
        space, _, name = key.partition(":")
        if space == project != namespace and name in known and f"{namespace}:{name}" not in keys:
            yield (
                key,
                f"is not read by immich-exposure, whose namespace is its own; write `{namespace}:{name}`",
            )


def _is_nearly(space: str, namespace: str) -> bool:
    seen, meant = (re.sub(r"[^a-z]", "", text.lower()) for text in (space, namespace))
    return seen.startswith("immich") or difflib.SequenceMatcher(None, seen, meant).ratio() > 0.8
