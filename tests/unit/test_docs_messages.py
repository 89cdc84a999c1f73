"""What docs/troubleshooting.md quotes, and what other pages show as an example, is what the code prints."""

from __future__ import annotations

import re

import pytest

from tests.unit.documents import LEFT_OUT, stands_in_the_code
from toolchain.paths import PROJECT

PAGE = PROJECT / "docs" / "troubleshooting.md"
QUOTED = re.findall(r"^> (.+)$", PAGE.read_text(encoding="utf-8"), re.M)

SHOWN = [
    # page, what it shows, and the message
    ("uploads", "812 MB in 34 files within an hour", "… MB in … files within an hour"),
    (
        "uploads",
        "143 GB are free, of which 20 must stay free",
        "… GB are free, of which … must stay free",
    ),
    ("ban-lists", "The edge hangs up on a visitor from 203.0.113.9", "The edge hangs up on a visitor from …"),
    ("ban-lists", "`The edge answers`", "The edge answers a visitor from …"),
    (
        "keys",
        "phone-anna is revoked: its certificate is never accepted again",
        "… is revoked: its … is never accepted again",
    ),
    (
        "closing",
        "The funnel's lease expired on Tuesday 24 November at 14:02; up opens and proves it again.",
        "The funnel's lease expired on …; up opens and proves it again.",
    ),
]


def test_no_message_is_quoted_twice() -> None:
    assert len(QUOTED) == len(set(QUOTED)) > 50


@pytest.mark.parametrize("message", QUOTED)
def test_each_message_is_one_of_the_codes(message: str) -> None:
    assert stands_in_the_code(message)


@pytest.mark.parametrize(("page", "shown", "message"), SHOWN)
def test_an_example_on_another_page_is_one_too(page: str, shown: str, message: str) -> None:
    assert shown in (PROJECT / f"docs/{page}.md").read_text(encoding="utf-8")
    begin, *_ = message.split(LEFT_OUT, 1)
    assert shown.strip("`").startswith(begin) or begin.startswith(shown.strip("`"))
    assert stands_in_the_code(message)


def test_a_message_that_nobody_says_is_noticed() -> None:
    assert not stands_in_the_code("The server … cannot be reached by pigeon on port …")
    assert not stands_in_the_code("on port … The server … cannot be reached by SSH")
