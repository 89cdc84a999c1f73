"""The edge compiled on the operator's machine, pushed, and accepted by its hash; with the real engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.lab.operator import Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.whole_server import root
from toolchain import paths

pytestmark = pytest.mark.lab

RUNNING = "sha256sum < /proc/$(systemctl show -P MainPID immich-edge)/exe | cut -d ' ' -f 1"


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Somebody with a small server. The tests run in the order in which they stand."""
    person = Operator(tmp_path_factory.mktemp("edge"), lab.info(), stack="edge-built-here")
    person.init()
    person.set(edgeBuild="operator")
    yield person


def test_a_machine_without_go_is_told_before_anything_is_changed(
    lab: Lab, operator: Operator, tmp_path: Path
) -> None:
    path = operator.environment["PATH"]
    operator.environment["PATH"] = ":".join(_without_go(place, tmp_path) for place in path.split(":"))
    try:
        assert "there is no `go` on PATH" in operator.fails()
    finally:
        operator.environment["PATH"] = path
    assert root(lab, "ls -d /var/lib/immich-exposure /etc/nixos/immich-exposure 2>/dev/null") == ""


def _without_go(place: str, folder: Path) -> str:
    """Return a folder of programs, or another one with links to all of them but Go."""
    if not (Path(place) / "go").exists():
        return place
    others = folder / place.replace("/", "-")
    others.mkdir(exist_ok=True)
    for program in Path(place).iterdir():
        if program.name != "go" and not (others / program.name).is_symlink():
            (others / program.name).symlink_to(program)
    return str(others)


def test_what_was_built_here_runs_there(lab: Lab, operator: Operator) -> None:
    operator.up()
    (program,) = paths.HOME.glob("edge-a*64")
    assert root(lab, RUNNING) == hashlib.sha256(Path(program).read_bytes()).hexdigest()
    assert seen(lab, "/") == FORBIDDEN


def test_a_second_up_changes_nothing(operator: Operator) -> None:
    operator.up()
    assert set(operator.changes()) == {"same"}


def test_a_file_that_was_altered_does_not_build(lab: Lab, operator: Operator) -> None:
    root(lab, "for file in /var/lib/immich-exposure/edge-*; do printf x >> $file; done")
    refused = lab.console("cd /tmp && nixos-rebuild build")
    assert refused.returncode != 0
    assert "is not the edge that the configuration names" in refused.stderr
    assert seen(lab, "/") == FORBIDDEN


def test_destroy_takes_it_back(lab: Lab, operator: Operator) -> None:
    """What else it leaves as it was is for the houses to show."""
    operator.destroy()
    assert seen(lab, "/") == REFUSED
    assert root(lab, "ls -d /var/lib/immich-exposure /etc/nixos/immich-exposure 2>/dev/null") == ""
