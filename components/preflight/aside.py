"""Checks of the server that a preview makes in addition to the one for drift; they only warn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pulumi

from components.remote.remote_script import Server
from components.remote.ssh import SshError

Look = Callable[[Server, dict[str, Any]], Iterable[str]]
"""Asks the server, given the values of ``known``, and returns the warnings; may raise ``SshError``."""


def warn_of(
    what: str, server: Server, look: Look, *, after: pulumi.Output[Any] | None, **known: Any
) -> pulumi.Output[bool]:
    """Check, and warn of what was found; return whether the check could be made.

    ``what`` is the object of "check" in the warning that it could not be made.

    This waits for ``after`` and is skipped if that fails: a wrong password must not be tried twice.
    """

    async def look_aside(values: dict[str, Any]) -> bool:
        # Without a stack id, because everybody who can log in may look.
        there = replace(server, sudo_password=values["sudo_password"], stack_id=None)
        try:
            found = await asyncio.to_thread(look, there, values)
        except SshError as error:
            pulumi.warn(f"This run could not check {what} on the server: {error}")
            return False
        for sentence in found:
            pulumi.warn(sentence)
        return True

    values: pulumi.Output[dict[str, Any]] = pulumi.Output.all(
        sudo_password=server.sudo_password, after=after, **known
    )
    return values.apply(look_aside)
