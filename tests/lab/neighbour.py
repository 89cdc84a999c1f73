"""A second home: a lab in a bubble of its own, which the operator next door reaches through two ports.

``python -m tests.lab.neighbour SOCKET`` runs inside the bubble. It boots its lab, takes two listening sockets
of the operator's network from SOCKET, forwards their connections to its own server and window, and makes the
visits that it is asked for.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lab import Lab
from lab.house import DEFAULT_HOUSE, house
from tests.lab.outside import seen
from toolchain.paths import PROJECT

BOOT_SECONDS = 180


class Neighbour:
    """The other home. ``info`` is that of its lab, with the ports by which it is reached from here."""

    def __init__(self, connection: socket.socket) -> None:
        self._words = connection.makefile("rw", encoding="utf-8")
        ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        socket.send_fds(connection, [b"!"], [port.fileno() for port in ports])
        self.info: dict[str, Any] = _heard(self._words)
        for key, port in zip(("ssh", "window"), ports, strict=True):
            self.info[key] |= {"host": "127.0.0.1", "port": port.getsockname()[1]}
            port.close()

    def seen(self, path: str) -> str:
        """Return what a stranger sees there."""
        _say(self._words, path)
        return str(_heard(self._words))


@contextmanager
def neighbour(folder: Path) -> Iterator[Neighbour]:
    """A second home, up and untouched."""
    place = folder / "neighbour"
    command = [sys.executable, "-m", "lab", "bubble", "--", sys.executable, "-m", __name__, str(place)]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        listener.settimeout(BOOT_SECONDS)
        process = subprocess.Popen(command, cwd=PROJECT)
        try:
            connection, _ = listener.accept()
            with connection:
                yield Neighbour(connection)
        finally:
            process.terminate()
            process.wait()


def _say(words: IO[str], what: object) -> None:
    words.write(json.dumps(what) + "\n")
    words.flush()


def _heard(words: IO[str]) -> Any:
    return json.loads(words.readline())


# -- inside ---------------------------------------------------------------------------------------------


def main(place: str) -> None:
    """Serve until the other side hangs up."""
    lab = Lab()
    lab.up(house(DEFAULT_HOUSE))
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(place)
            _, (ssh, window), _, _ = socket.recv_fds(connection, 1, 2)
            info = lab.info()
            for port, to in ((ssh, info["ssh"]), (window, info["window"])):
                threading.Thread(target=_carry, args=(port, (to["host"], to["port"])), daemon=True).start()
            words = connection.makefile("rw", encoding="utf-8")
            _say(words, info)
            for line in words:
                _say(words, seen(lab, json.loads(line)))
    finally:
        lab.down()


def _carry(port: int, to: tuple[str, int]) -> None:
    """Carry each connection that comes at a listening socket, given by its number."""
    listener = socket.socket(fileno=port)
    listener.settimeout(None)
    while True:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(to)
        except OSError:
            near.close()
            continue
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=_pour, args=(source, target), daemon=True).start()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(sys.argv[1])
