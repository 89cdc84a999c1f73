"""The edge that was compiled on the operator's machine, at its place on the server.

The server's configuration takes the program by its hash alone: nobody can put another one into its place
unseen.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ResourceProvider, UpdateResult

from components.edge_build import EdgeBuild, EdgeBuildError, build, program
from components.engine.operator_error import without_traceback
from components.engine.step import Step
from components.remote.module_files import Edge
from components.remote.remote_script import Server, with_library
from components.remote.server_props import server_of, server_props
from components.remote.ssh import run_script, send_file

PLACE = "/var/lib/immich-exposure/edge-"
"""Where the program waits on the server until the configuration that names it is built; its hash follows."""


class _Provider(ResourceProvider):
    serialize_as_secret_always = False  # it captures nothing

    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("edge", send(props))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(send(_news))

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        # By then no configuration names it: what is built of it lies in the Nix store.
        server = server_of(_props)
        run_script(server, server.way_back(server.line("remove")), with_library(f"lock\nrm -f {PLACE}*\n"))


def send(props: dict[str, Any]) -> dict[str, Any]:
    """Bring the program to the server and return the outputs.

    Raises ``EdgeBuildError`` and ``SshError``.
    """
    machine, sha256 = props["machine"], props["sha256"]
    send_file(server_of(props), _content(machine, sha256), f"{PLACE}{sha256}", sha256)
    return props


def _content(machine: str, sha256: str) -> bytes:
    """Return the program, built again where what was built has gone or is another one by now."""
    built = program(machine)
    content = built.read_bytes() if built.is_file() else b""
    if hashlib.sha256(content).hexdigest() == sha256:
        return content
    if build(machine) != sha256:
        raise EdgeBuildError("The sources of the edge have changed while this ran; run it again.")
    return built.read_bytes()


class EdgeUpload(Step, module="immich", name="EdgeUpload"):
    """The program on the server, until nothing names it any more."""

    edge: pulumi.Output[Edge]
    """Where the program lies, and its hash."""

    machine: pulumi.Output[str]
    sha256: pulumi.Output[str]

    def __init__(self, name: str, *, server: Server, built: EdgeBuild, opts: pulumi.ResourceOptions) -> None:
        props = {**server_props(server), "machine": built.machine, "sha256": built.sha256}
        super().__init__(_Provider(), name, props, opts)
        self.edge = self.sha256.apply(lambda sha256: Edge(f"{PLACE}{sha256}", sha256))
