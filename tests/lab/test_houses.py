"""A walk through every house: expose, visit, change, revoke, reboot, close, expose again, take back.

Each house is a kind of home that people have (lab/houses). The tests of a house tell one story and run in
file order. The owner's own things are checked all along, and at the end the server is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import Lab
from lab.house import House, house, houses
from pki import Keystore, ProbeCredential
from tests.lab.conftest import fresh_lab
from tests.lab.operator import LISTS, PASSPHRASE, PROOF, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.whole_server import Look, lives, look, root, settle
from tests.server.waiting import wait_until

pytestmark = pytest.mark.lab

PING = "/api/server/ping"
PONG = '{"res": "pong"}'
SHARED = "/api/shared-links/me?key=labsharekey"
PLACES = "/api/albums/a1b0a1b0-1111-4222-8333-444444444444/map-markers?key=labsharekey"
OTHER_WAYS_IN = ("book", "chapter", "flake", "git-flake-yours", "options")
"""Houses whose configuration lies or is made up in a way of its own: that is what a preview looks at."""
TOLD = ("chapter", "podman")
"""Houses in which the next run is told of a funnel that was closed by hand: Immich is NixOS's, and is not."""
CHANGED = {*PROOF, *LISTS, "immich-settings", "immich-drift"}
"""What changes with a setting and with a device that is gone."""
GENERATION = "readlink -f /run/current-system /nix/var/nix/profiles/system; ls /nix/var/nix/profiles"


