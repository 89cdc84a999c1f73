"""What each test of the unit tier has: an event loop, and whole tracebacks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest

from tests.unit.loops import own_loop


@pytest.fixture(autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of the test's own."""
    with own_loop() as loop:
        yield loop


@pytest.fixture(autouse=True)
def tracebacks() -> Iterator[None]:
    """Lift the limit that a refusal sets for the process: the SDK looks for its caller in the frames."""
    yield
    sys.__dict__.pop("tracebacklimit", None)
