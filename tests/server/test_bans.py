"""A ban is a file: it cuts the visitor off at once, never a device, and its loss is never silent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.server.certificates import Identity
from tests.server.conftest import EdgeMaker
from tests.server.edge import Edge, is_cut
from tests.server.http2 import Http2Connection, request_headers
from tests.server.visitor import ConnectionDroppedError

pytestmark = pytest.mark.server


@pytest.mark.parametrize("jail", ["auth", "keys", "scan", "manual"])
def test_a_ban_cuts_off_the_visitor_and_no_device(edge: Edge, phone: Identity, jail: str) -> None:
    address = edge.new_address()
    with edge.connect(address) as connection:
        assert connection.ask("/share/abc").status == 200
        edge.ban_file(jail, address).touch()
        with pytest.raises(ConnectionDroppedError):
            connection.ask("/share/abc")
    assert is_cut(edge, address)
    assert not is_cut(edge, edge.new_address())
    assert edge.ask("/api/users/me", address=address, identity=phone).status == 200
    edge.ban_file(jail, address).unlink()
    assert not is_cut(edge, address)


def test_ipv6_is_banned_by_address_or_by_network(edge: Edge) -> None:
    edge.ban_file("scan", "2001:db8:5::9").touch()
    assert is_cut(edge, "2001:db8:5:0:0::9")
    assert not is_cut(edge, "2001:db8:5::a")
    edge.ban_file("manual", "2001:db8:6::_64").touch()
    assert is_cut(edge, "2001:db8:6::1")
    assert is_cut(edge, "2001:db8:6:0:ffff::1")
    assert not is_cut(edge, "2001:db8:6:1::1")


def test_a_mapped_address_is_the_address(edge: Edge) -> None:
    address = edge.new_address()
    edge.ban_file("scan", address).touch()
    assert is_cut(edge, f"::ffff:{address}")


def answers_without_bans(edge: Edge, folder: Path, identity: Identity) -> tuple[int, int]:
    """Return what a visitor and a device get while `folder` cannot be looked into."""
    return edge.ask("/share/abc").status, edge.ask("/api/users/me", identity=identity).status


@pytest.mark.parametrize("jail", ["auth", "keys", "scan", "manual"])
def test_a_missing_ban_folder_shuts_visitors_out(make_edge: EdgeMaker, jail: str) -> None:
    edge = make_edge()
    phone = edge.device("phone")
    folder = edge.state / "bans" / jail
    folder.rename(folder.with_name("elsewhere"))
    assert answers_without_bans(edge, folder, phone) == (503, 200)
    folder.with_name("elsewhere").rename(folder)
    assert answers_without_bans(edge, folder, phone) == (200, 200)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder that Caddy may not read")
@pytest.mark.parametrize("name", ["bans", "bans/auth", "bans/keys", "bans/scan", "bans/manual"])
def test_an_unreadable_ban_folder_shuts_visitors_out(make_edge: EdgeMaker, name: str) -> None:
    edge = make_edge()
    phone = edge.device("phone")
    folder = edge.state / name
    folder.chmod(0o700)
    assert answers_without_bans(edge, folder, phone) == (503, 200)
    folder.chmod(0o755)
    assert answers_without_bans(edge, folder, phone) == (200, 200)


def test_a_ban_ends_a_connection_of_http2(edge: Edge) -> None:
    """Resetting the stream alone would let a client ask on and on, and reach the other sites as well."""
    address = edge.new_address()
    with (
        edge.connect(address, protocols=("h2",)) as connection,
        Http2Connection(connection) as http2,
    ):
        assert http2.ask("/share/abc").status == 200
        edge.ban_file("scan", address).touch()
        edge.backend.received.clear()
        with pytest.raises(ConnectionDroppedError, match="ended the connection|closed the connection"):
            for _ in range(10):
                assert http2.ask("/share/abc").status == 403
        connection.tls.settimeout(5)
        while connection.tls.recv(65536):
            pass
    assert edge.backend.received == []


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_a_ban_holds_for_another_host(edge: Edge, protocol: str) -> None:
    address = edge.new_address()
    edge.ban_file("scan", address).touch()
    with edge.connect(address, protocols=(protocol,)) as connection:
        if protocol == "http/1.1":
            with pytest.raises(ConnectionDroppedError):
                connection.ask("/", host="other.example")
            return
        http2 = Http2Connection(connection)
        with pytest.raises(ConnectionDroppedError):
            for _ in range(10):
                http2.send(request_headers("/", authority="other.example"))


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_a_ban_holds_for_the_asterisk_that_go_answers_itself(edge: Edge, protocol: str) -> None:
    """Left alone, net/http answers "OPTIONS *" with a 200: no handler, ban, limit or log sees it."""
    address = edge.new_address()

    def ask() -> int:
        with edge.connect(address, protocols=(protocol,)) as connection:
            if protocol == "h2":
                with Http2Connection(connection) as http2:
                    return http2.send(request_headers("*", "OPTIONS")).status
            return connection.ask("*", "OPTIONS").status

    assert ask() == 403
    [entry] = edge.entries_of(address)
    assert entry["verdict"] == "quiet"
    edge.ban_file("scan", address).touch()
    with pytest.raises(ConnectionDroppedError):
        ask()
