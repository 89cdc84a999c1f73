"""Pulumi's state in a store that speaks S3 (moto's): two people with one stack, two stacks at once."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import toolchain
from toolchain.paths import PROJECT

MOTO = PROJECT / ".toolchain/moto/bin/moto_server"
PROGRAM = """
import time, pulumi
time.sleep(float(pulumi.Config().get("seconds") or 0))
pulumi.export("stack", pulumi.get_stack())
"""

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not MOTO.exists(), reason="`make nightly` installs moto"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """An S3 of this machine alone, with a bucket; yields the address of a Pulumi backend."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with (tmp_path / "moto.log").open("w") as log:
        server = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                bucket = urllib.request.Request(f"http://127.0.0.1:{port}/state", method="PUT")
                urllib.request.urlopen(bucket, timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        yield f"s3://state?endpoint=http://127.0.0.1:{port}&s3ForcePathStyle=true&region=us-east-1"
    finally:
        server.terminate()
        server.wait()


class Person:
    """Somebody with a Pulumi of their own and the same program and store."""

    def __init__(self, name: str, folder: Path, store: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            **toolchain.pulumi_environment(),
            "PULUMI_BACKEND_URL": store,
            "PULUMI_CONFIG_PASSPHRASE": "the stack's own",
            "PULUMI_HOME": str(folder / name),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
            "NO_COLOR": "1",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(toolchain.program("pulumi")), *arguments, "--non-interactive"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pulumi(self, *arguments: str, ok: bool = True) -> str:
        with self.start(*arguments) as process:
            shown = process.communicate(timeout=240)[0]
        assert (process.returncode == 0) is ok, shown
        return shown


def test_two_people_and_two_stacks_in_one_store(tmp_path: Path, store: str) -> None:
    (tmp_path / "Pulumi.yaml").write_text(
        f"name: tiny\nruntime: {{name: python, options: {{virtualenv: {PROJECT / '.venv'}}}}}\n"
    )
    (tmp_path / "__main__.py").write_text(PROGRAM)
    anna, ben = Person("anna", tmp_path, store), Person("ben", tmp_path, store)
    for stack in ("home", "cabin"):
        anna.pulumi("stack", "init", stack)
    anna.pulumi("config", "set", "seconds", "20", "--stack", "home")
    up = ("up", "--yes", "--skip-preview", "--stack")
    with anna.start(*up, "home") as running:
        assert running.stdout is not None
        while "Updating" not in running.stdout.readline():  # by then the lock is there
            assert running.poll() is None
        refused = ben.pulumi(*up, "home", ok=False)
        assert "the stack is currently locked by 1 lock(s)" in refused and "pulumi cancel" in refused
        assert "1 created" in ben.pulumi(*up, "cabin")
        assert "1 created" in running.stdout.read()
    assert ben.pulumi("stack", "output", "stack", "--stack", "home").strip().endswith("home")
