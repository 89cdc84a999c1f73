"""Passphrase strength: a rough estimate of how many guesses a passphrase takes.

It uses no dictionary and no model. What people type when they have to type twelve characters (one key held
down, a keyboard row, a common word, a year) counts little, and every other character according to its
character class. An attacker with the keystore needs 600,000 rounds per guess: 2**45 guesses are out of reach.
"""

import math
import re

PASSPHRASE_LENGTH = 12
"""Minimum number of characters of a passphrase."""

LEAST_BITS = 45.0
"""Ten random letters have 47, four random words from a list of 7,776 have 52."""

_WORD = re.compile(
    "passphrase|password|passwort|kennwort|geheim|secret|immich|photos?|fotos?|bilder|family|familie|letmein|login"
    "|welcome|willkommen|admin|keystore|tailscale|raspberry|nixos|server|changeme|iloveyou|sunshine|princess"
    "|dragon|monkey|football|baseball|superman|batman|master|shadow|hello|hallo|summer|sommer|winter|spring"
    "|autumn|herbst|internet|computer|samsung|google|apple|iphone|android"
)
_ROWS = (
    "abcdefghijklmnopqrstuvwxyz",
    "0123456789012345",
    "qwertyuiop",
    "qwertzuiop",
    "asdfghjkl",
    "zxcvbnm",
    "yxcvbnm",
    "azertyuiop",
)
_LEET = str.maketrans("013457@$!", "oleastasi")
_WORD_BITS, _RUN_BITS, _YEAR_BITS = 8.0, 5.0, 6.0
_SHORTEST_RUN = 3


def is_weak(passphrase: str) -> bool:
    """Tell whether a passphrase of sufficient length is still easy to guess."""
    return strength(passphrase) < LEAST_BITS


def strength(passphrase: str) -> float:
    """Return a conservative estimate in bits."""
    unit = _repeated(passphrase)
    rest, bits = unit.lower(), 0.0
    if len(unit) < len(passphrase):
        bits += math.log2(len(passphrase) / len(unit)) + 1
    per_character = _bits_of_a_character(unit)
    while rest:
        taken, worth = _next(rest, per_character)
        rest, bits = rest[taken:], bits + worth
    return bits


def _repeated(text: str) -> str:
    """The shortest piece whose repetition makes the whole text."""
    for size in range(1, len(text) // 2 + 1):
        if (text[:size] * (len(text) // size + 1))[: len(text)] == text:
            return text[:size]
    return text


def _next(rest: str, per_character: float) -> tuple[int, float]:
    """The length of the next piece, and its bits."""
    run = max(_run_of_one(rest), _run_of_a_row(rest))
    if run >= _SHORTEST_RUN:
        return run, min(_RUN_BITS + math.log2(run), run * per_character)
    word = _WORD.match(rest) or _WORD.match(rest.translate(_LEET))
    if word:
        return word.end(), _WORD_BITS
    if re.match(r"(?:19|20)\d\d", rest):
        return 4, _YEAR_BITS
    return 1, per_character


def _run_of_one(text: str) -> int:
    return len(text) - len(text.lstrip(text[0]))


def _run_of_a_row(text: str) -> int:
    """The length of the longest prefix that is part of a keyboard row, forwards or backwards."""
    best = 1
    for row in (*_ROWS, *(each[::-1] for each in _ROWS)):
        size = best + 1
        while size <= len(text) and text[:size] in row:
            best, size = size, size + 1
    return best


def _bits_of_a_character(text: str) -> float:
    """The bits of one character, by the character classes used and by how few different ones there are."""
    kinds = (
        (r"[a-z]", 26),
        (r"[A-Z]", 26),
        (r"[0-9]", 10),
        (r"[ -/:-@\[-`{-~]", 32),
        (r"[^ -~]", 64),
    )
    # A single capital or full stop is what a sentence has: it adds no further choice.
    size = sum(count for pattern, count in kinds if len(re.findall(pattern, text)) > 1)
    return min(math.log2(max(size, 10)), math.log2(len(set(text))) + 1)
