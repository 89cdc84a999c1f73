"""docs/troubleshooting.md quotes messages: each of them is one that the code has."""

from __future__ import annotations

import re

import pytest

from tests.unit.documents import PROJECT, stands_in_the_code

PAGE = PROJECT / "docs" / "troubleshooting.md"
QUOTED = re.findall(r"^> (.+)$", PAGE.read_text(encoding="utf-8"), re.M)


def test_no_message_is_quoted_twice() -> None:
    assert len(QUOTED) == len(set(QUOTED)) > 50


@pytest.mark.parametrize("message", QUOTED)
def test_each_message_is_one_of_the_codes(message: str) -> None:
    assert stands_in_the_code(message)


def test_a_message_that_nobody_says_is_noticed() -> None:
    assert not stands_in_the_code("The server … cannot be reached by pigeon on port …")
    assert not stands_in_the_code("on port … The server … cannot be reached by SSH")
