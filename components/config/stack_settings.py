"""The settings of a stack file as the engine will pass them on, read without the engine or any secret.

A pull request is described before anybody trusts it. So the file is read as strictly as the engine reads it,
nothing else is opened because of its content, and encrypted values stay encrypted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.config import stack_file
from components.config.policy import secrets_of_others
from components.config.stack_config import FIELDS, HIDDEN_HOST, HIDDEN_HOST_KEY, NAMESPACE, SECRETS, decoded

SIZE_LIMIT = 1 << 20
"""Bytes of a stack file; a thousand devices take 60,000."""

HOW_IT_ENCRYPTS = ("secretsprovider", "encryptedkey", "encryptionsalt")

HIDDEN = "known-to-the-passphrase-alone.q7Zk2vXw9"
"""Stands in for a secret while the other settings are checked; it is valid for each of `SECRETS`."""

STAND_INS = {"host": HIDDEN_HOST, "hostKey": HIDDEN_HOST_KEY}
"""Stand-ins for encrypted values of required keys."""


class StackFileError(ValueError):
    """The file cannot be read as the engine reads it; the message says where and why."""


@dataclass(frozen=True)
class StackSettings:
    """The content of a stack file.

    `values` has the keys without their namespace, decoded, with `HIDDEN` for a secret. `secrets` has a digest
    of each encrypted value, by key, so that a change shows. `hidden` lists keys that are encrypted without
    being among `SECRETS`: their values are left out. `environments` lists those of Pulumi ESC, which may set
    anything. `salt` identifies how the engine encrypts.
    """

    values: Mapping[str, object]
    secrets: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    strays: tuple[stack_file.Stray, ...] = ()
    environments: tuple[str, ...] = ()
    salt: str = ""


def read_file(path: Path) -> str | None:
    """Return a file's text; None if there is no such file.

    No link is followed: one in a pull request could point to anything on the machine that describes it.

    Raises:
        StackFileError: it is not a plain text file of a reasonable size.
    """
    if path == Path(os.devnull):
        return None
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise StackFileError("it is not a plain file but a link, a folder or a device, so it is not read")
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(content) > SIZE_LIMIT:
        raise StackFileError(f"it has {len(content)} bytes, more than the {SIZE_LIMIT} of any sensible stack")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise StackFileError(f"line {line}: it is not text in UTF-8") from error


def read_settings(text: str, file_name: str, defaults: Mapping[str, object] | None = None) -> StackSettings:
    """Return the settings of a stack file; `defaults` are those of the project, without namespace.

    Raises:
        StackFileError: it does not parse, with line and column.
    """
    document = parse(text)
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise StackFileError("line 1: it must be a group of settings that begins with `config:`")
    config = document.get("config") or {}
    if not isinstance(config, dict):
        raise StackFileError("`config` must be a group of settings")
    found = _Found()
    for key, value in config.items():
        found.take(str(key), value)
    values = {**(defaults or {}), **found.values}
    return StackSettings(
        values={key: _as_the_program_gets_it(key, value) for key, value in values.items()},
        secrets=found.secrets,
        hidden=tuple(sorted(found.hidden)),
        strays=(
            *stack_file.in_other_namespaces(map(str, config), NAMESPACE),
            *stack_file.spelled_twice(map(str, config), NAMESPACE),
            *((key, "is not a known key, and encrypted") for key in sorted(found.hidden.difference(FIELDS))),
            *secrets_of_others({str(key): value for key, value in config.items()}, NAMESPACE),
            *stack_file.beside_config(document, file_name, NAMESPACE),
        ),
        environments=tuple(_environments(document.get("environment"))),
        salt=" ".join(str(document.get(key, "")) for key in HOW_IT_ENCRYPTS),
    )


def project_defaults(text: str) -> dict[str, object]:
    """Return the defaults that a project's Pulumi.yaml gives its stacks, without namespace.

    Raises:
        StackFileError: it does not parse, with line and column.
    """
    document = parse(text)
    config = document.get("config") if isinstance(document, dict) else None
    defaults: dict[str, object] = {}
    for key, entry in config.items() if isinstance(config, dict) else ():
        name = stack_file.own_name(str(key), NAMESPACE)
        if name is None:
            continue
        if not isinstance(entry, dict):
            defaults[name] = entry
        elif "value" in entry or "default" in entry:
            defaults[name] = entry.get("value", entry.get("default"))
    return defaults


class _Found:
    """The values found below `config:`, taken one by one."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.secrets: dict[str, str] = {}
        self.hidden: set[str] = set()

    def take(self, key: str, value: object) -> None:
        name = stack_file.own_name(key, NAMESPACE)
        if name is None:
            return
        encrypted = list(_encrypted(value))
        if not encrypted:
            self.values[name] = value
            return
        self.secrets[name] = hashlib.sha256("\n".join(encrypted).encode()).hexdigest()
        if name in SECRETS:
            self.values[name] = HIDDEN
            return
        self.hidden.add(name)
        if name in STAND_INS:
            self.values[name] = STAND_INS[name]


