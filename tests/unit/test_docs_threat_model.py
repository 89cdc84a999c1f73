"""docs/threat-model.md: each promise names a file that keeps it and a test that breaks it; both are there."""

from __future__ import annotations

import re

import pytest

from toolchain.paths import PROJECT

PAGE = PROJECT / "docs" / "threat-model.md"
_ROW = re.compile(r"^\| (?P<promise>[^|]+) \| (?P<kept>`[^|]+`) \| (?P<broken>`[^|]+`) \|$", re.M)
ROWS = [match.groupdict() for match in _ROW.finditer(PAGE.read_text(encoding="utf-8"))]


def test_there_are_promises_in_each_part() -> None:
    text = PAGE.read_text(encoding="utf-8")
    guards = text.partition("## Guards")[2].partition("\n## ")[0]
    tables = guards.count("| promise | kept by | broken by |")
    assert tables == guards.count("\n### ")
    assert len(ROWS) == sum(line.startswith("|") for line in guards.splitlines()) - 2 * tables


@pytest.mark.parametrize("row", ROWS, ids=[row["promise"][:40] for row in ROWS])
def test_what_keeps_a_promise_and_what_breaks_it_are_there(row: dict[str, str]) -> None:
    for path in _named(row["kept"]):
        assert (PROJECT / path).is_file(), path
    for place in _named(row["broken"]):
        path, _, name = place.partition("::")
        text = (PROJECT / path).read_text(encoding="utf-8")
        tests = re.findall(r"^(?:    )?(?:def|func) (\w+)\(", text, re.M)
        assert name in tests if name else any(each.startswith("test_") for each in tests), place


def _named(cell: str) -> list[str]:
    found: list[str] = re.findall(r"`([^`]+)`", cell)
    assert re.fullmatch(r"`[^`]+`(, `[^`]+`)*", cell), f"only names in backticks may stand here: {cell}"
    return found
