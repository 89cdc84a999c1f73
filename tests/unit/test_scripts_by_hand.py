"""A funnel that was opened by hand shuts between the build and the switch: module.sh with adopt.sh's note."""

from pathlib import Path

import pytest

from tests.unit.scripts.harness import Machine, assert_sentence, result
from tests.unit.test_scripts_module import BUILD, MODULE, apply, break_build, machine, restore, running, yours

__all__ = ["machine"]

SHUT = "tailscale funnel reset"
TAILSCALE = 'case "$*" in "funnel reset") echo "shut no" >"$FAKES/funnel-words" ;; *) echo "{}" ;; esac'
SWITCH = "switch-to-configuration"


@pytest.fixture
def opened(machine: Machine) -> Machine:
    """A server with a funnel that adopt.sh has noted down."""
    machine.remember(**{"funnel-words": "open no"})
    machine.fake("tailscale", TAILSCALE)
    machine.write(machine.state / "by-hand", "443 8443\n")
    return machine


def note(machine: Machine) -> Path:
    return machine.state / "by-hand"


def test_it_shuts_after_the_build_and_before_the_switch(opened: Machine) -> None:
    result(apply(opened))
    order = [line.split(" /")[0] for line in opened.commands("tailscale", "nixos-rebuild", SWITCH)]
    switch = next(index for index, line in enumerate(order) if line.endswith(" test"))
    assert order.index(BUILD) < order.index(SHUT) < switch
    assert not note(opened).exists()


def test_a_build_that_fails_leaves_it_open(opened: Machine) -> None:
    break_build(opened)
    assert apply(opened).status != 0
    assert SHUT not in opened.commands("tailscale")
    assert note(opened).exists()


def test_when_it_does_not_shut_nothing_is_switched(opened: Machine) -> None:
    opened.fake("tailscale", 'echo "{}"')
    assert_sentence(apply(opened), "port 443 is still configured")
    assert running(opened) == "old-system"
    assert note(opened).exists()


def test_where_nothing_is_built_it_shuts_as_well(opened: Machine) -> None:
    opened.remember(module=MODULE)
    result(yours(opened))
    assert SHUT in opened.commands("tailscale")
    assert not note(opened).exists()


def test_without_a_note_no_funnel_is_touched(opened: Machine) -> None:
    note(opened).unlink()
    result(apply(opened))
    assert opened.commands("tailscale") == []


def test_the_way_back_of_a_run_that_never_shut_it_leaves_it_open(opened: Machine) -> None:
    break_build(opened)
    assert apply(opened).status != 0
    assert restore(opened).status == 0
    assert opened.run("module", "leave").status == 0
    assert SHUT not in opened.commands("tailscale")
