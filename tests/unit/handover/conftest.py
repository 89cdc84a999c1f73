"""A keystore with a device, made once; nothing here changes it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pki import AuthorityProfile, DeviceProfile
from tests.unit.pki.facts import quick_keystore


@pytest.fixture(scope="session")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keystore with the device `phone`, valid now."""
    folder = tmp_path_factory.mktemp("handover") / "keystore"
    store = quick_keystore(folder, now=datetime.now(UTC))
    store.adopt_or_create_authority(AuthorityProfile())
    store.adopt_or_issue_device("phone", DeviceProfile("phone"))
    return folder
