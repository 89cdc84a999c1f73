"""Two stacks and one server: the second is refused; if it takes over, the first can do no more harm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Lab
from lab.house import DEFAULT_HOUSE
from pki import Keystore
from tests.lab.conftest import fresh_lab
from tests.lab.operator import PASSPHRASE, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.test_refusals import assert_told
from tests.lab.whole_server import Look, look, settle

pytestmark = pytest.mark.lab

PING = "/api/server/ping"


@dataclass
class Two:
    """Two people who both know the way to the server; the tests tell one story."""

    lab: Lab
    first: Operator
    second: Operator
    before: Look

    def phone_of(self, operator: Operator) -> str:
        """What this one's phone sees."""
        found = Keystore(operator.keystore).probe_credentials()
        phone = next(each for each in found if each.name == "phone")
        return seen(self.lab, PING, credential=phone, passphrase=PASSPHRASE)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """A home that nobody has exposed, and two operators."""
    for lab in fresh_lab(DEFAULT_HOUSE):
        folder: Path = tmp_path_factory.mktemp("two")
        # What the guard sees from outside would show in the comparisons.
        first, second = (
            Operator(folder / name, lab.info(), stack=name, more={"guard": False})
            for name in ("first", "second")
        )
        first.init()
        second.init()
        settle(lab)
        yield Two(lab, first, second, look(lab))


def changed(two: Two, exposed: Look) -> list[str]:
    """Return what is not as it was, but for the guard's notes of who came, which it writes when it looks."""
    lines = look(two.lab).since(exposed).splitlines()
    return [line for line in lines if not line.startswith("file var/lib/immich-exposure/guard.memory ")]


def test_the_second_is_told_and_can_end(two: Two) -> None:
    two.first.up()
    exposed = look(two.lab)
    assert_told(
        two.second.fails(), "The server is already exposed by the stack organization/immich-exposure/first"
    )
    two.second.destroy()
    assert changed(two, exposed) == []
    assert two.phone_of(two.first) == "200"


def test_it_takes_over_where_that_is_said(two: Two) -> None:
    two.second.set(takeOver=True)
    two.second.up()
    assert two.phone_of(two.second) == "200"
    assert two.phone_of(two.first) in (FORBIDDEN, REFUSED)
    two.second.up()
    assert set(two.second.changes()) == {"same"}


def test_from_then_on_the_first_changes_nothing_and_can_end(two: Two) -> None:
    exposed = look(two.lab)
    two.first.set(features={"map": False})
    assert_told(two.first.fails(), "exposed by the stack organization/immich-exposure/second")
    two.first.destroy()
    assert changed(two, exposed) == []
    assert two.phone_of(two.second) == "200"
    assert seen(two.lab, "/") == FORBIDDEN


def test_the_one_whose_it_is_takes_it_back(two: Two) -> None:
    two.second.destroy()
    assert seen(two.lab, "/") == REFUSED
    assert look(two.lab).since(two.before) == ""
