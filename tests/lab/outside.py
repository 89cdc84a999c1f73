"""What a client outside sees, as one short word or status, in the form that the demo prints."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from lab import Lab, Refused, Reply, places
from pki import ProbeCredential

FORBIDDEN = '403 {"status":403}'
REFUSED = "refused"


def summary(reply: Reply) -> str:
    """Return the status, and for a refusal of the edge that its body says so, too."""
    if reply.status != 403:
        return str(reply.status)
    try:
        answer = json.loads(reply.body)
    except ValueError:
        return "403 without JSON"
    return FORBIDDEN if answer.get("status") == 403 else f"403 {answer}"


def seen(
    lab: Lab,
    path: str,
    *,
    credential: ProbeCredential | None = None,
    passphrase: str | None = None,
    source: str = "203.0.113.7",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    data: bytes | None = None,
) -> str:
    """Visit through the ingress and return what was seen; ``refused`` when no HTTP answer came."""
    try:
        reply = lab.visit(
            path,
            source=source,
            method=method,
            headers=headers,
            data=data,
            cert=credential.certificate_path if credential else None,
            key=credential.key_path if credential else None,
            passphrase=passphrase if credential else None,
        )
    except Refused:
        return REFUSED
    return summary(reply)


class OpenConnection:
    """A visitor's or a device's connection through the operator's window, kept open between requests."""

    def __init__(
        self, lab: Lab, credential: ProbeCredential | None = None, passphrase: str | None = None
    ) -> None:
        context = ssl.create_default_context(cafile=lab.info()["roots_file"])
        if credential is not None:
            context.load_cert_chain(credential.certificate_path, credential.key_path, passphrase)
        self._connection = http.client.HTTPConnection(places.DOMAIN)
        plain = socket.create_connection((places.WINDOW_HOST, places.WINDOW_PORT), 20)
        self._connection.sock = context.wrap_socket(plain, server_hostname=places.DOMAIN)
        self._connection.auto_open = 0  # never a new connection in place of one that was cut

    def status(self, path: str) -> int:
        """Ask once more on the same connection and return the status; raises when it has been cut."""
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        response.read()
        return response.status

    def listen(self) -> bool:
        """Turn the connection into a websocket (RFC 6455); return whether a message comes back through it."""
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        self._connection.request(
            "GET", "/api/socket.io/", headers={**upgrade, "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        )
        return self._connection.getresponse().status == 101 and self.echoes()

    def echoes(self) -> bool:
        """Return whether a message comes back through the websocket; not, when it has been ended."""
        no_mask = bytes(4)
        try:
            self._connection.sock.sendall(b"\x81\x81" + no_mask + b"x")
            return self._connection.sock.recv(3) == b"\x81\x01x"
        except OSError:
            return False

    def is_cut(self) -> bool:
        """Return whether the other side has hung up."""
        try:
            self.status("/api/server/config")
        except (OSError, http.client.HTTPException):
            return True
        return False


KEEP_ALIVE_SECONDS = 5
"""The edge closes a connection on which nothing is asked for half a minute."""


@contextmanager
def kept_alive(*connections: OpenConnection) -> Iterator[None]:
    """Ask on each connection now and then meanwhile, however long it takes."""
    ended = threading.Event()

    def ask() -> None:
        with suppress(OSError, http.client.HTTPException):  # whoever asks next learns that it was cut
            while not ended.wait(KEEP_ALIVE_SECONDS):
                for connection in connections:
                    connection.status("/api/server/ping")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
