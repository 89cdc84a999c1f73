"""What has become of the exposure on the server since it was proven, and the reason to put it right.

The engine compares inputs with its state and asks no server. So the program looks at the server at every
preview and update, and what it finds becomes an input of one resource: a difference is a change in words. The
step that takes it raises ``round``, which every script carries as a note, and so all of them run again, in
their order; each is idempotent. ``pulumi refresh`` looks through the same resource.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from components.config import ExposureConfig
from components.refusal import told_plainly
from components.remote_script import Server, script_text
from components.server_props import server_of, server_props
from components.ssh import SshError, run_script

LOOK_SECONDS = 60
"""A look reads a few files and asks tailscaled."""


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
        return CreateResult("drift", {**props, "round": 1})

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        # What a refresh has found stands in the state and is still true, unless the program looked since.
        there = {key for key in {*olds, *news} if key not in ("found", "round")}
        moved = any(olds.get(key) != news.get(key) for key in there)
        return DiffResult(changes=moved or bool(news.get("found")) or bool(olds.get("found")))

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        drifted = bool(news.get("found") or olds.get("found"))
        return UpdateResult({**news, "found": [], "round": int(olds["round"]) + drifted})

    @told_plainly
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        seen = look(server_of(props), int(props["funnelPort"]), int(props["proxyPort"]))
        return ReadResult(id_, {**props, "found": seen.to_mend})


class _Drift(Resource, module="immich", name="Drift"):
    round: pulumi.Output[int]

    def __init__(self, name: str, props: dict[str, pulumi.Input[Any]], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Provider(), name, {**props, "round": None}, opts)


class Drift(pulumi.ComponentResource):
    """Looks at what stands on the server, and has everything put right once it is not as it was proven."""

    round: pulumi.Output[str]
    """Another text after each time that something had to be put right."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        config: ExposureConfig,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:Drift", name, {}, opts)
        ports = {"funnelPort": config.funnel_port, "proxyPort": config.proxy_port}
        self.seen = _Drift(
            f"{name}-seen",
            {**server_props(server), **ports, "found": _found(server, config)},
            pulumi.ResourceOptions(parent=self, depends_on=None if opts is None else opts.depends_on),
        )
        self.round = self.seen.round.apply(lambda number: f"round {int(number)}")
        self.register_outputs({"round": self.round})


def _found(server: Server, config: ExposureConfig) -> pulumi.Output[list[str]]:
    """Look while the program runs; a preview that lacks the SSH key does without and says so elsewhere."""
    if server.lacks_key:
        return pulumi.Output.from_input([])
    password = pulumi.Output.from_input(server.sudo_password)

    async def look_aside(_password: str | None) -> list[str]:
        plain = Server(
            server.host, server.port, server.user, server.host_key, server.private_key_file, _password
        )
        try:
            seen = await asyncio.to_thread(look, plain, config.funnel_port, config.proxy_port)
        except SshError as error:
            pulumi.warn(f"Nobody knows what stands on the server now: {error}")
            return []
        for sentence in seen.to_tell:
            pulumi.warn(sentence)
        return seen.to_mend

    return pulumi.Output.unsecret(password.apply(look_aside))
