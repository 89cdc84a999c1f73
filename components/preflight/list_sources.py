"""Checks the sources of ban lists on the server before anything is changed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pulumi

from components.config.lists import BanLists
from components.engine.server_words import SENTENCE_LIMIT, plain
from components.remote.remote_script import PayloadFile, Server, script_text
from components.remote.ssh import SshError, run_script

LOOK_SECONDS = 120
"""A large country database is read completely, and CrowdSec needs a moment to answer."""


def list_files(lines: str, key: str | None) -> tuple[PayloadFile, ...]:
    """Return the files for the server: lists.conf, and CrowdSec's key, which only root can read."""
    conf = PayloadFile("lists.conf", lines)
    return (conf, PayloadFile("crowdsec.key", f"{key}\n", mode="0600")) if key else (conf,)


@dataclass(frozen=True)
class Look:
    """The result of checking the sources, in sentences; with ``wrong``, some list would ban nobody."""

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
    """Check during a preview, and warn of what is wrong; return whether that was possible.

    This waits for ``after`` and is skipped if that fails: a wrong password must not be tried twice.
    """
    if server.lacks_key:
        pulumi.warn(
            "The sources of banLists on the server are not looked at, because that needs the SSH key."
        )
        return pulumi.Output.from_input(False)

    async def look_aside(secrets: dict[str, Any]) -> bool:
        # Without a stack id: anybody who may log in may look.
        there = replace(server, sudo_password=secrets["password"], stack_id=None)
        try:
            found = await asyncio.to_thread(look_at_lists, there, lists.lines(), secrets["key"])
        except SshError as error:
            pulumi.warn(f"This run could not look at the sources of banLists on the server: {error}")
            return False
        for sentence in (*found.wrong, *found.notes):
            pulumi.warn(sentence)
        return True

    known: pulumi.Output[dict[str, Any]] = pulumi.Output.all(
        password=server.sudo_password, key=key, after=after
    )
    return known.apply(look_aside)
