"""Fixtures of the server tier: real Caddy on loopback (see edge.py)."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

import toolchain
from tests.server.certificates import Identity
from tests.server.edge import Edge, Limits, caddy_user
from tests.server.nix import Nix


class EdgeMaker(Protocol):
    """Starts an edge of a test's own, stopped when the test ends."""

    def __call__(
        self,
        *,
        uploads: str = "off",
        limits: Limits | None = None,
        settings: Mapping[str, str] | None = None,
        caddyfile: str | None = None,
        start: bool = True,
    ) -> Edge: ...


@contextlib.contextmanager
def program_for_everybody(program: Path) -> Iterator[Path]:
    """Lend a copy of a program that the user of the edge may run, wherever the project lies."""
    if caddy_user() is None:
        yield program
        return
    folder = Path(tempfile.mkdtemp(prefix="edge-caddy-"))
    folder.chmod(0o755)
    try:
        copy = Path(shutil.copy(program, folder / "caddy"))
        copy.chmod(0o755)
        yield copy
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def caddy_program() -> Iterator[Path]:
    """Return a Caddy that the user of the edge may run."""
    with program_for_everybody(toolchain.program("caddy")) as program:
        yield program


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Nix:
    """Return an evaluator with a store of its own."""
    return Nix(tmp_path_factory.mktemp("nix"), toolchain.program("caddy").parent)


@pytest.fixture(scope="session")
def _shared_edge(caddy_program: Path) -> Iterator[Edge]:
    edge = Edge(caddy_program)
    try:
        edge.start()
        yield edge
    finally:
        edge.stop()


@pytest.fixture
def edge(_shared_edge: Edge) -> Edge:
    """Return the edge as it is by default; shared, so a test cleans up what it puts into its folders."""
    _shared_edge.backend.received.clear()
    _shared_edge.backend.answers.clear()
    return _shared_edge


@pytest.fixture(scope="session")
def phone(_shared_edge: Edge) -> Identity:
    """Return a device that is enrolled on the shared edge."""
    return _shared_edge.device("phone")


@pytest.fixture
def make_edge(caddy_program: Path) -> Iterator[EdgeMaker]:
    """Return a maker of edges with settings of their own."""
    edges: list[Edge] = []

    def make(
        *,
        uploads: str = "off",
        limits: Limits | None = None,
        settings: Mapping[str, str] | None = None,
        caddyfile: str | None = None,
        start: bool = True,
    ) -> Edge:
        made = Edge(caddy_program, uploads=uploads, limits=limits, settings=settings, caddyfile=caddyfile)
        edges.append(made)
        if start:
            made.start()
        return made

    yield make
    for made in edges:
        made.stop()
