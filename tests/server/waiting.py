"""Waiting for what must come true, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 10.0
"""Seconds after which a condition that must come true counts as failed."""


class HarnessError(RuntimeError):
    """The harness itself could not do its work; the text says what and how to mend it."""


def wait_until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Return as soon as the condition holds; raise HarnessError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise HarnessError(f"Waited {patience:.0f} s in vain for this: {what}.")
        time.sleep(0.01)
