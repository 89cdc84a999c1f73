"""What each test of the unit tier has: an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.unit.loops import own_loop


@pytest.fixture(autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of the test's own."""
    with own_loop() as loop:
        yield loop
