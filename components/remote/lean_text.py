"""A script as it is sent: without what the shell skips, and without functions that are never called.

`stripped` and `reachable` are pure. They change nothing that a shell would do: a test compares the shell's
own parse of every script with the text that is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

_MEANS_SOMETHING = re.compile(r"['\"\\`$#(){}<]")
_HEREDOC = re.compile(r"<<-?[ \t]*(['\"]?)([A-Za-z_]+)\1")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTION = re.compile(r"([a-z_]+)\(\) \{")
_ASSIGNMENT = re.compile(r"([A-Z_]+)='")


class UnreadableScriptError(ValueError):
    """A quote or a here-document in a script has no end, so the script is not sent."""


@dataclass
class _Reader:
    """Reads a script line by line and tracks what is open at the end of each.

    ``_open`` has a character for each level: ``'`` and ``"`` quotes, ``(`` a subshell or command
    substitution, a backquote the same, ``#`` arithmetic, ``{`` a parameter.
    """

    _open: list[str] = field(default_factory=list)
    _ends: list[str] = field(default_factory=list)
    _continued: bool = False

    @property
    def at_rest(self) -> bool:
        """Whether the next line starts in ordinary command position, where indentation means nothing."""
        return not self._ends and not self._continued and self._top in ("", "(")

    @property
    def outside(self) -> bool:
        """Whether the next line is at the top level, outside any open construct."""
        return self.at_rest and not self._open

    @property
    def _top(self) -> str:
        return self._open[-1] if self._open else ""

    def read(self, line: str) -> None:
        """Read the next line, without its line break."""
        if self._ends:
            if line.lstrip("\t") == self._ends[0]:
                self._ends.pop(0)
            return
        self._continued = False
        at = 0
        while found := _MEANS_SOMETHING.search(line, at):
            at = found.start() + self._take(line, found.start())

    def _take(self, line: str, at: int) -> int:
        """Read what is at this position and return its length in characters."""
        char, rest, top = line[at], line[at:], self._top
        if top == "'":
            self._close_if(char == "'")
            return 1
        if char == "\\":
            self._continued = at + 1 == len(line) and top in ("", "(")
            return 2
        if rest.startswith("$(("):
            self._open.append("#")
            return 3
        if rest.startswith(("$(", "${")):
            self._open.append(rest[1])
            return 2
        if char in '"`':
            if top == char:
                self._open.pop()
            else:
                self._open.append(char)
            return 1
        if top == '"':
            return 1
        return self._take_bare(line, at, char, top)

    def _take_bare(self, line: str, at: int, char: str, top: str) -> int:
        rest = line[at:]
        if top == "#":
            if rest.startswith("))"):
                self._open.pop()
                return 2
            return 1
        if char == "'":
            self._open.append("'")
        elif top == "{":
            self._close_if(char == "}")
        elif char == "#" and (at == 0 or line[at - 1] in " \t;&|("):
            return len(rest)
        elif char == "(":
            self._open.append("(")
        elif char == ")":
            # Without an opening one it ends a case pattern.
            self._close_if(top == "(")
        elif found := _HEREDOC.match(rest):
            self._ends.append(found[2])
            return found.end()
        return 1

    def _close_if(self, closes: bool) -> None:
        if closes:
            self._open.pop()


@dataclass(frozen=True)
class _Line:
    """A line of a script: its text, what is left of it, and whether it is at the top level."""

    text: str
    left: str
    outside: bool


def _lines(text: str) -> Iterator[_Line]:
    """Read a script. Raises ``UnreadableScriptError``."""
    reader = _Reader()
    for line in text.splitlines():
        yield _Line(line, _left_of(line) if reader.at_rest else f"{line}\n", reader.outside)
        reader.read(line)
    if not reader.outside:
        raise UnreadableScriptError("A quote or a here-document of this script has no end; correct it.")


def _left_of(line: str) -> str:
    bare = line.lstrip(" \t")
    return f"{bare}\n" if bare and not bare.startswith("#") else ""


def stripped(text: str) -> str:
    """Return a script without comment lines, empty lines and indentation, where those mean nothing.

    Strings, here-documents and continued lines stay unchanged.
    """
    return "".join(line.left for line in _lines(text))


@dataclass(frozen=True)
class _Part:
    """A piece of the library, stripped; a piece without a name always runs."""

    name: str
    text: str
    words: frozenset[str]


def reachable(library: str, *users: str) -> str:
    """Return a library, stripped, without what neither ``users`` nor the rest of it names.

    Functions and multi-line texts can be left out. Any word equal to a name counts as a use, anywhere except
    in a comment of the library.
    """
    parts = _parts(library)
    wanted: set[str] = set()
    found = {word for user in users for word in _WORD.findall(user)}
    found.update(word for part in parts if not part.name for word in part.words)
    while found:
        wanted |= found
        found = {word for part in parts if part.name in found for word in part.words} - wanted
    return "".join(part.text for part in parts if not part.name or part.name in wanted)


@cache
def _parts(library: str) -> Sequence[_Part]:
    return [_Part(name, text, frozenset(_WORD.findall(text))) for name, text in _pieces(library)]


def _pieces(library: str) -> Iterator[tuple[str, str]]:
    """Yield functions and multi-line texts by their names, the rest without a name, each stripped."""
    name, lines = "", list[_Line]()
    for line in _lines(library):
        if name and _has_ended(name, lines, line.outside):
            yield name, "".join(each.left for each in lines)
            name, lines = "", []
        if not name and line.outside and (begins := _begins(line.text)):
            yield "", "".join(each.left for each in lines)
            name, lines = begins, []
        lines.append(line)
    yield name, "".join(each.left for each in lines)


def _begins(line: str) -> str | None:
    """Return the name of the function that starts in this line, or of the text that does not end in it."""
    if function := _FUNCTION.match(line):
        return function[1]
    text = _ASSIGNMENT.match(line)
    return text[1] if text and line.count("'") % 2 else None


def _has_ended(name: str, lines: Sequence[_Line], outside: bool) -> bool:
    """Tell whether a piece is complete: a function ends in its first line, or with a line that is a brace."""
    if not outside or name.isupper():
        return outside
    return lines[-1].text == "}" or (len(lines) == 1 and lines[0].text.endswith("}"))
