"""Keystores that cost nothing: what the resources do with one is the same at any work factor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pki import Keystore
from tests.unit.pki.facts import QUICK_ROUNDS


@pytest.fixture(scope="package", autouse=True)
def quick_keystores() -> Iterator[None]:
    """Lower the default work factor, as `quick_keystore` does where a test makes its keystore itself."""
    with pytest.MonkeyPatch.context() as patch:
        defaults = Keystore.__init__.__kwdefaults__ or {}
        assert "kdf_rounds" in defaults
        patch.setitem(defaults, "kdf_rounds", QUICK_ROUNDS)
        yield
