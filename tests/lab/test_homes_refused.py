"""Homes that cannot be exposed as the stack says: one sentence with the remedy, nothing on them changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from components.remote.module_files import export
from lab import Lab
from lab.house import house
from tests.lab.conftest import fresh_lab
from tests.lab.operator import Operator
from tests.lab.outside import REFUSED, seen
from tests.lab.test_refusals import assert_told
from tests.lab.whole_server import look, root, settle

pytestmark = pytest.mark.lab

CONFIGURATION = "/etc/nixos/configuration.nix"
KEEP = f"cp -a {CONFIGURATION} /root/kept"
PUT_BACK = f"mv /root/kept {CONFIGURATION}"


@dataclass(frozen=True)
class Case:
    """What the owner has done or said, how it is undone, and what must be told."""

    name: str
    house: str
    told: str | tuple[str, ...]
    done: str = ":"
    undone: str = ":"
    says: dict[str, Any] = field(default_factory=dict)
    module: str = ""
    """Where the owner has put the exported module before."""


CASES = [
    Case(
        "things of theirs with the names of ours, and programs on our ports",
        "chapter",
        (
            "/etc/nixos/immich-exposure on the server was not made by this project",
            "/var/lib/immich-exposure on the server was not made by this project",
            "The account immich-edge on the server was not made by this project",
            "also has another name (a hard link)",
            "Port 8443 is taken on the server",
            "python3 on the server has port 443 at the node's own address as well",
        ),
        "mkdir /etc/nixos/immich-exposure; echo mine >/etc/nixos/immich-exposure/notes;"
        " mkdir /var/lib/immich-exposure; echo mine >/var/lib/immich-exposure/notes;"
        " useradd --comment Mine immich-edge;"
        f" ln {CONFIGURATION} /root/the-same.nix;"
        " systemd-run -q --unit=theirs /usr/bin/python3 -m http.server 8443 --bind 127.0.0.1;"
        " systemd-run -q --unit=theirs-too /usr/bin/python3 -m http.server 443 --bind 0.0.0.0;"
        " for port in 8443 443; do until ss -Hltn sport = :$port | grep -q .; do sleep 0.1; done; done",
        "systemctl stop theirs theirs-too; userdel immich-edge; rm /root/the-same.nix;"
        " rm -r /etc/nixos/immich-exposure /var/lib/immich-exposure",
    ),
    Case(
        "imports that cannot be added to",
        "chapter",
        "has no list of imports that a line can be added to",
        f"{KEEP}; sed -i 's,imports = .$,imports = builtins.filter (one: true) [,' {CONFIGURATION};"
        f" sed -i 's,./lan-immich.nix,./immich-at-home.nix,' {CONFIGURATION};"
        " cp -a /etc/nixos/lan-immich.nix /etc/nixos/immich-at-home.nix",
        f"{PUT_BACK}; rm /etc/nixos/immich-at-home.nix",
    ),
    Case(
        "an expose-immich.nix that says more than the chapter",
        "chapter",
        "/etc/nixos/expose-immich.nix, which the module replaces, also sets i18n.defaultLocale",
        f"{KEEP}; sed -i 's,./lan-immich.nix,./lan-immich.nix ./expose-immich.nix,' {CONFIGURATION};"
        " echo '{ i18n.defaultLocale = \"it_IT.UTF-8\"; }' >/etc/nixos/expose-immich.nix",
        f"{PUT_BACK}; rm /etc/nixos/expose-immich.nix",
        says={"allowUpgrade": True},
    ),
    Case(
        "a configuration that is not the one that runs",
        "chapter",
        "would also bring a configuration other than the running one",
        f"{KEEP}; sed -i 's,networking.hostName.*;,networking.hostName = \"photos\";,' {CONFIGURATION}",
        PUT_BACK,
    ),
    Case(
        "the module twice",
        "chapter",
        "/etc/nixos/configuration.nix already imports the module",
        f"{KEEP}; sed -i 's,./lan-immich.nix,./lan-immich.nix /root/theirs,' {CONFIGURATION}",
        f"{PUT_BACK}; rm -r /root/theirs",
        module="root/theirs",
    ),
    Case(
        "a configuration that cannot be written to",
        "chapter",
        "cannot be written to; make it writable (is it mounted read-only?)",
        "mount --bind /etc/nixos /etc/nixos; mount -o remount,bind,ro /etc/nixos",
        "umount /etc/nixos",
    ),
    Case(
        "module: yours without the module",
        "chapter",
        "The running system lacks the module",
        says={"module": "yours"},
    ),
    Case(
        "a flake that is not there",
        "chapter",
        "There is no /etc/nixos/flake.nix on the server",
        says={"flake": "/etc/nixos#pi"},
    ),
    Case(
        "an Immich in a container, and nothing said of it",
        "podman",
        "Immich is not services.immich of this server's configuration",
        says={"immich": None},
    ),
    Case(
        "module: managed where the system comes from a flake",
        "flake",
        "There is /etc/nixos/flake.nix, and nixos-rebuild uses that flake instead",
        says={"flake": None},
    ),
    Case(
        "a host that the flake does not have",
        "flake",
        "The flake in /etc/nixos has no host nobody among its nixosConfigurations (it has pi)",
        says={"flake": "/etc/nixos#nobody"},
    ),
    Case(
        "a flake whose system lacks the module",
        "flake",
        "The system /etc/nixos#pi lacks the module",
        "cp -a /etc/nixos /root/kept; sed -i 's, ./immich-exposure,,' /etc/nixos/flake.nix;"
        " sed -i '/services.immich-exposure/d' /etc/nixos/hosts/pi/default.nix;"
        " nixos-rebuild switch --flake path:/etc/nixos#pi;"
        " rm -f /var/lib/systemd/timers/stamp-immich-exposure-*;"
        # Immich has started anew, and the look must find it where it now listens.
        " until ss -Hltn sport = :2283 | grep -q 0.0.0.0; do sleep 0.1; done",
        "rm -r /etc/nixos; mv /root/kept /etc/nixos; nixos-rebuild switch --flake path:/etc/nixos#pi",
    ),
]


@dataclass
class Home:
    """A house, and an owner who has exposed nothing."""

    lab: Lab
    operator: Operator
    destroyed: bool = False
    """Whether a destroy that has nothing to take back was tried: it touches nothing either."""


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """The house of a case; all cases of one house share it."""
    there = house(request.param)
    for lab in fresh_lab(there.name):
        folder = tmp_path_factory.mktemp(f"refused-{there.name}")
        operator = Operator(folder, lab.info(), stack=f"refused-{there.name}", more=there.stack)
        operator.init()
        yield Home(lab, operator)


@pytest.mark.parametrize(
    ("home", "case"),
    [pytest.param(case.house, case, id=case.name) for case in CASES],
    indirect=["home"],
    scope="module",
)
def test_it_is_told_in_one_sentence_and_nothing_changes(home: Home, case: Case) -> None:
    sound = dict(home.operator.settings)
    if case.module:
        export(home.lab.places.root / case.module)
    done = home.lab.console(f"set -e; {case.done}")
    assert done.returncode == 0, done.stderr
    try:
        home.operator.set(**case.says)
        settle(home.lab)
        before = look(home.lab)
        printed = home.operator.fails()
        assert_told(printed, *((case.told,) if isinstance(case.told, str) else case.told))
        if not home.destroyed:
            home.operator.destroy()
            home.destroyed = True
        assert look(home.lab).since(before) == ""
        assert seen(home.lab, "/") == REFUSED
    finally:
        home.operator.settings = sound
        undone = home.lab.console(f"set -e; {case.undone}")
    assert undone.returncode == 0, undone.stderr
    assert root(home.lab, "systemctl is-system-running") == "running"
