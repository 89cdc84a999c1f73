"""A refusal is told as its sentence; a bug keeps its traceback."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator

import pytest

from components.refusal import Refusal, told_plainly
from pki import KeystoreError


@pytest.fixture(autouse=True)
def tracebacks() -> Iterator[None]:
    """Leave no limit behind for other tests."""
    yield
    sys.__dict__.pop("tracebacklimit", None)


def printed(error: Exception) -> str:
    """Return what the SDK would answer when a provider's method raises this."""

    @told_plainly
    def method() -> None:
        raise error

    try:
        method()
    except type(error):
        return traceback.format_exc()
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("kind", [Refusal, KeystoreError])
def test_a_refusal_has_no_frames(kind: type[Exception]) -> None:
    text = printed(kind("The server is off; switch it on."))
    assert "File " not in text
    assert text.strip().endswith(": The server is off; switch it on.")


def test_a_bug_keeps_its_frames_even_after_a_refusal() -> None:
    printed(Refusal("The server is off; switch it on."))
    assert "test_refusal.py" in printed(KeyError("domain"))
