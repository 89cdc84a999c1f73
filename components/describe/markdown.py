"""Text for a comment on a pull request: what other people wrote can be read there and has no other effect.

A comment is Markdown, in which a name can be a link, an image, a mention of a person, or a heading that
claims all is well. So everything from a pull request goes into a code span or a code block, and nowhere else.
"""

from __future__ import annotations

import re

from components.engine.server_words import plain

COMMENT_LIMIT = 60_000
"""Characters of a comment; GitHub accepts 65,536."""

SPAN_LIMIT = 200
"""Characters of one value."""


def code(text: str, limit: int = SPAN_LIMIT) -> str:
    """Return a text as a one-line code span."""
    words = " ".join(plain(text, limit).split())
    fence = "`" * (_longest_run(words) + 1)
    padding = " " if not words or "`" in (words[0], words[-1]) else ""
    return f"{fence}{padding}{words}{padding}{fence}"


def block(lines: list[str]) -> str:
    """Return lines as a code block; line breaks within one are removed, or they could fake a line of ours."""
    text = plain("\n".join(" ".join(line.splitlines()) for line in lines), COMMENT_LIMIT // 2)
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{text}\n{fence}"


def prose(text: str) -> str:
    """Return a sentence of ours as Markdown; characters outside its code spans are escaped.

    Only single backticks make a span: of longer runs, Markdown and this function could take different parts
    for code.
    """
    parts = re.split(r"((?<!`)`(?!`)[^`]+`(?!`))", " ".join(plain(text).split()))
    return "".join(part if index % 2 else _escaped(part) for index, part in enumerate(parts))


def _escaped(text: str) -> str:
    # Mentions and links are looked for in what is shown, so that an entity in their place does not end them.
    harmless = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", harmless)
    return re.sub(r"@|(?<=:)(?=//)|(?<=www)(?=\.)", f"\\g<0>{_BREAK}", escaped, flags=re.IGNORECASE)


_BREAK = "&#8203;"
"""A zero-width space: invisible, it keeps a text from becoming a mention or a link."""


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


def cut(text: str) -> str:
    """Return a comment short enough to be accepted; a cut is marked."""
    if len(text) <= COMMENT_LIMIT:
        return text
    kept = text[:COMMENT_LIMIT].rpartition("\n")[0]
    fence = "\n```" if kept.count("```") % 2 else ""
    fold = "\n\n</details>" if kept.count("<details>") > kept.count("</details>") else ""
    return f"{kept}{fence}{fold}\n\n**Cut off here: the change is too long for a comment. Read the diff.**\n"
