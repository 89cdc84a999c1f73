"""The levels of the rules of `policy/` for this stack: the group `policy`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from components.config.reader import Problems, Section
from components.config.stack_file import Stray
from policy.rules import RULES, Level, secrets_in


def read_policy(top: Section) -> dict[str, Level]:
    """Read the group `policy`: the level of each rule."""
    section = top.section("policy", example="{watched: mandatory}")
    levels = {
        rule.name: Level(section.choice(rule.name, choices=list(Level), default=rule.level)) for rule in RULES
    }
    section.refuse_unknown()
    return levels


_PLAIN = (
    "holds what looks like {what}, in plain text; create a new one, and store that encrypted with "
    "`pulumi config set --secret --path {path}`"
)


def secrets_of_others(values: Mapping[str, object], namespace: str) -> Iterator[Stray]:
    """Yield the keys of other namespaces whose plain-text values look like secrets; they share the file."""
    for key, value in values.items():
        if ":" in key and not key.startswith(f"{namespace}:"):
            yield from (
                (path, _PLAIN.format(what=what, path=path)) for path, what in secrets_in({key: value})
            )


def refuse_secrets(problems: Problems, raw: Mapping[str, object], secret_keys: Collection[str]) -> None:
    """Report plain-text values that look like secrets; the values themselves are not shown."""
    for path, what in secrets_in({key: value for key, value in raw.items() if key not in secret_keys}):
        key = path.partition(".")[0].partition("[")[0]
        if not problems.has(path, key):
            problems.add_stray(path, _PLAIN.format(what=what, path=path))


def lowered(levels: Mapping[str, str]) -> list[str]:
    """Return the rules whose level is below their default."""
    order = list(Level)
    return [rule.name for rule in RULES if order.index(Level(levels[rule.name])) < order.index(rule.level)]
