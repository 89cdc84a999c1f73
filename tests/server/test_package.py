"""Another person's program, with the package from its wheel, under the real engine: examples/python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import toolchain
from toolchain import wheel_backend

PROJECT = Path(__file__).resolve().parents[2]
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ"

pytestmark = pytest.mark.server


@pytest.fixture
def consumer(tmp_path: Path) -> Path:
    """Return the example, with the wheel in a virtual environment, and nothing of this tree in reach."""
    project = tmp_path / "photos"
    shutil.copytree(PROJECT / "examples/python", project)
    venv.create(project / "venv", with_pip=False)
    (site,) = (project / "venv/lib").glob("python*/site-packages")
    wheel = tmp_path / wheel_backend.build_wheel(str(tmp_path))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # What it needs besides, from here: installing it anew would take a minute.
    (site / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return project


def test_two_homes_in_one_program(consumer: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        **toolchain.pulumi_environment(),
        "PULUMI_BACKEND_URL": f"file://{tmp_path}",
        "PULUMI_CONFIG_PASSPHRASE": "the stack's own",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_HOME": str(tmp_path / "home"),
        "NO_COLOR": "1",
    }
    environment.pop("SSH_AUTH_SOCK", None)

    def pulumi(*arguments: str) -> str:
        command = [str(toolchain.program("pulumi")), *arguments, "--non-interactive"]
        done = subprocess.run(command, cwd=consumer, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pulumi("stack", "init", "family")
    for key in ("homeKey", "cabinKey"):
        pulumi("config", "set", key, HOST_KEY)
    pulumi("config", "set", "--secret", "keystorePassphrase", "correct horse battery staple")
    shown = pulumi("preview")
    assert "Traceback" not in shown and "components'" not in shown
    assert "home-funnel-door" in shown and "cabin-funnel-door" in shown
    assert "closes the funnel by itself 72 hours after it was opened" in shown
    assert "keystore/family/home" in shown and "keystore/family/cabin" in shown
    assert sys.executable not in shown
