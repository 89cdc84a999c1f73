"""One SSH connection for all of a process's calls to a server, from the second or third call on.

A run has a dozen scripts to run, and each connection costs a handshake on both machines. Once the server has
accepted the first call, or else with the second, a master is started alongside it, and later calls go through
it. No call ever waits for the master: if there is none, if the server allows no second session, or if the
master breaks, the call opens its own connection. So does the first call, whose errors the owner must be able
to understand. A master that no longer answers (stopped, or hung) is killed, and a call running through it
fails.
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
"""Maximum bytes of a socket's path on macOS, less what ssh appends while creating it."""

# The folder is removed when the master ends, however this process has ended by then.
_MASTER = 'folder=$1; shift; "$@"; rm -rf "$folder"'

LIFE_SECONDS = 900
"""How long a master accepts calls: Pulumi's plugin outlives a killed engine, and would keep the master."""

GREETING_SECONDS = 10
"""A master greets every client at once; if no greeting has come after this time, none will."""

Arguments = Callable[[Path], Sequence[str]]
"""Return the arguments of ``ssh`` up to the remote command, given a folder for its files."""

REFUSED = "mux_client_"
"""The start of ssh's message about a master that refused it; ssh then opens its own connection."""


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
        """Return whether the master accepts clients without greeting them (ssh's PROTOCOL.mux).

        A master that is about to end, with the last call through it, accepts no more clients.
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
        """Start a master, once. It ends when our pipe to it closes: with this process, even if killed."""
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
        """Send no more calls through the master; it ends with the last one that is running."""
        with self._lock:
            self._spoiled = True
            if self._master is not None and self._master.stdin is not None:
                self._master.stdin.close()

    def lives(self) -> bool:
        """Return whether the master responds; if it hangs, kill it and every call through it."""
        if not self._hangs():
            return True
        with self._lock:
            self._end()
        return False

    def _end(self) -> None:
        """Kill the master, which no longer reacts to the pipe."""
        self._spoiled = True
        if self._master is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._master.pid, signal.SIGKILL)
        self._master.wait()
        shutil.rmtree(self._socket.parent, ignore_errors=True)


@dataclass
class Way:
    """The path of one call: through the master's socket, or over its own connection."""

    _connection: _Connection
    _arguments: Arguments
    _socket: Path | None
    _refused: bool = False

    @property
    def options(self) -> list[str]:
        """The options that follow ``ssh``."""
        return [] if self._socket is None else ["-S", str(self._socket), "-o", "ControlMaster=no"]

    def listener(self, tell: Callable[[str], None] | None) -> Callable[[str], None]:
        """Return a function that passes on every line except a refusal by the master, which it records."""

        def listen(line: str) -> None:
            if self._socket is not None and line.startswith(REFUSED):
                self._refused = True
            elif tell is not None:
                tell(line)

        return listen

    def let_in(self) -> None:
        """Record that the server has accepted this call, so that it will accept a master too."""
        self._connection.let_in(self._arguments)

    def lives(self) -> bool:
        """Return whether the connection of the call is still alive."""
        return self._socket is None or self._connection.lives()

    def ended(self, *, well: bool) -> None:
        """Record how the call ended; after a failure through the master, no more calls use it."""
        if well:
            self._connection.worked()
        if self._socket is not None and (self._refused or not well):
            self._connection.spoil()


class SharedConnections:
    """The masters of a process, by connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[object, _Connection] = {}

    def way(self, key: object, arguments: Arguments) -> Way:
        """Return the path of the next call; the second call starts a master."""
        with self._lock:
            connection = self._known.setdefault(key, _Connection())
        return connection.way(arguments)

    def end(self) -> None:
        """End all masters."""
        for connection in self._known.values():
            connection.spoil()
