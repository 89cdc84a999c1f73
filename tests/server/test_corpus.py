"""Nobody gets past the edge: the bypass corpus in front of three back ends that read paths differently.

What counts is what arrived at the back end, not the status that the client saw. Every probe has an address of
its own, so what arrived tells which probe it was.
"""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from components.remote.remote_script import SERVER_FILES
from tests.server.conftest import EdgeMaker
from tests.server.corpus import STEPS_UP, Http1Probe, Http2Probe, http1_probes, http2_probes, targets
from tests.server.edge import Edge
from tests.server.http2 import Http2Connection
from tests.server.path_backends import Hit, Node, Normalising, PathBackend, ensure_express
from tests.server.surface_property import is_the_edges_own, objections
from tests.server.visitor import ConnectionDroppedError

pytestmark = pytest.mark.server

ANSWER_SECONDS = 5.0
LINGER_SECONDS = 0.25
AT_ONCE = 8

PUSHED_OUT = "not among the headers that Node kept"
LOST = Http1Probe("oversize", PUSHED_OUT, b"")

Probe = Http1Probe | Http2Probe


@pytest.fixture(scope="module")
def node_installed() -> None:
    """Make sure that Node and Express are there."""
    ensure_express()


@pytest.fixture(params=["normalising", "express", "whatwg"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, node_installed: None) -> Iterator[PathBackend]:
    """Return one back end after the other."""
    name = str(request.param)
    made: PathBackend = Normalising() if name == "normalising" else Node(name, tmp_path)
    yield made
    made.stop()


def send_http1(edge: Edge, address: str, probe: Http1Probe) -> bytes:
    """Send the bytes and return all that comes back."""
    received = b""
    with edge.connect(address) as connection:
        connection.tls.settimeout(LINGER_SECONDS if probe.lingers else ANSWER_SECONDS)
        try:
            connection.tls.sendall(probe.raw)
            while data := connection.tls.recv(65536):
                received += data
        except OSError:
            pass
    return received


def send_http2(edge: Edge, address: str, probe: Http2Probe) -> bytes:
    """Send the header block; return the status of the answer, or nothing."""
    with edge.connect(address, protocols=("h2",)) as connection:
        connection.tls.settimeout(ANSWER_SECONDS)
        try:
            return str(Http2Connection(connection).send(probe.headers, probe.body).status).encode()
        except ConnectionDroppedError:
            return b""


def send(edge: Edge, address: str, probe: Probe) -> bytes:
    """Send a probe in its own version of HTTP."""
    return (
        send_http1(edge, address, probe)
        if isinstance(probe, Http1Probe)
        else send_http2(edge, address, probe)
    )


def fire(edge: Edge, backend: PathBackend, probes: Sequence[Probe]) -> list[tuple[Probe, Hit]]:
    """Send every probe and return what arrived, with the probe that it came from."""
    by_address = {edge.new_address(): probe for probe in probes}
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda item: send(edge, *item), by_address.items()))
    arrived = []
    for hit in backend.drain():
        if is_the_edges_own(hit):
            continue
        # Node keeps a thousand headers and drops the rest; which they are, the visitor decides.
        [address] = hit.headers.get("x-forwarded-for", [PUSHED_OUT])
        arrived.append((by_address.get(address, LOST), hit))
    return arrived


def passed(arrived: Sequence[tuple[Probe, Hit]]) -> list[str]:
    """Return, for each request that should not have arrived, the probe and the objection."""
    return [
        f"[{probe.family}] {probe.name} -> {hit.method} {hit.target[:200]}: {'; '.join(found)}"
        for probe, hit in arrived
        if (found := objections(hit))
    ]


def edge_before(make_edge: EdgeMaker, backend: PathBackend, caddyfile: str | None = None) -> Edge:
    """Start an edge in front of a back end."""
    return make_edge(settings={"IMMICH": f"127.0.0.1:{backend.port}"}, caddyfile=caddyfile)


PROBES: dict[str, Callable[[], Sequence[Probe]]] = {"http/1.1": http1_probes, "http/2": http2_probes}


def test_the_corpus_is_large() -> None:
    assert len({target.target for target in targets()}) >= 200
    assert all(len(probes()) >= 200 for probes in PROBES.values())


@pytest.mark.parametrize("version", PROBES)
def test_nothing_of_the_corpus_gets_past_the_table(
    make_edge: EdgeMaker, backend: PathBackend, version: str
) -> None:
    edge = edge_before(make_edge, backend)
    arrived = fire(edge, backend, PROBES[version]())
    assert passed(arrived) == []
    assert arrived, "what the table allows must arrive, or the probes prove nothing"


# The corpus has teeth: weaker edges are got past


OPEN_BY_PREFIX = """\t\t@closed not path /share/* /s/* /_app/* /api/assets/* /api/server/config*
\t\trefuse @closed forbidden scan
"""


def by_prefix() -> str:
    """Return the project's Caddyfile with a list of prefixes in the gate's place."""
    text, count = re.subn(
        r"\t\t\tgate \{\n(?:\t\t\t\t.*\n)+\t\t\t\}\n",
        lambda _: OPEN_BY_PREFIX,
        (SERVER_FILES / "Caddyfile").read_text(),
    )
    assert count == 1
    return text


def test_a_list_of_prefixes_is_got_past(make_edge: EdgeMaker, backend: PathBackend) -> None:
    """The same probes against an edge that trusts Caddy's `path` matcher: all three back ends are reached."""
    edge = edge_before(make_edge, backend, by_prefix())
    climbing = [probe for probe in http1_probes() if probe.family in STEPS_UP]
    private = {
        hit.operation
        for probe, hit in fire(edge, backend, climbing)
        if any("it was taken for" in found for found in objections(hit))
    }
    assert private
