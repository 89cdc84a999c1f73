"""Settings that are secrets: each is read as one, and must be stored encrypted."""

from __future__ import annotations

import re

import pulumi

from components.config.reader import Section

IN_PLAIN_TEXT = "must be stored encrypted, but is in the stack file in plain text"

TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,500}")
"""What a server accepts as a token or a key in one line of a file (server/scripts/notify.sh and who.sh)."""


def read_secret(top: Section, key: str) -> pulumi.Output[str] | None:
    """Read a secret; None if it is not set."""
    value = top.value(key)
    return None if value is None else pulumi.Output.secret(str(value))


def report_secret(top: Section, key: str, reason: str) -> None:
    """Report that a secret is wrong, and the command that sets it. The value is not shown."""
    top.problems.add(key, top.value(key), reason, f"`pulumi config set --secret {key}`")
