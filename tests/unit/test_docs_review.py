"""The pages review, environments and package: each command is run, or it is said where and why not here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
CASE = Path(__file__).with_name("describe") / "04-a-phone-is-lost"
COMPILED = shutil.ignore_patterns("__pycache__")

ELSEWHERE = {
    "pulumi preview --policy-pack policy": "tests/server/test_policy_pack.py",
    "pulumi config set --secret keystorePassphrase --stack cabin": "the same words in .ci/operator",
    "pulumi stack init cabin --no-select": "the same words in .ci/operator, by make",
    "pulumi preview --diff --stack cabin": "the same words in .ci/operator, by make",
    "pulumi login --local": "tests/lab/operator.py, by its environment variable",
    "pulumi login s3://bucket?endpoint=...": "tests/server/test_backend_s3.py, by its environment variable",
    "pulumi login": "not tried: needs an account, and the page says so",
    "pulumi cancel --stack home": "tests/faults/home.py",
    "python -m pip wheel --no-deps --wheel-dir dist .": "tests/unit/test_package.py, by its backend",
    "pulumi package add https://github.com/OWNER/immich-exposure/plugin@TAG": "its folder is tried in "
    "tests/server/test_plugin.py",
    "pulumi new https://github.com/OWNER/immich-exposure/tree/TAG/template": "its folder is tried in "
    "tests/server/test_template.py",
    ".venv/bin/python -m pip install --no-deps --requirement policy/requirements.txt": "the Makefile",
}
HERE = (
    ".venv/bin/python -m components.describe stacks/Pulumi.home.yaml ../changed/stacks/Pulumi.home.yaml",
    ".venv/bin/python -m components.describe stacks/Pulumi.home.yaml ../changed/stacks/Pulumi.home.yaml "
    "--old-project . --new-project ../changed --links https://github.com/you/photos/pull/7/files",
    "cp stacks/Pulumi.home.yaml.example stacks/Pulumi.cabin.yaml",
)


def words(command: str) -> tuple[str, ...]:
    return tuple(shlex.split(command, comments=True))


def commands(name: str) -> set[tuple[str, ...]]:
    """Return the commands of a page: indented lines that begin with a program."""
    text = (PROJECT / "docs" / name).read_text().replace("\\\n", " ")
    program = r"(?:python|pulumi|cp|make|\.venv/bin/python|\.ci/\w+) .*"
    return {words(line) for line in re.findall(rf"^    ({program})$", text, re.M)}


def test_every_command_is_run_somewhere() -> None:
    found = commands("review.md") | commands("environments.md") | commands("package.md")
    assert found == {words(each) for each in (*HERE, *ELSEWHERE)}
    for place in ELSEWHERE.values():
        named = re.match(r"tests/[\w/.]+", place)
        assert named is None or (PROJECT / named[0]).is_file(), place


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