def _encrypted(value: object) -> Iterator[str]:
    """Yield every ciphertext in a value: a group whose only key is `secure`."""
    if isinstance(value, Mapping):
        if set(value) == {"secure"}:
            yield str(value["secure"])
            return
        for each in value.values():
            yield from _encrypted(each)
    elif isinstance(value, list):
        for each in value:
            yield from _encrypted(each)


def _as_the_program_gets_it(key: str, value: object) -> object:
    """Return a value as the engine turns it into text and the program decodes that."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return decoded(key, str(value).lower())
    if isinstance(value, float) and value.is_integer():
        return decoded(key, str(int(value)))
    if isinstance(value, int | float):
        return decoded(key, str(value))
    return decoded(key, value) if isinstance(value, str) else json.loads(json.dumps(value))


def _environments(named: object) -> Iterator[str]:
    for each in named if isinstance(named, list) else [named] if named else []:
        yield str(each) if isinstance(each, str) else "one that is written out in the file"


# YAML as the engine reads it (gopkg.in/yaml.v3): no duplicate keys, `yes` is text, `22:30` is text, and the
# program does not accept a timestamp without quotes.


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads like the engine, but refuses what is hard to read, or what two parsers understand differently.

    Aliases let a small file expand to a huge one; tags and merge keys mean one thing here and another to the
    engine (`!!merge x:` is a merge here, and a key there).
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        what = ""
        if isinstance(event, yaml.AliasEvent):
            what = "an alias (*)"
        elif getattr(event, "tag", None) is not None:
            what = "a tag (!)"
        if what:
            raise StackFileError(
                f"{_at(event.start_mark)}: {what} is not accepted; write the settings out in full"
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[object, yaml.Mark] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise StackFileError(
                    f"{_at(key_node.start_mark)}: a merge key (<<) is not accepted; write the settings out "
                    "in full"
                )
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                raise StackFileError(
                    f"{_at(key_node.start_mark)}: {key} is set a second time, after "
                    f"{_at(seen[key])}; remove one of the two"
                )
            seen[key] = key_node.start_mark
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def _moment_as_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return f"{loader.construct_scalar(node)} without quotes"


_WORDS = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":int", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _WORDS, list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _moment_as_text)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.lstrip("+"))
    octal = re.fullmatch(r"0o?([0-7]+)", digits)
    return sign * (int(octal[1], 8) if octal else int(digits, 0))


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def parse(text: str) -> Any:
    """Return the document as the engine understands it.

    Raises:
        StackFileError: with line and column.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{_at(mark)}: " if mark else ""
        raise StackFileError(f"{where}{error.problem or error.context}") from error
    except RecursionError as error:
        raise StackFileError("it is nested too deeply") from error
    except StackFileError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise StackFileError(str(error).splitlines()[0]) from error


def _at(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
