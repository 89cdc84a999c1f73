"""The pages review and environments: commands that need no engine and no server are run as they stand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.documents import words
from toolchain.paths import PROJECT

CASE = PROJECT / "tests" / "unit" / "describe" / "04-a-phone-is-lost"
COMPILED = shutil.ignore_patterns("__pycache__")

HERE = (
    ".venv/bin/python -m components.describe stacks/Pulumi.home.yaml ../changed/stacks/Pulumi.home.yaml",
    ".venv/bin/python -m components.describe stacks/Pulumi.home.yaml ../changed/stacks/Pulumi.home.yaml "
    "--old-project . --new-project ../changed --links https://github.com/you/photos/pull/7/files",
    "cp stacks/Pulumi.home.yaml.example stacks/Pulumi.cabin.yaml",
)


@pytest.mark.parametrize("command", HERE, ids=range(len(HERE)))
def test_a_command_does_what_the_page_says(tmp_path: Path, command: str) -> None:
    for name, file in (("here", "old.yaml"), ("changed", "new.yaml")):
        for part in ("components", "pki", "policy", "server", "toolchain"):
            shutil.copytree(PROJECT / part, tmp_path / name / part, ignore=COMPILED)
        shutil.copytree(PROJECT / "stacks", tmp_path / name / "stacks")
        shutil.copy(PROJECT / "Pulumi.yaml", tmp_path / name)
        shutil.copy(CASE / file, tmp_path / name / "stacks/Pulumi.home.yaml")
    (tmp_path / "here/.venv").symlink_to(sys.prefix)
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        words(command), cwd=tmp_path / "here", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "components.describe" in command:
        assert "loses access for good" in done.stdout
    else:
        assert (tmp_path / "here/stacks/Pulumi.cabin.yaml").is_file()