@dataclass
class Walk:
    """A house, its owner, and what was there before anything of ours came."""

    lab: Lab
    home: House
    operator: Operator
    before: Look
    theirs: dict[str, str]
    lives: dict[str, str]
    kept: dict[str, ProbeCredential] = field(default_factory=dict)

    def device(self, name: str) -> ProbeCredential:
        """A device's credential from the keystore."""
        credentials = Keystore(self.operator.keystore).probe_credentials()
        return next(found for found in credentials if found.name == name)

    def sees(self, credential: ProbeCredential, path: str = PING) -> str:
        """What somebody with this credential sees from outside."""
        return seen(self.lab, path, credential=credential, passphrase=PASSPHRASE)

    def immich_at_home(self) -> str:
        """What the family gets where it always found Immich: ``open`` or ``closed``."""
        answer = root(self.lab, f"curl -s --max-time 5 '{self.home.immich_at_home}{PING}'")
        return "open" if answer == PONG else answer or "closed"

    @property
    def closed_at_home(self) -> bool:
        """Whether an exposure closes Immich where the family finds it."""
        managed = self.operator.settings.get("immich", {}).get("managed", True)
        keep = self.operator.settings.get("lan") == "keep"
        return managed and not keep and "//127." not in self.home.immich_at_home

    def assert_theirs(self) -> None:
        """All that the owner has goes on as it did."""
        for thing in self.home.theirs:
            printed = root(self.lab, thing.command)
            assert printed == self.theirs[thing.what], thing.what

    def assert_exposed(self) -> None:
        """A stranger is refused, a visitor of a link and the phone get in, and what is theirs goes on."""
        wait_until(lambda: seen(self.lab, "/") == FORBIDDEN, "the edge refuses a stranger", 60)
        assert seen(self.lab, "/api/users/me") == FORBIDDEN
        wait_until(lambda: seen(self.lab, SHARED) == "200", "Immich answers behind it", 30)
        assert self.sees(self.device("phone")) == "200"
        assert self.immich_at_home() == ("closed" if self.closed_at_home else "open")
        self.assert_theirs()

    def unlock(self) -> None:
        """Do what the owner does by hand after a boot."""
        if self.home.unlock:
            done = self.lab.console(f"set -e\n{self.home.unlock}")
            assert done.returncode == 0, done.stderr


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Walk through all houses, or those that ``--house`` names."""
    if "walk" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--house", default=[]) or walked()
        metafunc.parametrize("walk", chosen, indirect=True, scope="module")


def walked() -> list[str]:
    """The houses of this walk."""
    return [name for name in houses() if not house(name).by_hand]


@pytest.fixture(scope="module")
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """A house in which nothing of ours has happened yet."""
    home = house(request.param)
    for lab in fresh_lab(home.name):
        folder = tmp_path_factory.mktemp(home.name)
        operator = Operator(folder, lab.info(), stack=f"house-{home.name}", more=home.stack)
        operator.init()
        theirs = {thing.what: root(lab, thing.command) for thing in home.theirs}
        settle(lab)
        yield Walk(lab, home, operator, look(lab), theirs, lives(lab, home.units))


def test_before_it_is_the_home_that_it_says(walk: Walk) -> None:
    assert walk.immich_at_home() == "open"
    assert seen(walk.lab, "/") == REFUSED
    for thing in walk.home.theirs:
        assert thing.prints in ("@same", walk.theirs[thing.what]), thing.what
    for unit in walk.home.units:
        assert walk.before.units[unit] == "loaded active running"


def test_a_preview_touches_nothing(walk: Walk) -> None:
    if walk.home.name not in OTHER_WAYS_IN:
        pytest.skip("its configuration is the chapter's in another house")
    walk.operator.preview()
    assert look(walk.lab).since(walk.before) == ""


def test_up_exposes(walk: Walk) -> None:
    walk.operator.up()
    walk.assert_exposed()
    walk.kept["laptop"] = walk.device("laptop")
    assert walk.sees(walk.kept["laptop"]) == "200"


def test_what_is_theirs_was_not_restarted(walk: Walk) -> None:
    assert lives(walk.lab, walk.home.units) == walk.lives


def test_a_setting_is_changed_and_a_device_revoked_without_a_rebuild(walk: Walk) -> None:
    """Nothing else changes: what `up` has made is what the next one finds."""
    before = root(walk.lab, GENERATION)
    laptop = copied(walk.device("laptop"), walk.operator.folder / "lost")
    assert seen(walk.lab, PLACES) == "200"
    walk.operator.set(features={"map": False})
    walk.operator.devices("phone")
    walk.operator.up()
    assert {name for name in walk.operator.touched() if "laptop" not in name} == CHANGED
    assert seen(walk.lab, PLACES) == FORBIDDEN
    assert walk.sees(laptop) == FORBIDDEN
    assert walk.sees(walk.device("phone")) == "200"
    assert root(walk.lab, GENERATION) == before
    walk.assert_theirs()


def copied(credential: ProbeCredential, folder: Path) -> ProbeCredential:
    """A credential as it lies on the device itself, whatever becomes of the keystore."""
    folder.mkdir()
    paths = [folder / path.name for path in (credential.certificate_path, credential.key_path)]
    for path, original in zip(paths, (credential.certificate_path, credential.key_path), strict=True):
        path.write_bytes(original.read_bytes())
    return ProbeCredential(credential.name, *paths)


def test_after_a_reboot_it_is_exposed_or_closed_for_everybody(walk: Walk) -> None:
    walk.lab.reboot()
    if walk.home.wiped:
        assert seen(walk.lab, "/") == REFUSED
        assert walk.sees(walk.device("phone")) == REFUSED
        walk.operator.up()
    else:
        wait_until(lambda: seen(walk.lab, "/") == FORBIDDEN, "the edge answers before Immich does", 60)
    walk.unlock()
    walk.assert_exposed()


def test_closed_on_the_server_the_family_has_immich_again(walk: Walk) -> None:
    assert walk.lab.console("immich-exposure close").returncode == 0
    assert seen(walk.lab, "/") == REFUSED
    assert walk.lab.console("immich-exposure open").returncode == 0
    assert seen(walk.lab, "/") == FORBIDDEN
    assert walk.lab.console("immich-exposure close").returncode == 0
    assert seen(walk.lab, "/") == REFUSED
    # Where systemd holds the sockets back after so many starts, the timer of each minute opens them.
    wait_until(lambda: walk.immich_at_home() == "open", "Immich is open at home again", 90)
    walk.assert_theirs()


def test_up_opens_it_when_the_owner_says_so_and_nobody_touches_the_phone(walk: Walk) -> None:
    # An up with nothing to change leaves a funnel alone that was closed by hand.
    walk.operator.set(features=None)
    if walk.home.name in TOLD:
        assert "immich-exposure open" in walk.operator.fails()
        assert seen(walk.lab, "/") == REFUSED
    opened = walk.lab.console("immich-exposure open")
    if walk.home.name in TOLD:
        assert opened.returncode != 0 and "has changed since it was proven" in opened.stdout + opened.stderr
        assert seen(walk.lab, "/") == REFUSED
    walk.operator.up()
    walk.assert_exposed()
    assert seen(walk.lab, PLACES) == "200"


def test_destroy_leaves_everything_as_it_was(walk: Walk) -> None:
    if walk.home.unlock:
        walk.lab.reboot()  # and nobody opens the drive: taking back does not wait for Immich
    walk.operator.destroy()
    assert seen(walk.lab, "/") == REFUSED
    walk.unlock()
    wait_until(lambda: walk.immich_at_home() == "open", "Immich is open at home again", 20)
    walk.assert_theirs()
    settle(walk.lab)
    # The note of when configuration.nix was written is wiped, too.
    assert look(walk.lab).since(walk.before, times=not walk.home.wiped) == ""
