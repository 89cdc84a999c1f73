"""A short random walk from a fixed seed (tests/faults/walk.py); `make walk` draws others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.walk import walk

pytestmark = pytest.mark.lab

SEED, STEPS = 3, 4


def test_it_ends_right(tmp_path: Path) -> None:
    assert walk(SEED, STEPS, tmp_path) == ""
