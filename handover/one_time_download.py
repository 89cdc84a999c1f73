"""How the hand-over answers each request: all of its rules, without sockets."""

import hmac
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from handover.files import Handover, OneTimeFile
from handover.page import fetched_page, landing_page, message_page

_log = logging.getLogger(__name__)

_HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """One response. `file` is set if it carries a file: then `delivered` or `broke_off` must follow."""

    status: HTTPStatus
    body: bytes
    content_type: str = _HTML
    headers: tuple[tuple[str, str], ...] = ()
    file: OneTimeFile | None = None


UNASKED = re.compile(r"favicon\.(?:ico|svg|png)|apple-touch-icon[a-z0-9x-]*\.png|robots\.txt|\.well-known")
"""What browsers and phones request on their own next to every page: the first part of the path."""


class RateLimit:
    """Allows each client `limit` requests within `window_seconds`. Not thread-safe on its own."""

    MOST_CLIENTS = 1024
    """Beyond this, the oldest client is forgotten."""

    def __init__(self, limit: int, window_seconds: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._window = window_seconds
        self._clock = clock
        self._seen: dict[str, deque[float]] = {}

    def allows(self, client: str) -> bool:
        """Count a request of the client and tell whether it may proceed."""
        now = self._clock()
        if client not in self._seen and len(self._seen) >= self.MOST_CLIENTS:
            self._seen.pop(next(iter(self._seen)))
        times = self._seen.setdefault(client, deque())
        while times and times[0] <= now - self._window:
            times.popleft()
        if len(times) >= self._limit:
            return False
        times.append(now)
        return True


class OneTimeDownload:
    """Hands out each file of a hand-over once, to clients that know the token, until the time is up.

    Args:
        handover: the files to hand out.
        token: the secret part of the address; without it every answer is the same 404.
        seconds: how long it stays open.
        on_delivered: called after each file that arrived, with the file and the client's address.
        clock: a monotonic clock in seconds.
    """

    REQUESTS, WINDOW_SECONDS = 30, 10.0

    def __init__(
        self,
        handover: Handover,
        token: str,
        seconds: float,
        *,
        on_delivered: Callable[[OneTimeFile, str], None] = lambda _file, _client: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handover = handover
        self._token = token.encode()
        self._base = f"/{token}"
        self._minutes = max(1, round(seconds / 60))
        self._deadline = clock() + seconds
        self._on_delivered = on_delivered
        self._clock = clock
        self._limit = RateLimit(self.REQUESTS, self.WINDOW_SECONDS, clock)
        self._lock = threading.Lock()
        self._logged: set[str] = set()
        self._waiting = {file.file_name: file for file in handover.files}
        self._on_the_way = 0
        self.delivered_names: list[str] = []
        self.finished = threading.Event()
        """Set when no file is waiting or being sent any more."""

    def answer(self, method: str, path: str, client: str) -> Answer:
        """Return the answer to a request. A file counts as handed out from here on, whatever happens."""
        with self._lock:
            token, _, name = path.split("?", 1)[0].removeprefix("/").partition("/")
            # Checked first, so that clients with the token do not have to wait because of those without.
            if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
                return self._wrong_address(token, client)
            if self._clock() >= self._deadline:
                return self._refuse(
                    HTTPStatus.GONE,
                    client,
                    "came too late",
                    "Start the hand-over again in the terminal.",
                    title="The time is up",
                )
            if not name:
                return self._landing(method, client)
            return self._give(method, name, client)

    def malformed(self, status: int, client: str) -> Answer:
        """Return the answer to a malformed request."""
        return self._refuse(
            HTTPStatus(status), client, "sent a malformed request", "That was not a valid request."
        )

    def delivered(self, file: OneTimeFile, client: str) -> None:
        """Record that a file was sent completely."""
        _log.info("%s was fetched by %s.", file.file_name, client)
        with self._lock:
            self.delivered_names.append(file.file_name)
        self._on_delivered(file, client)
        self._arrived()

    def broke_off(self, file: OneTimeFile, client: str) -> None:
        """Record that a file was sent only in part: it may be in the wrong hands, so it is not sent again."""
        _log.warning(
            "The download of %s by %s broke off, and the file is not handed out again. If the device did not "
            "get it, start the hand-over again.",
            file.file_name,
            client,
        )
        self._arrived()

    def _arrived(self) -> None:
        with self._lock:
            self._on_the_way -= 1
            if not self._waiting and not self._on_the_way:
                self.finished.set()

    def _landing(self, method: str, client: str) -> Answer:
        if method not in ("GET", "HEAD"):
            return self._wrong_method(client, "GET, HEAD")
        if not self._waiting:
            return self._gone(client)
        page = landing_page(
            self._handover, self._base, self._waiting.values(), self.delivered_names, self._minutes
        )
        return Answer(HTTPStatus.OK, page)

    def _give(self, method: str, name: str, client: str) -> Answer:
        if all(name != file.file_name for file in self._handover.files):
            return self._refuse(
                HTTPStatus.NOT_FOUND, client, "asked for an unknown file", "There is nothing here."
            )
        if method != "POST":
            return self._wrong_method(client, "POST")
        file = self._waiting.pop(name, None)
        if file is None:
            return self._gone(client)
        self._on_the_way += 1
        disposition = "attachment" if file.attachment else "inline"
        header = ("Content-Disposition", f'{disposition}; filename="{file.file_name}"')
        return Answer(HTTPStatus.OK, file.content, file.content_type, (header,), file)

    def _wrong_address(self, asked: str, client: str) -> Answer:
        if not self._limit.allows(client):
            return self._refuse(
                HTTPStatus.TOO_MANY_REQUESTS, client, "asked too often", "Wait a little.", once=True
            )
        if UNASKED.fullmatch(asked):
            return Answer(HTTPStatus.NOT_FOUND, message_page("Not Found", "There is nothing here."))
        return self._refuse(
            HTTPStatus.NOT_FOUND, client, "asked for a wrong address", "There is nothing here."
        )

    def _gone(self, client: str) -> Answer:
        _log.warning("Refused: %s asked for what was already fetched (%d).", client, HTTPStatus.GONE)
        return Answer(HTTPStatus.GONE, fetched_page(self._handover, self.delivered_names))

    def _wrong_method(self, client: str, allowed: str) -> Answer:
        refusal = self._refuse(
            HTTPStatus.METHOD_NOT_ALLOWED, client, "used a wrong method", "Open the page and use its button."
        )
        return Answer(refusal.status, refusal.body, headers=(("Allow", allowed),))

    def _refuse(
        self,
        status: HTTPStatus,
        client: str,
        what: str,
        text: str,
        *,
        title: str | None = None,
        once: bool = False,
    ) -> Answer:
        """Log without the path, which may contain (part of) the token; `once` avoids a line per request."""
        if not once or client not in self._logged:
            _log.warning("Refused: %s %s (%d).", client, what, status)
        if once and len(self._logged) < RateLimit.MOST_CLIENTS:
            self._logged.add(client)
        return Answer(status, message_page(title or status.phrase, text))
