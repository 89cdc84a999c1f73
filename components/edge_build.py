"""The edge, compiled on the operator's machine for a server that is too small for it (`edgeBuild: operator`).

The same sources give the same bytes on every machine, and the server's configuration takes the program by its
hash alone: nobody can put another one into its place unseen.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ResourceProvider, UpdateResult

from components.module_files import Edge
from components.options import child_of
from components.refusal import Refusal, told_plainly
from components.remote_script import Server, with_library
from components.server_props import server_of, server_props
from components.ssh import run_script, send_file
from components.step import Step
from toolchain import ToolchainError, edge, paths

PLACE = "/var/lib/immich-exposure/edge-"
"""Where the program waits on the server until the configuration that names it is built; its hash follows."""

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What `uname -m` says, and what Go calls it."""


class EdgeBuildError(Refusal):
    """The edge could not be made here; the message says what to do."""


class _Provider(ResourceProvider):
    serialize_as_secret_always = False  # it captures nothing

    @told_plainly
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("edge", build_and_send(props))

    @told_plainly
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(build_and_send(_news))

    @told_plainly
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        # By then no configuration names it: what is built of it lies in the Nix store.
        server = server_of(_props)
        run_script(server, server.way_back(server.line("remove")), with_library(f"lock\nrm -f {PLACE}*\n"))


def build_and_send(props: dict[str, Any]) -> dict[str, Any]:
    """Build the edge for the server's kind of machine, bring it there, and return the outputs.

    Raises ``EdgeBuildError`` and ``SshError``.
    """
    server = server_of(props)
    machine = run_script(server, server.line("machine"), "uname -m\n").strip().rpartition("\n")[2]
    if machine not in MACHINES:
        raise EdgeBuildError(
            f"The server is a machine ({machine}) for which the edge cannot be built here; set "
            "edgeBuild: server."
        )
    program = paths.HOME / f"edge-{MACHINES[machine]}"
    try:
        digest = edge.build(MACHINES[machine], program)
    except ToolchainError as error:
        raise EdgeBuildError(str(error)) from error
    send_file(server, program.read_bytes(), f"{PLACE}{digest}", digest)
    return {**props, "machine": machine, "sha256": digest}


def source_digest() -> str:
    """Return a digest of all that decides what the program is: its sources and the release of Go."""
    lines = [
        f"{name} {hashlib.sha256((Path(edge.SOURCE) / name).read_bytes()).hexdigest()}\n"
        for name in edge.source_files()
    ]
    return hashlib.sha256("".join([edge.GO_RELEASE, *lines]).encode()).hexdigest()


class _Edge(Step, module="immich", name="EdgeBuild"):
    machine: pulumi.Output[str]
    sha256: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, pulumi.Input[Any]], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Provider(), name, {**props, "machine": None, "sha256": None}, opts)


class EdgeBuild(pulumi.ComponentResource):
    """The program at its place on the server, until nothing names it any more."""

    edge: pulumi.Output[Edge]
    """Where the program lies, and its hash."""

    def __init__(self, name: str, *, server: Server, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("immich-exposure:index:EdgeBuild", name, {}, opts)
        self.program = _Edge(
            f"{name}-program", {**server_props(server), "source": source_digest()}, child_of(self, opts)
        )
        self.edge = self.program.sha256.apply(lambda sha256: Edge(f"{PLACE}{sha256}", sha256))
        self.register_outputs({})
