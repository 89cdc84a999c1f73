"""The hand-over's web server: TLS, one process, one address, and short timeouts."""

import logging
import secrets
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from handover.one_time_download import Answer, OneTimeDownload
from handover.page import CONTENT_SECURITY_POLICY
from handover.tls import Address, Identity

_log = logging.getLogger(__name__)

TOKEN_BYTES = 16
"""128 bits cannot be guessed within minutes, at any rate of requests."""


@dataclass(frozen=True)
class Limits:
    """How much a stranger on the network can block.

    A client that sends nothing is cut off after `idle_seconds`, one that sends a byte now and then after
    `connection_seconds`. If there are `connections` already, a new one replaces the oldest connection of the
    client that has most, so a few neighbours cannot keep the phone out by holding all of them.
    """

    idle_seconds: float = 10.0
    connection_seconds: float = 20.0
    connections: int = 32
    connections_per_client: int = 8
    body_bytes: int = 4096


def new_token() -> str:
    """Create the secret part of the address: 128 random bits in 22 characters."""
    return secrets.token_urlsafe(TOKEN_BYTES)


_POLL_SECONDS = 0.1


class Outcome(StrEnum):
    """Why a hand-over ended."""

    FETCHED = "fetched"
    TIME_OVER = "time over"
    STOPPED = "stopped"


class HandoverServer(ThreadingHTTPServer):
    """Answers at one address while `serve` runs. Each connection has a thread and one request.

    With port 0 the system chooses a free one.

    Raises:
        OSError: the address is not one of this machine, or the port is taken.
    """

    allow_reuse_address = False
    daemon_threads = False
    block_on_close = True

    def __init__(
        self,
        download: OneTimeDownload,
        identity: Identity,
        address: Address,
        *,
        port: int = 0,
        limits: Limits | None = None,
    ) -> None:
        self.download = download
        self.limits = limits or Limits()
        self._context = identity.context
        self._connections: dict[socket.socket, tuple[str, float]] = {}
        self._giving: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._told: set[str] = set()
        self._stopped = False
        self.anybody_came = False
        """Whether anything has connected."""
        self.address_family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        super().__init__((str(address), port), _Handler)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def serve(self, seconds: float, *, linger_seconds: float = 0.0) -> Outcome:
        """Serve until everything was fetched, the time is over, or `stop` was called.

        After the last download it keeps refusing for `linger_seconds`, to explain that to a second attempt.
        """
        accepting = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": _POLL_SECONDS})
        accepting.start()
        try:
            self._wait(seconds, until_finished=True)
            if not self.download.finished.is_set():
                return Outcome.STOPPED if self._stopped else Outcome.TIME_OVER
            self._wait(linger_seconds, until_finished=False)
            return Outcome.FETCHED
        finally:
            self.shutdown()
            accepting.join()
            self._cut(lambda _since: True)
            self.server_close()

    def stop(self) -> None:
        """Make `serve` end soon. A signal handler may call this: it takes no lock and raises nothing."""
        self._stopped = True

    def _wait(self, seconds: float, *, until_finished: bool) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopped and (left := deadline - time.monotonic()) > 0:
            if not until_finished:
                time.sleep(min(left, _POLL_SECONDS))
            elif self.download.finished.wait(min(left, _POLL_SECONDS)):
                return

    @property
    def open_connections(self) -> int:
        """The number of current connections."""
        with self._guard:
            return len(self._connections)

    # -- called by the standard library ---------------------------------------------------------------

    def server_bind(self) -> None:
        """Bind; the inherited method would look up the address in DNS."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Turn away clients with too many connections. Runs in the accepting thread, so it must not wait."""
        client = str(client_address[0])
        self.anybody_came = True
        with self._guard:
            held = Counter(each for each, _ in self._connections.values())
            accepted = held[client] < self.limits.connections_per_client and self._has_room(held)
            if accepted:
                self._connections[request] = (client, time.monotonic())
        if not accepted and client not in self._told:
            self._told.add(client)
            _log.warning("Refused: %s has too many connections.", client)
        return accepted

    def _has_room(self, held: Counter[str]) -> bool:
        """Make room if there is none. A connection that carries a file is never cut off for it."""
        if held.total() < self.limits.connections:
            return True
        idle = [each for each in self._connections if each not in self._giving]
        if not idle:
            return False
        # The first of the client with most connections: they are in order of arrival.
        longest = max(idle, key=lambda each: held[self._connections[each][0]])
        del self._connections[longest]
        _cut_off(longest)
        return True

    def giving(self, connection: socket.socket) -> None:
        """Record that a connection carries a file from now on."""
        with self._guard:
            self._giving.add(connection)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands and answer. Runs in the connection's own thread."""
        request.settimeout(self.limits.idle_seconds)
        secured = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        with self._guard:  # the wrapped socket has taken over the descriptor
            known = self._connections.pop(request, None)
            if known is not None:
                self._connections[secured] = known
        if known is None:  # cut off in the meantime, to make room
            secured.close()
            return
        try:
            secured.do_handshake()
            _Handler(secured, client_address, self)
        finally:
            with self._guard:
                self._connections.pop(secured, None)
                self._giving.discard(secured)
            secured.close()

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection and close it."""
        with self._guard:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off connections that last too long. The accepting thread calls this several times a second."""
        oldest = time.monotonic() - self.limits.connection_seconds
        self._cut(lambda since: since < oldest)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log one line; the inherited method would print a stack trace."""
        del request
        _log.info("A connection from %s ended before it was answered.", client_address[0])

    def _cut(self, too_old: Any) -> None:
        with self._guard:
            for connection, (_, since) in self._connections.items():
                if too_old(since):
                    _cut_off(connection)


def _cut_off(connection: socket.socket) -> None:
    """End a connection while another thread is waiting on it.

    Uses the plain socket's method: `SSLSocket`'s would drop the encryption before the other thread wakes.
    """
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        return  # it has ended already


class _Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.0: the connection closes after the answer."""

    server: HandoverServer
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer without repeating any part of the request, unlike the inherited method."""
        del message, explain
        self._send(self.server.download.malformed(code, self._client))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing here; the download logs what matters, and the inherited method might show the path."""

    @property
    def _client(self) -> str:
        return str(self.client_address[0])

    def _answer(self) -> None:
        if not self._read_body():
            self.send_error(413)
            return
        answer = self.server.download.answer(self.command, self.path, self._client)
        if answer.file is None:
            self._send(answer)
            return
        self.server.giving(self.connection)
        try:
            self._send(answer)
        except OSError:
            self.server.download.broke_off(answer.file, self._client)
            raise
        self.server.download.delivered(answer.file, self._client)

    def _read_body(self) -> bool:
        """Read and discard the form's body: closing earlier would look like an error."""
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self.server.limits.body_bytes:
            return False
        self.rfile.read(int(length))
        return True

    def _send(self, answer: Answer) -> None:
        self.request_version = self.protocol_version  # otherwise an answer to HTTP/0.9 would have no headers
        self.send_response_only(answer.status)
        for name, value in (
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Robots-Tag", "noindex"),
            *answer.headers,
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


def page_url(address: Address, port: int, token: str) -> str:
    """Return the address in the QR code."""
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"https://{host}:{port}/{token}"
