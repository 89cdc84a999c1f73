"""Visitors: the PROXY line that tailscaled writes, TLS, and HTTP/1.1 byte for byte as a test wants it."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

DOMAIN = "immich.edge-tailnet.ts.net"
"""The name that the edge of the tests goes by."""


class ConnectionDroppedError(RuntimeError):
    """The edge ended the connection without an HTTP answer."""


@dataclass(frozen=True)
class Answer:
    """What came back; header names in lower case, repeated ones joined by commas, `body` without chunks."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One TLS connection of a visitor; requests go out byte for byte as given."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.tls = tls

    def send(self, raw: bytes) -> Answer:
        """Send raw bytes and read one answer; raise ConnectionDroppedError when there is none."""
        method = raw.split(b" ", 1)[0].decode("latin-1")
        try:
            self.tls.sendall(raw)
            response = http.client.HTTPResponse(self.tls, method=method)
            response.begin()
            headers = {name.lower(): response.getheader(name, "") for name, _ in response.getheaders()}
            body = b"" if response.status == 101 else response.read()
        except (http.client.HTTPException, OSError) as problem:
            raise ConnectionDroppedError(str(problem)) from problem
        return Answer(response.status, headers, body)

    def ask(
        self,
        target: str,
        method: str = "GET",
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        host: str = DOMAIN,
    ) -> Answer:
        """Send one request with exactly this target and these headers after Host."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        return self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tls.close()


def proxy_line(address: str) -> bytes:
    """Return the PROXY v1 line that tailscaled writes for a visitor from this address."""
    if ":" in address:
        return f"PROXY TCP6 {address} 2001:db8:ffff::1 40000 443\r\n".encode()
    return f"PROXY TCP4 {address} 203.0.113.1 40000 443\r\n".encode()
