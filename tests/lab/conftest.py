"""A lab for each file in this folder: booted for its first test, taken down after its last."""

import os
from collections.abc import Iterator

import pytest

from lab import Lab
from lab.house import DEFAULT_HOUSE, house


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let one house be chosen for the walk."""
    parser.addoption("--house", action="append", default=[], help="walk in this house alone (may come twice)")


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark of tests that take the file's lab down."""
    config.addinivalue_line("markers", "takes_lab_down: leaves the lab down; such tests run last")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that take the lab down behind all of their file that build on it."""
    files = list(dict.fromkeys(item.path for item in items))
    items.sort(
        key=lambda item: (files.index(item.path), item.get_closest_marker("takes_lab_down") is not None)
    )


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The lab, up and untouched at the beginning of the file."""
    yield from fresh_lab(DEFAULT_HOUSE)


def fresh_lab(name: str) -> Iterator[Lab]:
    """A lab with this house, up and untouched."""
    if os.geteuid() != 0:
        pytest.skip("the lab makes namespaces and mounts, which only root may: run the tests as root")
    lab = Lab(report=print)
    lab.down()
    lab.up(house(name))
    yield lab
    lab.down()
