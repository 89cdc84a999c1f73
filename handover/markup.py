"""Helpers for self-contained pages: an inline style, allowed by its hash."""

from base64 import b64encode
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template

_FOLDER = Path(__file__).resolve().parent


def read_text(name: str) -> str:
    """Read a file of this package."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def breakable(url: str) -> str:
    """Return a URL as HTML that a narrow page breaks before a dot, not within a word."""
    return escape(url).replace(".", "<wbr>.")


def template(name: str) -> Template:
    """Read a template of this package; its placeholders are `$name`."""
    return Template(read_text(name))


def style_source(style: str) -> str:
    """Return the Content-Security-Policy source that allows exactly this `<style>` (CSP 3, section 2.3.1)."""
    return f"sha256-{b64encode(sha256(style.encode()).digest()).decode()}"
