"""Uploads the edge compiled on the operator's machine to the server.

The server's configuration accepts the program only by its hash: nobody can replace it unnoticed.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, UpdateResult

from components.edge_build import EdgeBuild, EdgeBuildError, build, program
from components.engine.operator_error import without_traceback
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider
from components.remote.module_files import Edge
from components.remote.remote_script import Server, with_library
from components.remote.ssh import run_script, send_file

PLACE = "/var/lib/immich-exposure/edge-"
"""Where the program waits on the server until the configuration that names it is built; its hash follows."""


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("edge", send(props))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(send(_news))

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        # By now no configuration names it: its built copy is in the Nix store.
        server = from_props(Server, _props)
        run_script(server, server.way_back(server.line("remove")), with_library(f"lock\nrm -f {PLACE}*\n"))


def send(props: dict[str, Any]) -> dict[str, Any]:
    """Copy the program to the server and return the outputs.

    Raises ``EdgeBuildError`` and ``SshError``.
    """
    machine, sha256 = props["machine"], props["sha256"]
    send_file(from_props(Server, props), _content(machine, sha256), f"{PLACE}{sha256}", sha256)
    return props


def _content(machine: str, sha256: str) -> bytes:
    """Return the program; rebuild it if the built file is missing or differs."""
    built = program(machine)
    content = built.read_bytes() if built.is_file() else b""
    if hashlib.sha256(content).hexdigest() == sha256:
        return content
    if build(machine) != sha256:
        raise EdgeBuildError("The edge's sources changed during this run; run it again.")
    return built.read_bytes()


class EdgeUpload(Step, module="immich", name="EdgeUpload"):
    """The program on the server, for as long as something names it."""

    edge: pulumi.Output[Edge]
    """The program's path and hash."""

    machine: pulumi.Output[str]
    sha256: pulumi.Output[str]

    def __init__(self, name: str, *, server: Server, built: EdgeBuild, opts: pulumi.ResourceOptions) -> None:
        props = {**props_of(server), "machine": built.machine, "sha256": built.sha256}
        super().__init__(_Provider(), name, props, opts)
        self.edge = self.sha256.apply(lambda sha256: Edge(f"{PLACE}{sha256}", sha256))
