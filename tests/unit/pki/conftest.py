"""A keystore with an authority and one device, copied for each test that changes it; and two RSA keys."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from pki import AuthorityProfile, DeviceProfile, Keystore
from tests.unit.pki.facts import quick_keystore


@pytest.fixture(scope="package", autouse=True)
def two_rsa_keys() -> Iterator[None]:
    """Give out two RSA keys by turns: each takes half a second to find, and it matters nowhere which."""
    generate = rsa.generate_private_key
    made: dict[tuple[int, int], rsa.RSAPrivateKey] = {}
    turns = itertools.cycle(range(2))

    def give(*, public_exponent: int, key_size: int) -> rsa.RSAPrivateKey:
        turn = (next(turns), key_size)
        if turn not in made:
            made[turn] = generate(public_exponent=public_exponent, key_size=key_size)
        return made[turn]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsa, "generate_private_key", give)
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keystore's folder that no test may change."""
    folder = tmp_path_factory.mktemp("made-once") / "keystore"
    store = quick_keystore(folder)
    store.adopt_or_create_authority(AuthorityProfile())
    store.adopt_or_issue_device("phone", DeviceProfile("phone"))
    return folder


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> Path:
    """A copy of a keystore with an authority and the device `phone`."""
    return Path(shutil.copytree(made_once, tmp_path / "keystore"))


@pytest.fixture
def store(folder: Path) -> Keystore:
    """The keystore of `folder`."""
    return quick_keystore(folder)
