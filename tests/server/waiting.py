"""Waiting for what must come true, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 10.0
"""Seconds after which a condition that must come true counts as failed."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.25
"""Seconds between two looks: many a look is a login to the server, so what is long in coming has fewer."""


class HarnessError(RuntimeError):
    """The harness itself could not do its work; the text says what and how to mend it."""


def wait_until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Return as soon as the condition holds; raise HarnessError after `patience` seconds."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > patience:
            raise HarnessError(f"Waited {patience:.0f} s in vain for this: {what}.")
        time.sleep(min(max(waited / 20, SHORTEST_PAUSE), LONGEST_PAUSE))
