"""One SSH connection for all that a process has to say to a server, from its second or third call on.

A run has a dozen scripts to run, and each connection costs a handshake on both machines. Once the first call
is let in, a master is started beside it, or else beside the second, and later ones go through it. Nobody ever
waits for it: where there is none, where the server takes no second session, or where it breaks, a call has a
connection of its own, and so has the first, whose failures are those that an owner must understand. One that
does not answer any more (stopped, or hung) is ended, and a call that is under way through it fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SOCKET_LENGTH = 104 - 18
"""Bytes of a socket's path on macOS, without what ssh appends while it makes it."""

# The folder goes when the master does, however this process has ended by then.
_MASTER = 'folder=$1; shift; "$@"; rm -rf "$folder"'

LIFE_SECONDS = 900
"""How long a master takes calls: Pulumi's plugin outlives an engine that was killed, and would keep it."""

GREETING_SECONDS = 10
"""A master greets whoever connects, and does nothing else that takes time; later than this it never will."""

Arguments = Callable[[Path], Sequence[str]]
"""Return the arguments of ``ssh`` up to the remote command, for a folder to lay files into."""

REFUSED = "mux_client_"
"""How ssh begins a line about a master that would not take it; it then has a connection of its own."""


class _Connection:
    """All calls to one server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_worked = self._spoiled = False
        self._master: subprocess.Popen[bytes] | None = None
        self._socket = Path()

    def way(self, arguments: Arguments) -> Way:
        with self._lock:
            if self._has_worked:
                self._start(arguments)
            return Way(self, arguments, self._socket if self._is_there() else None)

    def _is_there(self) -> bool:
        alive = self._master is not None and self._master.poll() is None
        if not alive or self._spoiled or not self._socket.exists():
            return False
        if self._hangs():
            self._end()
            return False
        return True

    def _hangs(self) -> bool:
        """Return whether the master takes whoever comes and does not greet them (ssh's PROTOCOL.mux).

        One that is about to end, with the last call that goes through it, takes nobody any more.
        """
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.settimeout(GREETING_SECONDS)
            try:
                visitor.connect(str(self._socket))
                visitor.recv(1)
            except (TimeoutError, BlockingIOError):
                return True
            except OSError:
                return False
        return False

    def _start(self, arguments: Arguments) -> None:
        """Start a master, once, that ends with a pipe of ours: so with this process, also a killed one."""
        if self._master is not None or self._spoiled:
            return
        folder = Path(tempfile.mkdtemp(prefix="ie-"))
        self._socket = folder / "s"
        if len(str(self._socket)) > SOCKET_LENGTH:
            folder.rmdir()
            self._spoiled = True
            return
        ssh, *rest = arguments(folder)
        held = f"timeout {LIFE_SECONDS} cat"
        self._master = subprocess.Popen(
            ["sh", "-c", _MASTER, "sh", str(folder), ssh, "-M", "-S", str(self._socket), *rest, held],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def worked(self) -> None:
        with self._lock:
            self._has_worked = True

    def let_in(self, arguments: Arguments) -> None:
        with self._lock:
            self._start(arguments)

    def spoil(self) -> None:
        """Let no later call through the master, which ends with the last that is under way."""
        with self._lock:
            self._spoiled = True
            if self._master is not None and self._master.stdin is not None:
                self._master.stdin.close()

    def lives(self) -> bool:
        """Return whether the master is at work; one that hangs is ended with all that is under way."""
        if not self._hangs():
            return True
        with self._lock:
            self._end()
        return False

    def _end(self) -> None:
        """Kill the master, which hears nothing of the pipe any more."""
        self._spoiled = True
        if self._master is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._master.pid, signal.SIGKILL)
        self._master.wait()
        shutil.rmtree(self._socket.parent, ignore_errors=True)


@dataclass
class Way:
    """The way of one call: through the master, whose socket this is, or by itself."""

    _connection: _Connection
    _arguments: Arguments
    _socket: Path | None
    _refused: bool = False

    @property
    def options(self) -> list[str]:
        """What goes behind ``ssh``."""
        return [] if self._socket is None else ["-S", str(self._socket), "-o", "ControlMaster=no"]

    def listener(self, tell: Callable[[str], None] | None) -> Callable[[str], None]:
        """Return what passes on all that is said but a refusal of the master's, which it notes."""

        def listen(line: str) -> None:
            if self._socket is not None and line.startswith(REFUSED):
                self._refused = True
            elif tell is not None:
                tell(line)

        return listen

    def let_in(self) -> None:
        """Learn that the server has let this call in, so that it takes a master as well."""
        self._connection.let_in(self._arguments)

    def lives(self) -> bool:
        """Return whether there is still anything that the call goes through."""
        return self._socket is None or self._connection.lives()

    def ended(self, *, well: bool) -> None:
        """Learn how the call ended; one that failed through the master is the last that took it."""
        if well:
            self._connection.worked()
        if self._socket is not None and (self._refused or not well):
            self._connection.spoil()


class SharedConnections:
    """The masters of a process, by what they are the connection to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[object, _Connection] = {}

    def way(self, key: object, arguments: Arguments) -> Way:
        """Return the way of the next call; the second one starts a master."""
        with self._lock:
            connection = self._known.setdefault(key, _Connection())
        return connection.way(arguments)

    def end(self) -> None:
        """End all masters."""
        for connection in self._known.values():
            connection.spoil()
