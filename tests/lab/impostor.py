"""An impostor in the ingress's place, for connections from the server; and routes that are cut.

nftables tables in the lab's own namespaces redirect or drop the traffic.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from lab import commands, internet, network, places
from tests.lab.strangers import PASSPHRASE, foreign_credential

PORT = 9443
REFUSAL = b'{"status":403,"message":"Forbidden"}'
LENGTH = len(REFUSAL)
ANSWER = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (LENGTH, REFUSAL)
"""The very refusal of the edge: who gives it counts, not what it says."""

LED_ASTRAY = f"""
table ip impostor {{
  chain arrives {{
    type nat hook prerouting priority -100
    ip daddr {places.INGRESS_V4} tcp dport {places.INGRESS_PORT} redirect to :{PORT}
  }}
}}
"""

INTERNET = (f'oifname "{places.WAN_LINK}"',)
"""All that leaves the server but for the operator's link."""
CONTROL = (f"ip daddr {places.INTERNET_ADDRESS} tcp dport 29080",)
"""Tailscale's control server; relays, ingress and DNS are there."""

PEERS = (
    f"ip daddr {places.INTERNET_ADDRESS} tcp dport 29443",
    f"ip daddr {places.INTERNET_ADDRESS} udp dport != 53",
)
"""The relay and the direct ways: the ingress takes visitors, and gets through to no node."""


@contextmanager
def in_the_ingress_place(manner: str) -> Iterator[None]:
    """Lead whoever comes from the server to an impostor; ``manner`` is a word of MANNERS."""
    with (
        _answering(manner, network.inside(places.INTERNET_NAMESPACE)),
        _table(places.INTERNET_NAMESPACE, LED_ASTRAY, "ip impostor"),
    ):
        yield


@contextmanager
def at_the_operators_side(manner: str) -> Iterator[str]:
    """Let an impostor answer the operator; yields where, as ``check.connectTo`` names it."""
    with _answering(manner, []):
        yield f"127.0.0.1:{PORT}"


@contextmanager
def _answering(manner: str, inside: Sequence[str]) -> Iterator[None]:
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.lab.impostor", manner, folder]
        process = subprocess.Popen([*inside, *command], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
            process.wait()


@contextmanager
def cut_off(ways: Sequence[str]) -> Iterator[None]:
    """Drop what leaves the server by these ways; nobody is told."""
    rules = "".join(f"    {way} drop\n" for way in ways)
    chain = f"  chain leaves {{\n    type filter hook output priority -20\n{rules}  }}\n"
    with _table(places.SERVER_NAMESPACE, f"table inet cut {{\n{chain}}}\n", "inet cut"):
        yield


@contextmanager
def right_taken() -> Iterator[None]:
    """Take the right to a funnel from every node, as an administrator's edit of the tailnet's policy may."""
    internet.ask("/caps", funnel="0")
    try:
        yield
    finally:
        internet.ask("/caps", funnel="1")


@contextmanager
def _table(namespace: str, text: str, name: str) -> Iterator[None]:
    commands.run([*network.inside(namespace), "nft", "-f", "-"], text=text)
    try:
        yield
    finally:
        commands.run([*network.inside(namespace), "nft", "delete", "table", *name.split()])


# ---- What answers there, as a program


def another(visitor: socket.socket, context: ssl.SSLContext) -> None:
    """End TLS with a certificate of another authority, and refuse as the edge does."""
    with context.wrap_socket(visitor, server_side=True) as secured:
        secured.recv(4096)
        secured.sendall(ANSWER)


def plainly(visitor: socket.socket, _context: ssl.SSLContext) -> None:
    """Answer without TLS."""
    visitor.recv(4096)
    visitor.sendall(ANSWER)


def silent(visitor: socket.socket, _context: ssl.SSLContext) -> None:
    """Take everything and never answer."""
    while visitor.recv(4096):
        pass


MANNERS: dict[str, Callable[[socket.socket, ssl.SSLContext], None]] = {
    "another": another,
    "plainly": plainly,
    "silent": silent,
}


def main(manner: str, folder: str) -> None:
    """Answer whoever comes, until killed."""
    stranger = foreign_credential(Path(folder) / "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(stranger.certificate_path, stranger.key_path, PASSPHRASE)
    listener = socket.create_server(("0.0.0.0", PORT))
    print("ready", flush=True)
    while True:
        visitor, _ = listener.accept()
        threading.Thread(target=_serve, args=(MANNERS[manner], visitor, context), daemon=True).start()


def _serve(
    answer: Callable[[socket.socket, ssl.SSLContext], None], visitor: socket.socket, context: ssl.SSLContext
) -> None:
    visitor.settimeout(60)
    with suppress(OSError), visitor:
        answer(visitor, context)


if __name__ == "__main__":
    main(*sys.argv[1:])
