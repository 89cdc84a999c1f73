"""The `command` stand-in's SSH types, apart from `ssh`, whose import takes half of the start-up time."""

from __future__ import annotations

from dataclasses import dataclass


class SshError(Exception):
    """A connection could not be made, or a command failed on the remote side."""


@dataclass(frozen=True)
class Endpoint:
    """One `connection` (or its `proxy`) as given by the program.

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
    """A finished command's result: its status, both streams, and both combined in order of arrival."""

    status: int
    stdout: str
    stderr: str
    combined: str
