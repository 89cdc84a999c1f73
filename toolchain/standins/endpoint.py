"""What the `command` stand-in says of SSH. What speaks it (`ssh`) is half of what it takes to start."""

from __future__ import annotations

from dataclasses import dataclass


class SshError(Exception):
    """A connection that could not be made, or a command that failed on the far side."""


@dataclass(frozen=True)
class Endpoint:
    """One `connection` (or its `proxy`) as the program gave it.

    `dial_timeout` is in seconds, 0 means none.
    """

    host: str
    port: int = 22
    user: str = "root"
    password: str | None = None
    private_key: str | None = None
    private_key_password: str | None = None
    agent_socket: str | None = None
    host_key: str | None = None
    dial_error_limit: int = 10
    dial_timeout: float = 15
    proxy: Endpoint | None = None


@dataclass(frozen=True)
class Outcome:
    """What a finished command left: its status, both streams, and both together in the order of arrival."""

    status: int
    stdout: str
    stderr: str
    combined: str
