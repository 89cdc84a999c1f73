"""Part of the fault matrix (tests/faults): after a kill or a fault, the exposure ends closed or proven."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.matrix import play
from tests.faults.rows import Row, all_rows

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("row", [row for row in all_rows() if row.often], ids=lambda row: row.name)
def test_it_ends_right(row: Row, tmp_path: Path) -> None:
    verdict = play(row, tmp_path)
    assert verdict.wrong == ""
    assert verdict.outside, "the stranger has asked"
