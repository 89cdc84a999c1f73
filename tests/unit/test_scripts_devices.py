"""devices.sh: certificates that end, the one of before in its grace, and what the timer removes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.scripts.harness import Machine, Outcome, assert_sentence, available_shells

NOW = 1_000_000
"""What the pretend server's clock says."""

NEW, OLD, OTHER = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server, once for each shell."""
    return Machine(tmp_path, request.param)


def devices(machine: Machine) -> dict[str, str]:
    return machine.files(machine.state / "devices")


def enrol(machine: Machine, *arguments: str | int) -> Outcome:
    return machine.run("devices", "enrol", *map(str, arguments))


def test_a_device_file_says_when_its_certificate_ends(machine: Machine) -> None:
    assert enrol(machine, "phone", NEW, NOW + 10) == Outcome(0, "", "Device phone may come in\n")
    assert devices(machine) == {NEW: f"0644 phone\nuntil {NOW + 10}\n"}
    assert enrol(machine, "phone", NEW, NOW + 10) == Outcome(0, "", "")
    assert machine.commands("systemctl") == [], "enrolling must need no reload"


def test_the_certificate_of_before_counts_until_its_grace_ends(machine: Machine) -> None:
    enrol(machine, "phone", OLD, NOW + 9000)
    enrol(machine, "laptop", OTHER, NOW + 9000)
    enrol(machine, "phone", NEW, NOW + 99000, OLD, NOW + 10)
    assert devices(machine) == {
        NEW: f"0644 phone\nuntil {NOW + 99000}\n",
        OLD: f"0644 phone\nuntil {NOW + 10}\n",
        OTHER: f"0644 laptop\nuntil {NOW + 9000}\n",
    }
    enrol(machine, "phone", NEW, NOW + 99000)
    assert set(devices(machine)) == {NEW, OTHER}


def test_a_grace_that_is_over_lets_nobody_in(machine: Machine) -> None:
    enrol(machine, "phone", OLD, NOW + 9000)
    enrol(machine, "phone", NEW, NOW + 99000, OLD, NOW)
    assert set(devices(machine)) == {NEW}


def test_only_the_two_certificates_of_a_device_stay(machine: Machine) -> None:
    enrol(machine, "phone", OTHER, NOW + 9000)
    enrol(machine, "phone", NEW, NOW + 99000, OLD, NOW + 10)
    assert set(devices(machine)) == {NEW, OLD}


def test_withdrawing_takes_the_certificate_of_before_as_well(machine: Machine) -> None:
    enrol(machine, "phone", NEW, NOW + 99000, OLD, NOW + 10)
    enrol(machine, "laptop", OTHER, NOW + 9000)
    assert machine.run("devices", "withdraw", "phone").status == 0
    assert set(devices(machine)) == {OTHER}


def test_what_has_ended_goes_by_itself(machine: Machine) -> None:
    enrol(machine, "phone", NEW, NOW + 1, OLD, NOW + 1)
    enrol(machine, "laptop", OTHER, NOW + 60)
    assert machine.run("devices", "expire") == Outcome(0, "", "")
    assert len(devices(machine)) == 3
    machine.remember(clock=str(NOW + 1))
    ended = "A certificate of device phone has ended and may no longer come in\n"
    assert machine.run("devices", "expire") == Outcome(0, "", ended * 2)
    assert set(devices(machine)) == {OTHER}
    assert machine.run("devices", "expire") == Outcome(0, "", "")
    assert machine.commands("systemctl") == [], "it must need no reload"


def test_a_clock_that_ran_ahead_shuts_nobody_out_for_good(machine: Machine) -> None:
    """A Raspberry Pi has no clock of its own, and no `up` would bring back what it did not change."""
    enrol(machine, "phone", NEW, NOW + 99000, OLD, NOW + 10)
    for file in (machine.state / "devices").iterdir():
        os.utime(file, (NOW, NOW))
    before = devices(machine)
    machine.remember(clock=str(NOW + 10**9))
    machine.run("devices", "expire")
    assert devices(machine) == {}
    machine.remember(clock="0")
    assert machine.run("devices", "expire") == Outcome(0, "", "")
    assert devices(machine) == {}, "a clock that begins at 1970 must bring back nobody whose time is over"
    machine.remember(clock=str(NOW + 9))
    back = "A certificate of device phone counts again: the clock had run ahead\n"
    assert machine.run("devices", "expire") == Outcome(0, "", back * 2)
    assert devices(machine) == before


@pytest.mark.parametrize("how", ["withdraw", "renew", "begin"])
def test_what_has_ended_never_comes_back_for_who_is_withdrawn(machine: Machine, how: str) -> None:
    enrol(machine, "phone", OLD, NOW + 10)
    os.utime(machine.state / "devices" / OLD, (NOW, NOW))
    machine.remember(clock=str(NOW + 11))
    machine.run("devices", "expire")
    machine.remember(clock=str(NOW))
    if how == "withdraw":
        machine.run("devices", "withdraw", "phone")
    elif how == "renew":
        enrol(machine, "phone", NEW, NOW + 99)
    else:
        machine.begin("laptop")
    machine.run("devices", "expire")
    assert OLD not in devices(machine)


@pytest.mark.parametrize(
    "end", ["", "until\n", "until soon\n", "until -1\n", "until 1 2\n", "until 123456789012345\n"]
)
def test_what_says_no_readable_end_stays(machine: Machine, end: str) -> None:
    enrol(machine, "laptop", OTHER, NOW + 60)
    machine.write(machine.state / f"devices/{NEW}", f"phone\n{end}")
    assert machine.run("devices", "expire") == Outcome(0, "", "")
    assert set(devices(machine)) == {NEW, OTHER}


def test_expiring_without_any_device_is_fine(machine: Machine) -> None:
    assert machine.run("devices", "expire") == Outcome(0, "", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("phone", NEW, "soon"),
        ("phone", NEW, "-1"),
        ("phone", NEW, str(NOW), OLD),
        ("phone", NEW, str(NOW), OLD, "later"),
        ("phone", NEW, str(NOW), "b", str(NOW)),
        ("phone", NEW, str(NOW), NEW, str(NOW)),
    ],
)
def test_ends_and_fingerprints_are_strict(machine: Machine, arguments: tuple[str, ...]) -> None:
    assert_sentence(enrol(machine, *arguments))
    assert machine.files(machine.root / "var") == {}


def test_the_certificate_of_before_must_not_be_another_devices(machine: Machine) -> None:
    enrol(machine, "laptop", OLD, NOW + 60)
    before = devices(machine)
    assert_sentence(enrol(machine, "phone", NEW, NOW + 60, OLD, NOW + 10), 'enrolled as "laptop" already')
    assert devices(machine) == before


def test_only_root_expires(machine: Machine) -> None:
    machine.fake("id", "echo 1000")
    assert_sentence(machine.run("devices", "expire"), "must run as root")
    assert_sentence(machine.run("devices", "renew"), "must run as root")


def test_who_begins_anew_lets_nobody_in_but_the_devices_of_the_config(machine: Machine) -> None:
    """The operator's state was lost, and a phone with it: nothing else would ever withdraw that."""
    enrol(machine, "phone", OLD, NOW + 9000)
    enrol(machine, "laptop", OTHER, NOW + 9000)
    told = "Device phone is in no configuration and may no longer come in\n"
    assert machine.begin("laptop", "phone-2") == Outcome(0, "", told)
    assert set(devices(machine)) == {OTHER}
    assert machine.run("state", "prepare") == Outcome(0, "", "")
    assert set(devices(machine)) == {OTHER}
    machine.begin()
    assert devices(machine) == {}
