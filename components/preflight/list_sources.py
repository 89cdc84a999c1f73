"""Checks the sources of ban lists on the server before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from components.config.lists import BanLists
from components.engine.server_words import SENTENCE_LIMIT, plain
from components.preflight.aside import warn_of
from components.remote.remote_script import PayloadFile, Server, script_text
from components.remote.ssh import run_script

LOOK_SECONDS = 120
"""A large country database is read completely, and CrowdSec needs a moment to answer."""


def list_files(lines: str, key: str | None) -> tuple[PayloadFile, ...]:
    """Return the files for the server: lists.conf, and CrowdSec's key, which only root can read."""
    conf = PayloadFile("lists.conf", lines)
    return (conf, PayloadFile("crowdsec.key", f"{key}\n", mode="0600")) if key else (conf,)


@dataclass(frozen=True)
class Look:
    """What the check of the sources found; the sentences in ``wrong`` name lists that would ban nobody."""

    wrong: list[str]
    notes: list[str]


def look_at_lists(server: Server, lines: str, key: str | None) -> Look:
    """Ask the server whether the sources in ``lists.conf`` are usable now.

    Raises ``SshError`` if the server cannot be reached.
    """
    text = script_text("lists", list_files(lines, key))
    said = run_script(server, server.line("look"), text, timeout_seconds=LOOK_SECONDS)
    found: dict[str, list[str]] = {"wrong": [], "note": []}
    for line in plain(said, SENTENCE_LIMIT * 10).splitlines():
        word, _, sentence = line.partition(" ")
        if word in found and sentence:
            found[word].append(f"banLists: {sentence.rstrip('.')}.")
    return Look(found["wrong"], found["note"])


def look_now(
    server: Server, lists: BanLists, key: pulumi.Output[str] | None, after: pulumi.Output[Any] | None = None
) -> pulumi.Output[bool]:
    """Check during a preview, and warn of what is wrong (see `warn_of`)."""
    if server.lacks_key:
        pulumi.warn("The sources of banLists on the server are not checked, because that needs the SSH key.")
        return pulumi.Output.from_input(False)

    def look(there: Server, secrets: dict[str, Any]) -> list[str]:
        found = look_at_lists(there, lists.lines(), secrets["key"])
        return [*found.wrong, *found.notes]

    return warn_of("the sources of banLists", server, look, after=after, key=key)
