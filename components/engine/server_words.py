"""A server's output, made safe for a terminal: plain text, and not too much of it.

An attacker who controls a server chooses what its scripts print. A terminal obeys escape sequences (ECMA-48):
they can write to the clipboard, hide a line, or draw a fake prompt. So all output from a server goes through
this module before a person sees it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

SENTENCE_LIMIT = 2000
"""Characters of an error; our longest have a few hundred."""

TALKATIVE_LOGIN = (
    "something prints text at login: make the shell start-up files of the SSH user silent for "
    "non-interactive sessions."
)
"""Why a script's answer cannot be read, and what to do."""

FACT_LIMIT = 4096
"""Characters of a single text among a server's facts."""

_MOST_READ = 1 << 18
"""Characters that are processed; anything beyond would not be shown anyway."""

# In this order: control strings (OSC, DCS, SOS, PM, APC) up to their terminator or the end of the line,
# control sequences (CSI), other escapes. The first two also have a one-character form in the C1 set.
_ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?"
)

_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Controls, formats (including text direction), surrogates, line and paragraph separators."""


def plain(text: str, limit: int = SENTENCE_LIMIT) -> str:
    """Return a text without anything that a terminal obeys, at most ``limit`` characters long.

    Line breaks and tabs stay. An ellipsis marks a cut.
    """
    words = _ESCAPES.sub("", text[:_MOST_READ].replace("\r\n", "\n").replace("\r", "\n"))
    words = "".join(each for each in words if each in "\n\t" or unicodedata.category(each) not in _UNSEEN)
    return words if len(words) <= limit else f"{words[: limit - 3]}..."


def plain_facts(value: Any) -> Any:
    """Return parsed JSON with every text in it, including keys, made plain."""
    if isinstance(value, str):
        return plain(value, FACT_LIMIT)
    if isinstance(value, list):
        return [plain_facts(each) for each in value]
    if isinstance(value, dict):
        return {plain(name, FACT_LIMIT): plain_facts(each) for name, each in value.items()}
    return value
