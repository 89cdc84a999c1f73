"""Checks during a preview how much space the server has for guests' uploads."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pulumi

from components.engine.server_words import plain_facts
from components.preflight.rules import ExpectedUploads, room_for_uploads
from components.remote.remote_script import Server, script_text
from components.remote.ssh import SshError, run_script

LOOK_SECONDS = 60


def look_at_room(server: Server, uploads: ExpectedUploads) -> list[str]:
    """Ask the server about its disk, and return, in sentences, what is wrong with the limits.

    Raises ``SshError`` if the server cannot be reached; an unreadable answer yields nothing.
    """
    line = server.line("uploads", uploads.folder or "-")
    said = run_script(server, line, script_text("preflight"), timeout_seconds=LOOK_SECONDS)
    try:
        facts = plain_facts(json.loads(said.strip().rpartition("\n")[2]))
    except (ValueError, RecursionError):
        return []
    return room_for_uploads(facts, uploads) if isinstance(facts, dict) else []


def look_now(
    server: Server, uploads: ExpectedUploads, after: pulumi.Output[Any] | None = None
) -> pulumi.Output[bool]:
    """Check, and warn of what is wrong; return whether that was possible.

    This waits for ``after`` and is skipped if that fails: a wrong password must not be tried twice.
    """
    if server.lacks_key:
        return pulumi.Output.from_input(False)

    async def look_aside(known: dict[str, Any]) -> bool:
        # Without a stack id: anybody who may log in may look.
        there = replace(server, sudo_password=known["password"], stack_id=None)
        try:
            found = await asyncio.to_thread(look_at_room, there, uploads)
        except SshError as error:
            pulumi.warn(f"This run could not look at the room for uploads on the server: {error}")
            return False
        for sentence in found:
            pulumi.warn(sentence)
        return True

    known: pulumi.Output[dict[str, Any]] = pulumi.Output.all(password=server.sudo_password, after=after)
    return known.apply(look_aside)
