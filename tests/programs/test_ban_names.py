"""The command on the server, and what a manual setup has banned, name the files of bans as the edge does."""

from pathlib import Path

import pytest

from components.remote.chapter_bans import ban_name
from tests.ban_names import ban_names
from tests.programs.harness import Machine, available_shells

each_row = pytest.mark.parametrize(("written", "name"), ban_names())


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    machine = Machine(tmp_path, request.param)
    machine.prepare()
    (machine.state / "bans/manual").mkdir(parents=True, exist_ok=True)
    return machine


@each_row
def test_the_command_names_the_file(machine: Machine, written: str, name: str | None) -> None:
    outcome = machine.run("exposure", "ban", written)
    found = [file.name for file in (machine.state / "bans/manual").iterdir()]
    assert found == ([] if name is None else [name]), outcome.stderr
    assert (outcome.status == 0) is (name is not None)
    if name is not None:
        assert machine.run("exposure", "unban", written).status == 0
        assert not list((machine.state / "bans/manual").iterdir())


@each_row
def test_the_list_of_a_manual_setup_names_the_file(written: str, name: str | None) -> None:
    assert ban_name(written) == name
