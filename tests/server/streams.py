"""What a device keeps open: a websocket, and an upload that takes its time."""

from __future__ import annotations

from tests.server.certificates import Identity
from tests.server.edge import Edge
from tests.server.visitor import DOMAIN, Connection
from tests.server.waiting import PATIENCE

UPLOAD = f"POST /api/assets HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: 6\r\n\r\n".encode()
"""The beginning of an upload of six bytes."""
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket")]


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
