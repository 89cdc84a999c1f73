"""What the owner is told: a notice is noted down without waiting or failing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.scripts.harness import SCRIPTS, Machine, Outcome, available_shells

LIBRARY = (SCRIPTS / "lib.sh").read_text()
DELIVER = "systemctl start --no-block immich-exposure-notify.service"


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server, once for each shell."""
    machine = Machine(tmp_path, request.param)
    machine.prepare()
    return machine


def with_channel(machine: Machine) -> None:
    machine.write(machine.state / "notices/channel", "kind webhook\n", 0o600)
    (machine.state / "notices/waiting").mkdir(mode=0o700)


def tell(machine: Machine, kind: str, sentence: str) -> Outcome:
    return machine.run_text(f'{LIBRARY}\ntell "$1" "$2"\necho after\n', kind, sentence)


def waiting(machine: Machine) -> dict[str, str]:
    """Return the notices that wait, by kind."""
    found = machine.files(machine.state / "notices/waiting")
    return {name.split(".")[1]: text for name, text in found.items()}


def test_without_a_channel_nothing_is_noted_down(machine: Machine) -> None:
    assert tell(machine, "closed", "The funnel is shut.") == Outcome(0, "after\n", "")
    assert not (machine.state / "notices").exists()
    assert machine.commands("systemctl") == []


def test_a_notice_waits_for_its_delivery_which_nobody_waits_for(machine: Machine) -> None:
    with_channel(machine)
    assert tell(machine, "closed", "The funnel is shut.") == Outcome(0, "after\n", "")
    assert waiting(machine) == {"closed": "0600 The funnel is shut.\n"}
    assert machine.commands("systemctl") == [DELIVER]


@pytest.mark.parametrize("broken", ["no folder", "no room", "no unit"])
def test_what_cannot_be_told_stops_nothing(machine: Machine, broken: str) -> None:
    with_channel(machine)
    if broken == "no folder":
        (machine.state / "notices/waiting").rmdir()
    elif broken == "no room":
        for number in range(200):
            machine.write(machine.state / f"notices/waiting/1.bans.{number}", "x\n")
    else:
        machine.fake("systemctl", "exit 5")
    told = tell(machine, "closed", "The funnel is shut.")
    assert (told.status, told.stdout) == (0, "after\n")
    assert ("could not be noted down" in told.stderr) == (broken != "no unit")
    assert list((machine.state / "notices").glob(".new.*")) == []
