"""Two homes at once: two stacks of one program, and one program with both (docs/environments.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from lab.house import DEFAULT_HOUSE
from pki import Keystore
from tests.lab.conftest import fresh_lab
from tests.lab.neighbour import Neighbour, neighbour
from tests.lab.operator import PASSPHRASE, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.server.consumer import Consumer, install_wheel

pytestmark = pytest.mark.lab

PING = "/api/server/ping"
FAMILY = """
import pulumi
from immich_exposure import ImmichExposure

config = pulumi.Config()
passphrase = config.require_secret("keystorePassphrase")
for name, settings in config.require_object("homes").items():
    exposure = ImmichExposure(name, {**settings, "keystorePassphrase": passphrase})
    pulumi.export(name, exposure.devices)
"""


@dataclass
class Homes:
    """One home beside the operator, and a cabin."""

    home: Lab
    cabin: Neighbour

    def seen(self, path: str = "/") -> tuple[str, str]:
        """What a stranger sees of each."""
        return seen(self.home, path), self.cabin.seen(path)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homes]:
    """Two labs, up and untouched."""
    for lab in fresh_lab(DEFAULT_HOUSE):
        with neighbour(tmp_path_factory.mktemp("homes")) as cabin:
            yield Homes(lab, cabin)


def at_once(*steps: Callable[[], object]) -> None:
    """Run all of them at the same time, to their ends."""
    with ThreadPoolExecutor(len(steps)) as pool:
        for running in [pool.submit(step) for step in steps]:
            running.result()


def as_a_phone(homes: Homes, keystore: Path) -> str:
    """What the phone of a keystore sees of the home."""
    phone = next(each for each in Keystore(keystore).probe_credentials() if each.name == "phone")
    return seen(homes.home, PING, credential=phone, passphrase=PASSPHRASE)


def test_two_stacks_go_up_and_down_at_once(homes: Homes, tmp_path: Path) -> None:
    home = Operator(tmp_path / "one", homes.home.info(), stack="home")
    cabin = Operator(tmp_path / "other", homes.cabin.info, stack="cabin")
    for operator in (home, cabin):
        operator.init()
    at_once(home.up, cabin.up)
    assert homes.seen() == (FORBIDDEN, FORBIDDEN)
    assert as_a_phone(homes, home.keystore) == "200"
    assert as_a_phone(homes, cabin.keystore) == FORBIDDEN, "a key of the one opens nothing at the other"
    at_once(home.destroy, cabin.destroy)
    assert homes.seen() == (REFUSED, REFUSED)


@pytest.mark.nightly
def test_one_program_has_both(homes: Homes, tmp_path: Path) -> None:
    family = Consumer(tmp_path, tmp_path / "around")
    (tmp_path / "around").mkdir()
    (tmp_path / "Pulumi.yaml").write_text(
        "name: family\nruntime: {name: python, options: {virtualenv: venv}}\n"
    )
    (tmp_path / "__main__.py").write_text(FAMILY)
    install_wheel(tmp_path, tmp_path / "around")
    family.well("stack", "init", "family")
    family.well("config", "set", "--secret", "keystorePassphrase", PASSPHRASE)
    settings = {
        name: arguments(info, tmp_path / name)
        for name, info in (("home", homes.home.info()), ("cabin", homes.cabin.info))
    }
    family.well("config", "set", "homes", json.dumps(settings))
    family.well("up", "--yes", "--skip-preview")
    assert homes.seen() == (FORBIDDEN, FORBIDDEN)
    assert as_a_phone(homes, tmp_path / "home") == "200"
    assert as_a_phone(homes, tmp_path / "cabin") == FORBIDDEN
    family.well("destroy", "--yes", "--skip-preview")
    assert homes.seen() == (REFUSED, REFUSED)


def arguments(info: Mapping[str, Any], keystore: Path) -> dict[str, Any]:
    """The arguments of an exposure of a lab."""
    return {
        "host": info["ssh"]["host"],
        "hostKey": info["ssh"]["host_key"],
        "sshPort": info["ssh"]["port"],
        "sshUser": info["ssh"]["user"],
        "sshPrivateKeyFile": info["ssh"]["private_key_file"],
        "keystore": str(keystore),
        "check": {
            "connectTo": f"{info['window']['host']}:{info['window']['port']}",
            "rootsFile": info["roots_file"],
        },
        "policy": {"checked-from-outside": "disabled"},
        "devices": [{"name": "phone", "platform": "ios"}],
    }
