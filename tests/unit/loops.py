"""Event loops, which the SDK's outputs want."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from pulumi.runtime.settings import SETTINGS


@contextmanager
def own_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop for as long as this lasts; the outputs that nobody has asked for until then end with it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        set_meanwhile = asyncio.get_event_loop()
        for each in (loop, set_meanwhile):
            _end(each)
        SETTINGS.outputs.clear()


def _end(loop: asyncio.AbstractEventLoop) -> None:
    while not loop.is_closed() and (left := asyncio.all_tasks(loop)):
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left))
    loop.close()
