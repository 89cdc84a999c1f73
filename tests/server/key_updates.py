"""TLS 1.3 key updates (RFC 8446, 4.6.3), which no library sends as often as an attacker would."""

from __future__ import annotations

import socket
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.server.edge import Edge
from tests.server.visitor import DOMAIN, proxy_line

SUITES: dict[str, tuple[type[AESGCM] | type[ChaCha20Poly1305], int, hashes.HashAlgorithm]] = {
    "TLS_AES_128_GCM_SHA256": (AESGCM, 16, hashes.SHA256()),
    "TLS_AES_256_GCM_SHA384": (AESGCM, 32, hashes.SHA384()),
    "TLS_CHACHA20_POLY1305_SHA256": (ChaCha20Poly1305, 32, hashes.SHA256()),
}
HANDSHAKE, DATA = 22, 23


class KeyUpdates:
    """A visitor whose handshake is Python's and whose records are sealed here."""

    def __init__(self, edge: Edge, address: str, *, protocols: Sequence[str] = ("h2",)) -> None:
        context = edge.tls_context(protocols=protocols)
        with tempfile.NamedTemporaryFile() as log:
            context.keylog_filename = log.name
            self.tls = context.wrap_socket(edge.dial(proxy_line(address)), server_hostname=DOMAIN)
            lines = Path(log.name).read_text().splitlines()
        [named] = [line for line in lines if line.startswith("CLIENT_TRAFFIC")]
        self._secret = bytes.fromhex(named.split()[2])
        cipher = self.tls.cipher()
        assert cipher is not None
        self._sealer, self._size, self._hash = SUITES[cipher[0]]
        self._begin()

    def _begin(self) -> None:
        """Use the keys of the secret."""
        self._key = self._sealer(self._derive(b"key", self._size))
        self._mask = int.from_bytes(self._derive(b"iv", 12), "big")
        self._number = 0

    def _derive(self, label: bytes, length: int) -> bytes:
        """HKDF-Expand-Label without a context."""
        full = b"tls13 " + label
        info = struct.pack("!HB", length, len(full)) + full + b"\0"
        return HKDFExpand(self._hash, length, info).derive(self._secret)

    def record(self, data: bytes, kind: int = DATA) -> bytes:
        """Return a record with this content."""
        nonce = (self._mask ^ self._number).to_bytes(12, "big")
        self._number += 1
        head = b"\x17\x03\x03" + struct.pack("!H", len(data) + 17)
        return head + self._key.encrypt(nonce, data + bytes([kind]), head)

    def update(self, *, asks: bool = True) -> bytes:
        """Return a key update, which may ask for one in return; what follows has the new keys."""
        made = self.record(b"\x18\0\0\x01" + bytes([asks]), HANDSHAKE)
        self._secret = self._derive(b"traffic upd", self._hash.digest_size)
        self._begin()
        return made

    def send(self, raw: bytes) -> None:
        """Send bytes past TLS."""
        socket.socket.sendall(self.tls, raw)

    def receive(self) -> bytes:
        """Return some bytes past TLS; none when the edge has closed the connection."""
        try:
            return socket.socket.recv(self.tls, 65_536)
        except ConnectionResetError:
            return b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tls.close()
