"""What has become of the exposure on the server since it was proven, and the reason to put it right.

The engine compares inputs with its state and asks no server. So the program looks at the server at every
preview and update, and what it finds becomes an input of one resource: a difference is a change in words. The
step that takes it says when, and every script carries that as a note: so all of them run again, in their
order; each is idempotent. ``pulumi refresh`` looks through the same resource.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from components.config import ExposureConfig
from components.options import child_of
from components.refusal import told_plainly
from components.remote_script import Server, script_text
from components.server_props import server_of, server_props
from components.ssh import SshError, run_script

LOOK_SECONDS = 60
"""A look reads a few files and asks tailscaled."""

NEVER = "as it was made"


@dataclass(frozen=True)
class Seen:
    """What a look found: sentences that the next ``up`` makes untrue, and those that only the owner can."""

    to_mend: list[str]
    to_tell: list[str]


def look(server: Server, funnel_port: int, proxy_port: int) -> Seen:
    """Ask the server what differs from what was proven.

    Raises ``SshError`` when it cannot be asked.
    """
    command = server.line("look", funnel_port, proxy_port)
    lines = run_script(server, command, script_text("drift"), timeout_seconds=LOOK_SECONDS).splitlines()
    return Seen(*([line[5:] for line in lines if line.startswith(word)] for word in ("mend ", "tell ")))


class _Provider(ResourceProvider):
    serialize_as_secret_always = False  # it captures nothing

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("drift", {**props, "found": [], "putRight": NEVER})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        inputs = {*_olds, *_news}.difference(("found", "putRight"))
        moved = any(_olds.get(key) != _news.get(key) for key in inputs)
        # What a refresh has found stands in the state.
        return DiffResult(changes=moved or bool(_news["found"] or _olds["found"]))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        drifted = _news["found"] or _olds["found"]
        moment = _moment() if drifted else _olds["putRight"]
        return UpdateResult({**_news, "found": [], "putRight": moment})

    @told_plainly
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        seen = look(server_of(props), int(props["funnelPort"]), int(props["proxyPort"]))
        return ReadResult(id_, {**props, "found": seen.to_mend})


def _moment() -> str:
    return f"put right at {datetime.now(UTC).isoformat(timespec='seconds')}"


class _Drift(Resource, module="immich", name="Drift"):
    putRight: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, pulumi.Input[Any]], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Provider(), name, props, opts)


class Drift(pulumi.ComponentResource):
    """Looks at what stands on the server, and has everything put right once it is not as it was proven."""

    put_right: pulumi.Output[str]
    """When something last had to be put right, in words; ``as it was made`` until then."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        config: ExposureConfig,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:Drift", name, {}, opts)
        found = _found(server, config)
        self.seen = _Drift(
            f"{name}-seen",
            {
                **server_props(server),
                "funnelPort": config.funnel_port,
                "proxyPort": config.proxy_port,
                "found": found,
                # Known in a preview already, so that this shows what would run again.
                "putRight": found.apply(lambda sentences: _moment() if sentences else NEVER),
            },
            child_of(self, opts),
        )
        self.put_right = self.seen.putRight
        self.register_outputs({"putRight": self.put_right})


def _found(server: Server, config: ExposureConfig) -> pulumi.Output[list[str]]:
    """Look while the program runs. Where nobody can look, nothing is found, and a preview says so."""
    if server.lacks_key:
        return pulumi.Output.from_input([])

    async def look_aside(password: str | None) -> list[str]:
        # No id of a stack: whoever may log in may look.
        plain = replace(server, sudo_password=password, stack_id=None)
        try:
            seen = await asyncio.to_thread(look, plain, config.funnel_port, config.proxy_port)
        except SshError as error:
            pulumi.warn(f"Nobody knows what stands on the server now: {error}")
            return []
        for sentence in seen.to_tell:
            pulumi.warn(sentence)
        return seen.to_mend

    return pulumi.Output.unsecret(pulumi.Output.from_input(server.sudo_password).apply(look_aside))
