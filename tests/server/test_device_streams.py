"""What a revoked device has open ends within a stated time, and nobody else's does.

Two lines: the edge looks anew every two seconds (`while_enrolled`), and ends every websocket once a day
(`stream_timeout`), whether or not its device was revoked.
"""

from __future__ import annotations

import contextlib
import re
import time

import pytest

from components.remote.remote_script import SERVER_FILES
from tests.server.conftest import EdgeMaker
from tests.server.edge import FORBIDDEN, Edge
from tests.server.streams import UPGRADE, UPLOAD, echo, listen
from tests.server.visitor import Connection
from tests.server.waiting import PATIENCE, wait_until
from toolchain.paths import PROJECT

pytestmark = pytest.mark.server

BOUND = 2
"""Seconds, in place of the day of the Caddyfile."""
SOON, NEVER = {"LOOK_AGAIN": "100ms"}, {"LOOK_AGAIN": "1h"}


def wait_for_the_end(connection: Connection) -> None:
    """Return when the other side hangs up; fail when it does not within the patience of the tests."""
    try:
        rest = connection.tls.recv(1)
    except TimeoutError:
        pytest.fail("the websocket was not ended")
    except OSError:
        return
    assert rest == b""


def test_the_websocket_of_a_revoked_device_ends_at_once_and_no_other(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings=SOON)
    lost, kept = edge.device("lost phone"), edge.device("laptop")
    with listen(edge, lost) as socket, listen(edge, kept) as others:
        edge.revoke(lost)
        wait_for_the_end(socket)
        assert echo(others)
    with edge.connect(edge.new_address(), lost) as again:
        answer = again.ask("/api/socket.io/", headers=UPGRADE)
        assert (answer.status, answer.body) == (403, FORBIDDEN), "it may not listen anew"


def test_a_revoked_device_is_noticed_with_what_the_caddyfile_says(edge: Edge) -> None:
    lost = edge.device("lost phone")
    with listen(edge, lost) as socket:
        edge.revoke(lost)
        wait_for_the_end(socket)


def test_the_websocket_goes_on_over_a_reload_and_still_ends_with_its_device(make_edge: EdgeMaker) -> None:
    """The trust pool changes by a reload; a device that stays must not notice, one that goes must go."""
    edge = make_edge(settings=SOON)
    lost, kept = edge.device("lost phone"), edge.device("laptop")
    with listen(edge, lost) as socket, listen(edge, kept) as others:
        edge.reload()
        assert echo(socket)
        edge.revoke(lost)
        wait_for_the_end(socket)
        assert echo(others)


def test_an_upload_of_a_revoked_device_is_ended(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings=SOON)
    with edge.connect(edge.new_address(), edge.device("laptop")) as others:
        others.tls.sendall(UPLOAD + b"slo")
        lost = edge.device("lost phone")
        with edge.connect(edge.new_address(), lost) as connection:
            connection.tls.settimeout(PATIENCE)
            connection.tls.sendall(UPLOAD + b"slow")
            wait_until(lambda: edge.backend.arrived == 7, "both uploads have begun")
            edge.revoke(lost)
            wait_until(
                lambda: [each.body_size for each in edge.backend.received] == [4], "it ended at Immich"
            )
            with contextlib.suppress(OSError):
                connection.tls.sendall(b"ly")
                assert connection.tls.recv(4096) == b"", "its connection ended as well"
        others.tls.sendall(b"wly")
        assert others.tls.recv(4096).startswith(b"HTTP/1.1 200")
    assert [each.body_size for each in edge.backend.received] == [4, 6]


def test_even_if_nobody_looked_every_websocket_ends_within_the_bound(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings={"STREAM_TIMEOUT": f"{BOUND}s", **NEVER})
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


def test_an_upload_is_not_ended_by_the_bound_nor_by_looking(make_edge: EdgeMaker) -> None:
    """The bound is one of upgraded connections alone: a big film may take hours."""
    edge = make_edge(settings={"STREAM_TIMEOUT": "1s", **SOON})
    laptop = edge.device("laptop")
    with edge.connect(edge.new_address(), laptop) as connection:
        connection.tls.sendall(UPLOAD)
        for byte in b"slowly":
            time.sleep(0.4)
            connection.tls.sendall(bytes([byte]))
        assert connection.tls.recv(4096).startswith(b"HTTP/1.1 200")


def test_the_bounds_are_the_ones_that_the_documents_promise(edge: Edge) -> None:
    """Only the way that devices go has them."""
    caddyfile = SERVER_FILES / "Caddyfile"
    adapted = edge.run_caddy("adapt", "--config", str(caddyfile), "--adapter", "caddyfile").stdout
    assert re.findall(r'"stream_timeout":(\d+)', adapted) == [str(24 * 60 * 60 * 10**9)]
    assert re.findall(r'"handler":"while_enrolled","interval":(\d+)', adapted) == [str(2 * 10**9)]
    document = (PROJECT / "docs/keys.md").read_text()
    assert "every two seconds" in document and "once a day" in document


@pytest.mark.parametrize(
    "arguments",
    ["", "1s", "0s /devices /ca", "-1s /devices /ca", "soon /devices /ca", "1s /a", "1s /a /b /c"],
)
def test_a_look_without_folder_or_interval_is_refused(edge: Edge, arguments: str) -> None:
    caddyfile = edge.folder / "bad"
    caddyfile.write_text(f":1 {{\n\twhile_enrolled {arguments}\n}}\n")
    done = edge.run_caddy("adapt", "--config", str(caddyfile), "--adapter", "caddyfile")
    assert done.returncode != 0
    assert "while_enrolled" in done.stderr or "interval" in done.stderr
