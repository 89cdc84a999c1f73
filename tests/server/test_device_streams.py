"""The bound within which the websocket of a revoked device ends: `stream_timeout` in the Caddyfile."""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.server.certificates import Identity
from tests.server.conftest import EdgeMaker
from tests.server.edge import FORBIDDEN, SERVER_FILES, Edge
from tests.server.visitor import Connection
from tests.server.waiting import PATIENCE

pytestmark = pytest.mark.server

UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
BOUND = 2
"""Seconds, in place of the 15 minutes of the Caddyfile."""


def listen(edge: Edge, identity: Identity) -> Connection:
    """Open a websocket as a device; every byte comes back through it."""
    connection = edge.connect(edge.new_address(), identity)
    assert connection.ask("/api/socket.io/", headers=UPGRADE).status == 101
    connection.tls.settimeout(PATIENCE)
    assert echo(connection)
    return connection


def echo(connection: Connection) -> bool:
    """Tell whether a byte that is sent comes back; not, when the other side has hung up."""
    try:
        connection.tls.sendall(b"x")
        return connection.tls.recv(1) == b"x"
    except OSError:
        return False


def wait_for_the_end(connection: Connection) -> None:
    """Return when the other side hangs up; fail when it does not within the patience of the tests."""
    try:
        rest = connection.tls.recv(1)
    except TimeoutError:
        pytest.fail("the websocket was not ended")
    except OSError:
        return
    assert rest == b""


def test_the_websocket_of_a_revoked_device_ends_within_the_bound(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings={"STREAM_TIMEOUT": f"{BOUND}s"})
    lost, kept = edge.device("lost phone"), edge.device("laptop")
    began = time.monotonic()
    with listen(edge, lost) as socket:
        edge.revoke(lost)
        wait_for_the_end(socket)
    assert time.monotonic() - began >= BOUND * 0.9, "it is the bound that ended it, nothing else"
    with edge.connect(edge.new_address(), lost) as again:
        answer = again.ask("/api/socket.io/", headers=UPGRADE)
        assert (answer.status, answer.body) == (403, FORBIDDEN), "it may not listen anew"
    # and a device that was not revoked is let in anew when its own websocket has ended
    with listen(edge, kept) as socket:
        wait_for_the_end(socket)
    with listen(edge, kept) as socket:
        assert echo(socket)


def test_revoking_one_device_cuts_no_other(edge: Edge, phone: Identity) -> None:
    lost = edge.device("lost phone")
    with listen(edge, phone) as others, edge.connect(edge.new_address(), lost) as own:
        assert own.ask("/api/users/me").status == 200
        edge.revoke(lost)
        assert own.ask("/api/users/me").status == 403
        assert echo(others)


def test_a_download_is_not_ended_by_the_bound(make_edge: EdgeMaker) -> None:
    """The bound is one of upgraded connections alone: a big film may take hours."""
    edge = make_edge(settings={"STREAM_TIMEOUT": "1s"})
    laptop = edge.device("laptop")
    with edge.connect(edge.new_address(), laptop) as connection:
        head = b"POST /api/assets HTTP/1.1\r\nHost: immich.edge-tailnet.ts.net\r\nContent-Length: 6\r\n\r\n"
        connection.tls.sendall(head)
        for byte in b"slowly":
            time.sleep(0.4)
            connection.tls.sendall(bytes([byte]))
        assert connection.tls.recv(4096).startswith(b"HTTP/1.1 200")


def test_the_bound_is_a_quarter_of_an_hour_by_default(edge: Edge) -> None:
    """What the documents promise. Only the way that devices go has it."""
    adapted = json.dumps(
        json.loads(
            edge.run_caddy(
                "adapt", "--config", str(SERVER_FILES / "Caddyfile"), "--adapter", "caddyfile"
            ).stdout
        )
    )
    (nanoseconds,) = re.findall(r'"stream_timeout": (\d+)', adapted)
    assert int(nanoseconds) == 15 * 60 * 10**9
