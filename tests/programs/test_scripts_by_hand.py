"""A funnel opened by hand closes between the build and the switch: module.sh with adopt.sh's note."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs.harness import OPEN, Machine, assert_sentence, result
from tests.programs.test_scripts_module import (
    BUILD,
    DISARM,
    MODULE,
    STUBBORN,
    apply,
    break_build,
    break_check,
    machine,
    restore,
    running,
    steps,
    yours,
)

__all__ = ["machine"]

CLOSED = "tailscale funnel reset"
SWITCH = "switch-to-configuration"


@pytest.fixture
def opened(machine: Machine) -> Machine:
    """A server with a funnel that adopt.sh has noted down."""
    machine.remember(**{"serve.json": OPEN})
    machine.write(machine.state / "by-hand", "443 8443\n")
    return machine


def note(machine: Machine) -> Path:
    return machine.state / "by-hand"


def test_it_closes_after_the_build_and_before_the_switch(opened: Machine) -> None:
    result(apply(opened))
    order = [line.split(" /")[0] for line in opened.commands("tailscale", "nixos-rebuild", SWITCH)]
    switch = next(index for index, line in enumerate(order) if line.endswith(" test"))
    assert order.index(BUILD) < order.index(CLOSED) < switch
    assert not note(opened).exists()


def break_the_timer(machine: Machine) -> None:
    machine.fake("systemd-run", "exit 1")


@pytest.mark.parametrize("damage", [break_build, break_check, break_the_timer])
def test_a_system_that_cannot_be_activated_leaves_it_open(
    opened: Machine, damage: Callable[[Machine], None]
) -> None:
    damage(opened)
    assert apply(opened).status != 0
    assert CLOSED not in opened.commands("tailscale")
    assert note(opened).exists()


def test_when_it_does_not_close_nothing_is_switched(opened: Machine) -> None:
    opened.fake("tailscale", STUBBORN)
    assert_sentence(apply(opened), "port 443 is still configured")
    assert running(opened) == "old-system"
    assert steps(opened)[-1] == DISARM, "nothing is left that would go back later"
    assert note(opened).exists()


def test_where_nothing_is_built_it_closes_as_well(opened: Machine) -> None:
    opened.remember(module=MODULE)
    result(yours(opened))
    assert CLOSED in opened.commands("tailscale")
    assert not note(opened).exists()


def test_where_the_same_runs_already_it_closes_as_well(opened: Machine) -> None:
    note(opened).unlink()
    result(apply(opened))
    note(opened).write_text("443 8443\n")
    opened.remember(**{"serve.json": OPEN})
    result(apply(opened))
    assert CLOSED in opened.commands("tailscale")
    assert not note(opened).exists()


def test_without_a_note_no_funnel_is_touched(opened: Machine) -> None:
    note(opened).unlink()
    result(apply(opened))
    assert opened.commands("tailscale") == []


def test_the_way_back_of_a_run_that_never_closed_it_leaves_it_open(opened: Machine) -> None:
    break_build(opened)
    assert apply(opened).status != 0
    assert restore(opened).status == 0
    assert opened.run("module", "leave").status == 0
    assert CLOSED not in opened.commands("tailscale")
