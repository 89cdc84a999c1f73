"""One lab for all tests of this folder: booted once, taken down at the end."""

import os
from collections.abc import Iterator

import pytest

from lab import Lab


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark of tests that take the session's lab down."""
    config.addinivalue_line("markers", "takes_lab_down: leaves the lab down; such tests run last")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that take the lab down behind all that build on it."""
    items.sort(key=lambda item: item.get_closest_marker("takes_lab_down") is not None)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab, up and untouched at the beginning of the session."""
    if os.geteuid() != 0:
        pytest.skip("the lab makes namespaces and mounts, which only root may: run the tests as root")
    lab = Lab(report=print)
    lab.down()
    lab.up()
    yield lab
    lab.down()
