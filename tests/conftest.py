"""Which cases run under which shell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

SHELLS = {"dash", "bash"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave half of the cases of scripts to the night.

    A test with one case runs under bash, which is /bin/sh on NixOS; the lab's /bin/sh is dash. Of a
    parametrised test every case runs under one shell, by turns; of two parameters each value meets both. A
    case that was asked for by its name runs under the shell that it names.
    """
    tests: dict[tuple[Path, str], list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and _shell(item) in SHELLS:
            tests[item.path, item.originalname].append(item)
    for cases in tests.values():
        if {_shell(case) for case in cases} == SHELLS:
            _share_out(cases)


def _shell(item: pytest.Function) -> object:
    return item.callspec.params.get("machine") if hasattr(item, "callspec") else None


def _share_out(cases: Sequence[pytest.Function]) -> None:
    if len(cases) == len(SHELLS):
        for case in cases:
            if _shell(case) != "bash":
                case.add_marker(pytest.mark.nightly)
        return
    seen: dict[str, list[object]] = {name: [] for name in ("machine", *_leading(cases[0]))}
    for case in cases:
        turn = 0
        for name, values in seen.items():
            value = case.callspec.params[name]
            if not any(value is other for other in values):
                values.append(value)
            turn += next(place for place, other in enumerate(values) if value is other)
        if turn % 2:
            case.add_marker(pytest.mark.nightly)


def _leading(case: pytest.Function) -> list[str]:
    """One name for each ``parametrize``: what it gives together changes together."""
    marks = (mark.args[0] for mark in case.iter_markers("parametrize"))
    return [(names.split(",") if isinstance(names, str) else names)[0].strip() for names in marks]
