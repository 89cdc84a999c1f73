"""A terminal is shown words, whatever a server says."""

from __future__ import annotations

import unicodedata

import pytest

from components.engine.server_words import FACT_LIMIT, SENTENCE_LIMIT, plain, plain_facts


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("nothing odd: äöü 写真 👪 \t\nnext", "nothing odd: äöü 写真 👪 \t\nnext"),
        ("\x1b]52;c;cm0gLXJmIH4K\x07clip", "clip"),
        ("\x1b]0;title\x1b\\after", "after"),
        ("\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x9d52;c;AAAA\x9cone character", "one character"),
        ("\x1bP1$r0m\x1b\\dcs", "dcs"),
        ("\x1b_apc\x07\x1b^pm\x07\x1bXsos\x07end", "end"),
        ("\x1b[2J\x1b[1;1H\x1b[38;5;1mred\x1b[0m", "red"),
        ("\x9b2Jone character", "one character"),
        ("\x1bcreset\x1b(0lines\x1b7", "resetlines"),
        ("\x1b]52;c;never ended\nnext line", "\nnext line"),
        ("half a sequence \x1b[", "half a sequence "),
        ("\x1b", ""),
        ("back\b\b\bover\x7f\x00\x85", "backover"),
        ("over\rwritten\r\nend", "over\nwritten\nend"),
        ("abc\u202edef\u2066ghi\u200f\u061c", "abcdefghi"),
        ("zero\u200bwidth\ufeff\u2028\U000e0041", "zerowidth"),
        ("\ud800half", "half"),
        # What is left when something inside is taken away must not become something itself.
        ("\x1b\x1b[0m]52;c;AAAA\x07", "]52;c;AAAA"),
    ],
)
def test_what_a_terminal_would_obey_is_taken_away(said: str, shown: str) -> None:
    assert plain(said) == shown


def test_no_single_character_gets_past() -> None:
    everything = "".join(map(chr, range(0x110000)))
    shown = "".join(plain(everything[at : at + 1000]) for at in range(0, len(everything), 1000))
    kinds = {unicodedata.category(each) for each in shown if each not in "\n\t"}
    assert len(shown) > 100_000
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_a_text_has_an_end() -> None:
    shown = plain("x" * 10_000_000)
    assert len(shown) == SENTENCE_LIMIT and shown.endswith("x...")
    assert plain("x" * SENTENCE_LIMIT) == "x" * SENTENCE_LIMIT


def test_facts_are_made_plain_all_through() -> None:
    facts = {"a\x1b[2J": ["b\x07", {"c": "d\x9b1m"}], "number": 1, "none": None, "truth": True}
    assert plain_facts(facts) == {"a": ["b", {"c": "d"}], "number": 1, "none": None, "truth": True}
    assert len(plain_facts(["x" * 100_000])[0]) == FACT_LIMIT
