"""One run of the system's ``ssh``: what goes in, what comes out, how much of it, and how long it may take."""

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
"""Bytes of standard output; the largest answer there is are the files of an exposure made by hand."""

ERRORS_LIMIT = 1 << 16
"""Bytes of standard error that are kept, the last ones: there stands what went wrong."""

_LOOK_SECONDS = 0.2
"""How often the deadline is looked at, which ``heed`` moves."""

LIFE_SECONDS = 15
"""So often a conversation asks whether what it goes through still lives."""

Heed = Callable[[bytes], float | None]


@dataclass(frozen=True)
class Said:
    """What was said: ``status`` is None when it took too long; ``endless`` when there was too much of it.

    ``hung``: what it went through did not live any more.
    """

    status: int | None
    stdout: bytes
    stderr: bytes
    endless: bool = False
    hung: bool = False


class Conversation:
    """Run a program, send it ``content`` as standard input, and listen to it for ``seconds`` at most.

    ``heed`` is shown the end of standard error as it grows, and may return how many seconds are left from now
    on, of ``seconds`` at most; infinity lifts what it has said before, and asks it no more.
    ``tell`` is given each line of it, as words alone.
    ``lives`` is asked now and then whether there is still anybody to wait for.
    ``reply`` is called once the program has said a line on standard output; it is sent what that returns.
    Until then its standard input stays open, and ends without a word when ``reply`` fails.

    Raises ``FileNotFoundError`` when there is no such program.
    """

    def __init__(
        self,
        argv: Sequence[str],
        content: bytes,
        seconds: float,
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
        """Wait for the end, and bring it about where it does not come.

        Raises what ``reply`` has raised.
        """
        try:
            status = self._status()
        finally:
            self._child.kill()  # which does nothing to a program that has ended
            self._child.wait()
        for thread in self._threads:
            thread.join(timeout=10.0)  # a process that it left behind may keep a stream open
        if self._failure is not None:
            raise self._failure
        return Said(status, bytes(self._answer), bytes(self._errors), self._endless, self._hung)

    def _status(self) -> int | None:
        # `Popen.wait` with a timeout looks only every so often: each call of a run would end later by that.
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
        """Tell the lines that are whole; of one without an end, the end alone is kept."""
        *lines, rest = bytes(self._line + piece).split(b"\n")
        self._line = bytearray(rest[-ERRORS_LIMIT:])
        for line in lines:
            words = plain(line.decode(errors="replace")).strip()
            if words and self._tell is not None:
                self._tell(words)

    def _feed(self, stream: IO[bytes], content: bytes) -> None:
        """Send it all; a program that ends without having read it all is no error."""
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
