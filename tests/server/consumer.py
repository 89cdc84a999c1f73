"""Somebody else's project under the real engine, with the package from its wheel or its plugin."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import toolchain
from toolchain import wheel_backend
from toolchain.paths import PROJECT

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ"
PASSPHRASE = "correct horse battery staple"


class Consumer:
    """A project in `folder`, with its backend and Pulumi's own folder in `around`."""

    def __init__(self, folder: Path, around: Path) -> None:
        self.folder = folder
        self._environment = {
            **os.environ,
            **toolchain.pulumi_environment(),
            "PULUMI_BACKEND_URL": f"file://{around}",
            "PULUMI_CONFIG_PASSPHRASE": "the stack's own",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_HOME": str(around / "home"),
            "NO_COLOR": "1",
        }
        self._environment.pop("SSH_AUTH_SOCK", None)
        self._environment["PATH"] += f"{os.pathsep}{PROJECT / '.toolchain/bin'}"

    def pulumi(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command of Pulumi's."""
        command = [str(toolchain.program("pulumi")), *arguments, "--non-interactive"]
        return subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=300
        )

    def well(self, *arguments: str) -> str:
        """Run one that ends well, and return what it says."""
        done = self.pulumi(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def install_wheel(folder: Path, around: Path) -> None:
    """Make `folder`/venv with the wheel in it, and nothing else of this tree in reach."""
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    wheel = around / wheel_backend.build_wheel(str(around))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # What it needs besides, from here: installing it anew would take a minute.
    (site / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
