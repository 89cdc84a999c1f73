"""Checks during a preview how much space the server has for guests' uploads."""

from __future__ import annotations

import json
from typing import Any

import pulumi

from components.engine.server_words import plain_facts
from components.preflight.aside import warn_of
from components.preflight.rules import ExpectedUploads, room_for_uploads
from components.remote.remote_script import Server, script_text
from components.remote.ssh import run_script

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
    """Check during a preview, and warn of what is wrong (see `warn_of`)."""
    if server.lacks_key:
        return pulumi.Output.from_input(False)

    return warn_of("the room for uploads", server, lambda there, _: look_at_room(there, uploads), after=after)
