"""Settings that change while the edge runs, and an Immich that is elsewhere."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.server.backend import Backend
from tests.server.conftest import EdgeMaker
from tests.server.edge import FORBIDDEN, Edge
from tests.server.forms import UPLOAD as LINK_UPLOAD
from tests.server.forms import form
from tests.server.streams import UPLOAD, echo, listen
from tests.server.visitor import ConnectionDroppedError
from tests.server.waiting import HarnessError, wait_until

pytestmark = pytest.mark.server


def uploads_by_link(edge: Edge) -> bool:
    """Tell whether a stranger with a link may upload."""
    sent = form()
    return edge.ask(LINK_UPLOAD, "POST", headers=sent.headers, body=sent.body).status == 201


def test_changed_settings_count_after_a_reload_and_cut_nothing_off(make_edge: EdgeMaker) -> None:
    edge = make_edge()
    phone = edge.device("phone")
    assert not uploads_by_link(edge)
    with listen(edge, phone) as websocket, edge.connect(edge.new_address(), phone) as upload:
        upload.tls.sendall(UPLOAD + b"slo")
        wait_until(lambda: edge.backend.arrived == 3, "the upload has begun")

        edge.change(UPLOADS="on", REQUESTS="2", FEATURE_MAP="off")
        assert not uploads_by_link(edge)
        edge.reload()
        assert uploads_by_link(edge)
        address = edge.new_address()
        assert [edge.ask("/share/abc", address=address).status for _ in range(3)] == [200, 200, 429]

        assert echo(websocket)
        upload.tls.sendall(b"wly")
        assert upload.tls.recv(4096).startswith(b"HTTP/1.1 200")
        assert echo(websocket)


def test_another_port_and_another_immich_count_after_a_reload(make_edge: EdgeMaker) -> None:
    edge = make_edge()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        other = probe.getsockname()[1]
    moved = Backend()
    moved.start()
    phone = edge.device("phone")
    try:
        with listen(edge, phone) as websocket:
            before, edge.port = edge.port, other
            edge.change(PROXY_PORT=str(other), IMMICH=f"127.0.0.1:{moved.port}")
            edge.reload()
            assert edge.ask("/api/server/ping", identity=phone).status == 200
            assert moved.targets() == ["/api/server/ping"]
            assert echo(websocket)
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", before), timeout=1)
    finally:
        moved.stop()


def test_settings_that_caddy_refuses_leave_the_edge_as_it_was(make_edge: EdgeMaker) -> None:
    edge = make_edge()
    with listen(edge, edge.device("phone")) as websocket:
        edge.change(UPLOADS="perhaps")
        with pytest.raises(HarnessError):
            edge.reload()
        assert echo(websocket)
        assert edge.ask("/api/users").body == FORBIDDEN


@pytest.fixture
def immich_on_ipv6() -> Iterator[Backend]:
    """Run an Immich that listens on ::1 alone, as on the default host of NixOS."""
    backend = Backend(host="::1")
    backend.start()
    yield backend
    backend.stop()


def test_an_immich_on_ipv6_is_reached(make_edge: EdgeMaker, immich_on_ipv6: Backend) -> None:
    edge = make_edge(settings={"IMMICH": f"[::1]:{immich_on_ipv6.port}"})
    phone = edge.device("phone")
    assert edge.ask("/share/abc").status == 200
    assert edge.ask("/api/users/me", identity=phone).status == 200
    with listen(edge, phone) as websocket:
        assert echo(websocket)
    assert immich_on_ipv6.targets()[:2] == ["/share/abc", "/api/users/me"]


def test_an_immich_that_is_not_there_is_an_error_and_no_offence(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings={"IMMICH": "[::1]:1"})
    address = edge.new_address()
    try:
        answer = edge.ask("/share/abc", address=address)
    except ConnectionDroppedError:
        pytest.fail("the visitor gets no answer")
    assert answer.status == 502
    [entry] = edge.entries_of(address)
    assert entry["verdict"] == "anon"
