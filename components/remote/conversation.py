"""One run of the system's ``ssh``: its input, its output, how much of it, and how long it may take."""

from __future__ import annotations

import contextlib
import math
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from components.engine.server_words import plain

ANSWER_LIMIT = 32 << 20
"""Bytes of standard output; the largest answer contains the files of a manual setup."""

ERRORS_LIMIT = 1 << 16
"""Bytes of standard error that are kept; the last ones, because they say what went wrong."""

_LOOK_SECONDS = 0.2
"""Seconds between checks of the deadline, which ``heed`` moves."""

LIFE_SECONDS = 15
"""Seconds between checks that the connection is still alive."""

Heed = Callable[[bytes], float | None]


@dataclass(frozen=True)
class Said:
    """The result: ``status`` is None if the program took too long; ``endless`` means too much output.

    ``hung``: its connection was no longer alive.
    """

    status: int | None
    stdout: bytes
    stderr: bytes
    endless: bool = False
    hung: bool = False


class Conversation:
    """Run a program, send it ``content`` as standard input, and listen to it for at most ``seconds``.

    ``heed`` receives the end of standard error as it grows, and may return how many seconds are left from now
    on, at most ``seconds``; infinity cancels its earlier answer and ends the calls. ``tell`` receives each
    line of standard error as plain text. ``lives`` is called now and then to check that the connection is
    alive. ``reply`` is called after the program's first line on standard output; its result is sent to the
    program. Until then standard input stays open; if ``reply`` fails, it is closed and nothing is sent.

    Raises ``FileNotFoundError`` if the program does not exist.
    """

    def __init__(
        self,
        argv: Sequence[str],
        content: bytes,
        seconds: float,
        *,
        heed: Heed | None = None,
        tell: Callable[[str], None] | None = None,
        lives: Callable[[], bool] | None = None,
        reply: Callable[[], bytes] | None = None,
    ) -> None:
        self._reply = reply
        self._failure: BaseException | None = None
        self._spoken = threading.Event()
        self._lives, self._hung = lives, False
        self._deadline = self._end = time.monotonic() + seconds
        self._heed, self._tell = heed, tell
        self._line = bytearray()
        self._answer, self._errors = bytearray(), bytearray()
        self._endless = False
        self._over = threading.Event()
        self._child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._child.stdin and self._child.stdout and self._child.stderr
        self._threads = [
            threading.Thread(target=self._feed, args=(self._child.stdin, content), daemon=True),
            threading.Thread(target=self._take_answer, args=(self._child.stdout,), daemon=True),
            threading.Thread(target=self._take_errors, args=(self._child.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> Said:
        """Wait for the program to end; kill it if it does not.

        Raises what ``reply`` raised.
        """
        try:
            status = self._status()
        finally:
            self._child.kill()  # no effect on a program that has ended
            self._child.wait()
        for thread in self._threads:
            thread.join(timeout=10.0)  # a process it left behind may keep a stream open
        if self._failure is not None:
            raise self._failure
        return Said(status, bytes(self._answer), bytes(self._errors), self._endless, self._hung)

    def _status(self) -> int | None:
        # `Popen.wait` with a timeout polls only now and then, which would delay the end of each call of a
        # run.
        threading.Thread(target=self._notice_the_end, daemon=True).start()
        ask_again = time.monotonic() + LIFE_SECONDS
        while (left := self._deadline - time.monotonic()) > 0 and not self._hung:
            if self._over.wait(timeout=min(left, _LOOK_SECONDS)):
                return None if self._endless else self._child.wait()
            if self._lives is not None and time.monotonic() > ask_again:
                self._hung = not self._lives()
                ask_again = time.monotonic() + LIFE_SECONDS
        return None

    def _notice_the_end(self) -> None:
        self._child.wait()
        self._over.set()

    def _take_answer(self, stream: IO[bytes]) -> None:
        while piece := stream.read1(65536):  # type: ignore[attr-defined]
            if len(self._answer) + len(piece) > ANSWER_LIMIT:
                self._endless = True
                self._over.set()
                break
            self._answer += piece
            if b"\n" in piece:
                self._spoken.set()
        self._spoken.set()

    def _take_errors(self, stream: IO[bytes]) -> None:
        while piece := stream.read1(65536):  # type: ignore[attr-defined]
            self._errors += piece
            del self._errors[:-ERRORS_LIMIT]
            self._pass_on(piece)
            left = self._heed(bytes(self._errors)) if self._heed else None
            if left is not None:
                self._heed = None if math.isinf(left) else self._heed
                self._deadline = min(self._end, time.monotonic() + left)
        self._pass_on(b"\n")

    def _pass_on(self, piece: bytes) -> None:
        """Pass on complete lines; of a line without an end, keep only the last part."""
        *lines, rest = bytes(self._line + piece).split(b"\n")
        self._line = bytearray(rest[-ERRORS_LIMIT:])
        for line in lines:
            words = plain(line.decode(errors="replace")).strip()
            if words and self._tell is not None:
                self._tell(words)

    def _feed(self, stream: IO[bytes], content: bytes) -> None:
        """Send everything; a program that ends without reading all of it is no error."""
        with contextlib.suppress(OSError), stream:
            stream.write(content)
            if self._reply is not None:
                stream.flush()
                stream.write(self._answer_of(self._reply))

    def _answer_of(self, reply: Callable[[], bytes]) -> bytes:
        self._spoken.wait()
        if b"\n" not in self._answer:
            return b""
        try:
            return reply()
        except BaseException as error:  # noqa: BLE001 - raised again by ``wait``
            self._failure = error
            return b""
