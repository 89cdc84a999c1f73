"""The edge, compiled on the operator's machine for a server that is too small (`edgeBuild: operator`).

The same sources give the same bytes on every machine. The build runs before anything changes on the server:
if Go is missing or the build fails, the server stays as it was.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, UpdateResult

from components.engine.operator_error import OperatorError, without_traceback
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider
from components.remote.remote_script import Server
from components.remote.ssh import run_script
from toolchain import ToolchainError, edge, paths

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What `uname -m` prints, and Go's name for it."""


class EdgeBuildError(OperatorError):
    """The edge could not be built here; the message says what to do."""


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("edge", build_for_the_server(props))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(build_for_the_server(_news))


def build_for_the_server(props: dict[str, Any]) -> dict[str, Any]:
    """Build the edge for the server's architecture and return the outputs.

    Raises ``EdgeBuildError`` and ``SshError``.
    """
    server = from_props(Server, props)
    machine = run_script(server, server.line("machine"), "uname -m\n").strip().rpartition("\n")[2]
    if machine not in MACHINES:
        raise EdgeBuildError(
            f"The edge cannot be built here for the server's architecture ({machine}); set edgeBuild: server."
        )
    return {**props, "machine": machine, "sha256": build(machine)}


def build(machine: str) -> str:
    """Build the edge for this architecture and return its SHA-256 in hex.

    Raises ``EdgeBuildError``.
    """
    try:
        return edge.build(MACHINES[machine], program(machine))
    except ToolchainError as error:
        raise EdgeBuildError(str(error)) from error


def program(machine: str) -> Path:
    """Return the path of the program for this architecture, once it is built."""
    return paths.HOME / f"edge-{MACHINES[machine]}"


def source_digest() -> str:
    """Return a digest of everything that determines the program: its sources and the Go release."""
    lines = [
        f"{name} {hashlib.sha256((Path(edge.SOURCE) / name).read_bytes()).hexdigest()}\n"
        for name in edge.source_files()
    ]
    return hashlib.sha256("".join([edge.GO_RELEASE, *lines]).encode()).hexdigest()


class EdgeBuild(Step, module="immich", name="EdgeBuild"):
    """The edge's program on the operator's machine."""

    machine: pulumi.Output[str]
    sha256: pulumi.Output[str]

    def __init__(self, name: str, *, server: Server, opts: pulumi.ResourceOptions) -> None:
        props = {**props_of(server), "source": source_digest(), "machine": None, "sha256": None}
        super().__init__(_Provider(), name, props, opts)
