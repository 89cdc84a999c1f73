"""What a server says, made fit for a terminal: words alone, and not too many of them.

A server that somebody else has taken over chooses what its scripts print. A terminal obeys escape sequences
(ECMA-48): they write into the clipboard, hide a line, draw a prompt that is none. So whatever came from a
server goes through here before a person sees it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

SENTENCE_LIMIT = 2000
"""Characters of an error; the longest of ours have a few hundred."""

FACT_LIMIT = 4096
"""Characters of a single text among the facts of a server."""

_MOST_READ = 1 << 18
"""Characters that are looked at: what is cut off behind them would not be shown anyhow."""

# In this order: strings for the terminal (OSC, DCS, SOS, PM, APC) up to their end or that of the line,
# control sequences (CSI), other escapes. The first two have a form of one character, of the C1 set, as well.
_ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?"
)

_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Controls, formats (with those that turn the direction of writing), halves of characters, odd line ends."""


def plain(text: str, limit: int = SENTENCE_LIMIT) -> str:
    """Return a text without anything that a terminal obeys, at most ``limit`` characters long.

    Line breaks and tabs stay. What is cut off is shown by an ellipsis.
    """
    words = _ESCAPES.sub("", text[:_MOST_READ].replace("\r\n", "\n").replace("\r", "\n"))
    words = "".join(each for each in words if each in "\n\t" or unicodedata.category(each) not in _UNSEEN)
    return words if len(words) <= limit else f"{words[: limit - 3]}..."


def plain_facts(value: Any) -> Any:
    """Return what JSON said with every text in it, names included, made plain."""
    if isinstance(value, str):
        return plain(value, FACT_LIMIT)
    if isinstance(value, list):
        return [plain_facts(each) for each in value]
    if isinstance(value, dict):
        return {plain(name, FACT_LIMIT): plain_facts(each) for name, each in value.items()}
    return value
