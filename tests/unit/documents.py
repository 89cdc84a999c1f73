"""The project's documents, as tests read them: pages, headings, links, commands; and the code's sentences."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from toolchain.paths import PROJECT

LEFT_OUT = "…"
"""What stands for something that a message puts in: a name, a number, what another program said."""

_FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
_PROGRAMS = "python|pulumi|cp|cd|make|git|sudo|immich-exposure|openssl|curl|go|nix|tar|ssh|journalctl"
_COMMAND = re.compile(rf"^ {{4,8}}((?:{_PROGRAMS}|\.venv/bin/\w+|\.ci/\w+) .*)$", re.M)
_SHELL_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)


def pages() -> list[Path]:
    """Return the pages for people: README, docs and what lies beside them, by name."""
    return sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])


def name_of(page: Path) -> str:
    """Return a page's path within the project."""
    return page.relative_to(PROJECT).as_posix()


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def anchors(page: Path) -> set[str]:
    """Return what a link into a page may name: its headings, as GitHub spells them."""
    seen: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return found


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links and pictures."""
    text = prose(page)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r'(?:src|srcset|href)="([^"]+)"', text)


def commands(page: Path) -> list[tuple[str, ...]]:
    """Return the commands of a page, in words: indented lines that begin with a program."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [words(line) for line in _COMMAND.findall(text)]


def spoken_commands(page: Path) -> list[tuple[str, ...]]:
    """Return the commands that stand within the text of a page."""
    spans = re.findall(r"`((?:pulumi|make|python) [^`]+|\.ci/\w+)`", prose(page))
    return [words(" ".join(span.split())) for span in spans]


def words(command: str) -> tuple[str, ...]:
    """Return a command without the comment behind it."""
    return tuple(shlex.split(command, comments=True))


@cache
def sentences() -> tuple[str, ...]:
    """Return every text in the code that may be a message, with `LEFT_OUT` for what is put into it."""
    found: list[str] = []
    for folder in ("components", "pki", "handover", "toolchain", "policy"):
        for file in sorted((PROJECT / folder).rglob("*.py")):
            found += _of_python(ast.parse(file.read_text(encoding="utf-8")))
    for file in [*sorted((PROJECT / "server/scripts").glob("*.sh")), PROJECT / "Makefile"]:
        found += _of_shell(file.read_text(encoding="utf-8"))
    return tuple(" ".join(text.split()) for text in found if " " in text)


def _of_python(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else LEFT_OUT for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _of_shell(text: str) -> Iterator[str]:
    """Yield strings; those that a command prints one after another are one."""
    whole = re.sub(r'"[ \t]*\\\n[ \t]*"', " ", _without_substitutions(text))
    for string in _SHELL_STRING.findall(whole):
        plain = re.sub(r"\$\{[^}]*\}|\$\w+", LEFT_OUT, string)
        yield plain.replace('\\"', '"').replace("\\\n", " ")


def _without_substitutions(text: str) -> str:
    """Replace each `$(...)`, innermost first: the strings within are no part of the one around it."""
    before = ""
    while text != before:
        before, text = text, re.sub(r"\$\([^()]*\)", LEFT_OUT, text)
    return text


def stands_in_the_code(message: str) -> bool:
    """Tell whether the code has a message with these words, of which `LEFT_OUT` stands for any."""
    parts = [part.strip() for part in message.split(LEFT_OUT)]
    return any(_follow_each_other(parts, sentence) for sentence in sentences())


def _follow_each_other(parts: list[str], sentence: str) -> bool:
    at = 0
    for part in parts:
        found = sentence.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True
