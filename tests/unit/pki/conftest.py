"""A keystore with an authority and one device, made once and copied for each test that changes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pki import AuthorityProfile, DeviceProfile, Keystore
from tests.unit.pki.facts import quick_keystore


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
