"""Another person's program, with the package from its wheel, under the real engine: examples/python."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.server.consumer import HOST_KEY, PASSPHRASE, Consumer, install_wheel
from toolchain.paths import PROJECT

pytestmark = pytest.mark.server


@pytest.fixture
def consumer(tmp_path: Path) -> Path:
    """Return the example, with the wheel in a virtual environment, and nothing of this tree in reach."""
    project = tmp_path / "photos"
    shutil.copytree(PROJECT / "examples/python", project)
    install_wheel(project, tmp_path)
    return project


def test_two_homes_in_one_program(consumer: Path, tmp_path: Path) -> None:
    pulumi = Consumer(consumer, tmp_path).well
    pulumi("stack", "init", "family")
    for key in ("homeKey", "cabinKey"):
        pulumi("config", "set", key, HOST_KEY)
    pulumi("config", "set", "--secret", "keystorePassphrase", PASSPHRASE)
    shown = pulumi("preview")
    assert "Traceback" not in shown and "components'" not in shown
    assert "home-funnel-close" in shown and "cabin-funnel-close" in shown
    assert "itself closes the funnel 72 hours after it was opened" in shown
    assert "keystore/family/home" in shown and "keystore/family/cabin" in shown
    assert sys.executable not in shown
