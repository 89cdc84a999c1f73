"""Which names a device may have."""

from __future__ import annotations

import pytest

from pki import KeystoreError, device_name


@pytest.mark.parametrize("name", ["phone", "Anna.Phone-2_b", "7", "a" * 63])
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert device_name(name) == name


def test_a_look_alike_becomes_what_it_looks_like() -> None:
    assert device_name("ｐｈｏｎｅ") == "phone"


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a/b", "..\\b", "a\x00b", "a\n", "-rf", ".hidden", "phone.", "a b", "ä", "a" * 64,
        "a／b",  # a full-width slash, which normalises to a real one
        "‥",  # a two-dot leader, which normalises to ".."
    ],
)  # fmt: skip
def test_a_name_that_is_not_one_safe_file_name_is_refused(name: str) -> None:
    with pytest.raises(KeystoreError, match="cannot be used as a file name.*for example 'phone-anna'"):
        device_name(name)
