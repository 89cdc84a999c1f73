"""`--help` explains every program that a person runs with `python -m`, and does nothing else."""

import os
import re
import subprocess
import sys

import pytest

from tests.bare_machine import as_ordinary_user
from toolchain.paths import PROJECT

OF_PROGRAMS = {
    "lab.bubble": "`python -m lab bubble` starts it",
    "lab.supervisor": "the lab starts it",
    "lab.nixos.build_system": "Nix starts it",
    "lab.nixos.nixos_rebuild": "`nixos-rebuild` on the lab's server",
    "lab.nixos.switch_to_configuration": "`switch-to-configuration` on the lab's server",
    "lab.stub.stub_immich": "Immich on the lab's server",
    "plugin": "the Pulumi engine starts it",
    "tests.lab.impostor": "a test starts it",
    "tests.lab.neighbour": "a test starts it",
    "tests.programs.tailscale": "`tailscale` of a test's machine",
    "tests.server.crowdsec": "a test starts it",
    "tests.unit.test_describe": "a test that also writes what it compares with",
    "tests.unit.test_plugin": "a test that also writes what it compares with",
}
"""By module: who starts it, if no person does."""


def programs() -> list[str]:
    """Return the modules that may be run with `python -m`."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.split()
    begins = re.compile(r'^if __name__ == "__main__":$', re.MULTILINE)
    found = [path for path in listed if begins.search((PROJECT / path).read_text())]
    return sorted(path.removesuffix(".py").removesuffix("/__main__").replace("/", ".") for path in found)


@pytest.mark.parametrize("module", sorted(set(programs()) - OF_PROGRAMS.keys()))
def test_help_only_explains(module: str) -> None:
    """As an ordinary user, who could change nothing here if it acted."""
    shown = subprocess.run(
        [*as_ordinary_user(), sys.executable, "-m", module, "--help"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert re.match(rf"usage: python3? -m {re.escape(module)}\b", shown.stdout), shown.stdout
    assert len(re.split(r"\n\s*\n", shown.stdout.strip())) > 1, "it says nothing but how it is called"


def test_what_programs_start_is_there() -> None:
    assert OF_PROGRAMS.keys() <= set(programs())
