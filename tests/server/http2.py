"""HTTP/2 of a visitor who may send any header block, also ones that no honest client sends."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from tests.server.visitor import DOMAIN, Answer, Connection, ConnectionDroppedError

Header = tuple[bytes, bytes]

FRAME = 16_384
"""The most that a frame may hold."""


def request_headers(
    target: str, method: str = "GET", *, authority: str = DOMAIN, extra: Sequence[tuple[str, str]] = ()
) -> list[Header]:
    """Return the header block of a request; `extra` comes last, names as given."""
    block = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", target), *extra]
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in block]


class Http2Connection:
    """HTTP/2 over a connection that has agreed on it; nothing that is sent is checked or put right.

    `window` is how many bytes of a body the edge may send before it must wait.
    """

    def __init__(self, connection: Connection, *, window: int | None = None) -> None:
        self._tls: ssl.SSLSocket = connection.tls
        if self._tls.selected_alpn_protocol() != "h2":
            raise ConnectionDroppedError("The edge does not speak HTTP/2.")
        self._protocol = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        if window is not None:
            sizes = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            self._protocol.local_settings = h2.settings.Settings(client=True, initial_values=sizes)
        self._protocol.initiate_connection()

    def send(self, headers: Sequence[Header], body: bytes | None = None) -> Answer:
        """Send one request and read its answer; raise ConnectionDroppedError when there is none."""
        try:
            stream = self._protocol.get_next_available_stream_id()
            self._protocol.send_headers(stream, list(headers), end_stream=body is None)
            if body is not None:
                for start in range(0, len(body) or 1, FRAME):
                    rest = body[start : start + FRAME]
                    self._protocol.send_data(stream, rest, end_stream=start + FRAME >= len(body))
            self._tls.sendall(self._protocol.data_to_send())
            return self._answer(stream)
        except (h2.exceptions.ProtocolError, OSError) as problem:
            raise ConnectionDroppedError(str(problem)) from problem

    def ask(
        self,
        target: str,
        method: str = "GET",
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Answer:
        """Send one sound request."""
        return self.send(request_headers(target, method, extra=headers), body)

    def glance(self, target: str, *, hang_up: bool) -> int:
        """Ask, read no more than the status and return it; then hang up, or just wait."""
        stream = self._protocol.get_next_available_stream_id()
        self._protocol.send_headers(stream, request_headers(target), end_stream=True)
        self._tls.sendall(self._protocol.data_to_send())
        while data := self._tls.recv(65536):
            for event in self._protocol.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    if hang_up:
                        self._protocol.reset_stream(stream)
                        self._tls.sendall(self._protocol.data_to_send())
                    return int(dict(event.headers)[b":status"])
            self._tls.sendall(self._protocol.data_to_send())
        raise ConnectionDroppedError("The edge closed the connection.")

    def flood(self, targets: Sequence[str], *, headers: Sequence[tuple[str, str]] = ()) -> Counter[int]:
        """Send so many requests, a hundred at once, and count the statuses; -1 is a stream that was reset.

        What has no answer when the edge ends the connection is counted as 0.
        """
        statuses: Counter[int] = Counter()
        for start in range(0, len(targets), 100):
            batch = targets[start : start + 100]
            for target in batch:
                stream = self._protocol.get_next_available_stream_id()
                self._protocol.send_headers(stream, request_headers(target, extra=headers), end_stream=True)
            waiting = len(batch)
            try:
                self._tls.sendall(self._protocol.data_to_send())
                while waiting and (data := self._tls.recv(65536)):
                    for event in self._protocol.receive_data(data):
                        if isinstance(event, h2.events.ResponseReceived):
                            statuses[int(dict(event.headers)[b":status"])] += 1
                        if isinstance(event, h2.events.StreamReset):
                            statuses[-1] += 1
                        if isinstance(event, h2.events.DataReceived):
                            self._protocol.acknowledge_received_data(
                                event.flow_controlled_length, event.stream_id
                            )
                        waiting -= isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset))
                    self._tls.sendall(self._protocol.data_to_send())
            except (h2.exceptions.ProtocolError, OSError):
                pass
            if waiting:
                statuses[0] += len(targets) - statuses.total()
                break
        return statuses

    def _answer(self, stream: int) -> Answer:
        head: dict[str, str] = {}
        body = b""
        while data := self._tls.recv(65536):
            for event in self._protocol.receive_data(data):
                if isinstance(event, h2.events.ConnectionTerminated):
                    raise ConnectionDroppedError("The edge ended the connection.")
                if isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                    raise ConnectionDroppedError("The edge reset the stream.")
                if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                    head = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                if isinstance(event, h2.events.DataReceived) and event.stream_id == stream:
                    body += event.data
                if isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                    return Answer(int(head.pop(":status")), head, body)
            self._tls.sendall(self._protocol.data_to_send())
        raise ConnectionDroppedError("The edge closed the connection.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tls.close()
