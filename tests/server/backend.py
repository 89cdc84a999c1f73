"""The recording Immich behind the edge of the tests."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Received:
    """A request as the back end got it: the target byte for byte, header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, list[str]]
    body_size: int


@dataclass
class Backend:
    """An Immich that answers as told and remembers who asked.

    `answers` maps (method, path) to status and headers; whatever is not in it gets 200. A Content-Length
    among the headers is a promise that is not kept: the connection ends early. `bodies` are what answers say
    instead of "immich", or of a link's data, which takes uploads. `decide` comes before both: it takes method
    and target, and returns status and body, or None. Bodies of requests are read to their end; `arrived`
    counts their bytes as they come.
    After an upgrade every byte comes back.
    """

    answers: dict[tuple[str, str], tuple[int, Mapping[str, str]]] = field(default_factory=dict)
    bodies: dict[tuple[str, str], bytes] = field(default_factory=dict)
    decide: Callable[[str, str], tuple[int, bytes] | None] | None = None
    received: list[Received] = field(default_factory=list)
    arrived: int = 0
    port: int = 0
    host: str = "127.0.0.1"
    _server: http.server.ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Listen on a free port of the host."""
        self._server = _server_for(self.host)((self.host, 0), _handler_for(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Close the listener."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def body_of(self, method: str, target: str) -> bytes:
        """Return what an answer says; a link's data is what the edge needs of it."""
        path, _, query = target.partition("?")
        otherwise = b"immich"
        if path == "/api/shared-links/me":
            name = query.partition("=")[2]
            otherwise = json.dumps(
                {"assets": [{"id": "x"}], "id": f"id of {name}", "allowUpload": True}
            ).encode()
        return self.bodies.get((method, path), otherwise)

    def targets(self) -> list[str]:
        """Return the targets received so far, oldest first."""
        return [request.target for request in self.received]


def _server_for(host: str) -> type[http.server.ThreadingHTTPServer]:
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        request_queue_size = 256  # or connections that come all at once wait for seconds

    return Server


def _handler_for(backend: Backend) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits for a delayed acknowledgement

        def handle_any(self) -> None:
            method, target, _ = self.requestline.split(" ", 2)  # self.path has "//" already shortened
            headers: dict[str, list[str]] = {}
            for name, value in self.headers.items():
                headers.setdefault(name.lower(), []).append(value)
            size = _body_size(self.rfile, headers, backend)
            backend.received.append(Received(method, target, headers, size))
            if "upgrade" in headers:
                self.send_response(101)
                self.send_header("Upgrade", headers["upgrade"][0])
                self.send_header("Connection", "Upgrade")
                self.end_headers()
                while data := self.connection.recv(4096):
                    self.connection.sendall(data)
                self.close_connection = True
                return
            status, extra = backend.answers.get((method, target.split("?")[0]), (200, {}))
            body = b"" if method == "HEAD" else backend.body_of(method, target)
            if backend.decide is not None and (decided := backend.decide(method, target)) is not None:
                status, body = decided[0], b"" if method == "HEAD" else decided[1]
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            if "Content-Length" in extra:
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the edge has cut the request off
                self.wfile.write(body)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self.handle_any
            raise AttributeError(name)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the tests look at `received`."""

    return Handler


def _body_size(stream: io.BufferedIOBase, headers: Mapping[str, list[str]], backend: Backend) -> int:
    if "chunked" in "".join(headers.get("transfer-encoding", [])):
        total = 0
        while size := int(stream.readline().split(b";")[0] or b"0", 16):  # an empty line: it broke off
            total += len(stream.read(size))
            backend.arrived += size
            stream.readline()
        stream.readline()
        return total
    remaining = int(headers.get("content-length", ["0"])[0])
    total = 0
    while remaining > 0 and (chunk := stream.read1(min(remaining, 1 << 20))):
        total += len(chunk)
        backend.arrived += len(chunk)
        remaining -= len(chunk)
    return total
