"""A stand-in for CrowdSec's local API, of what a bouncer meets of it, and no more lenient.

As crowdsec 1.7 (pkg/apiserver, pkg/database): 403 for a key that it does not know; with ``startup=true`` all
that is in force, else what has come and ended since this key's last answer; of several decisions on one value
the longest alone; a HEAD says whether the key is good and changes nothing. By itself it is a program:
``python crowdsec.py PORT KEY_FILE VALUES_FILE``, which has decided on each line of the second file.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


@dataclass
class Decision:
    """One of CrowdSec's; times are in seconds since 1970."""

    scope: str
    value: str
    kind: str
    scenario: str
    created: float
    until: float


@dataclass
class CrowdSec:
    """Start it with ``start``; ``heads`` counts what it was asked."""

    key: str
    port: int = 0
    decisions: list[Decision] = field(default_factory=list)
    last_pull: float = 0.0
    heads: int = 0
    _server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Answer from now on, at the same port as before."""
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                api.heads += 1
                self._answer(b"", api.key == self.headers.get("X-Api-Key"))

            def do_GET(self) -> None:
                known = api.key == self.headers.get("X-Api-Key")
                if urlsplit(self.path).path != "/v1/decisions/stream":
                    self.send_error(404)
                    return
                asked = parse_qs(urlsplit(self.path).query)
                body = api.stream(asked) if known else b'{"message":"access forbidden"}'
                self._answer(body, known)

            def _answer(self, body: bytes, known: bool) -> None:
                self.send_response(200 if known else 403)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Answer nobody any more; what was decided stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def add(self, value: str, lasts: float = 3600, scope: str = "Ip", kind: str = "ban") -> None:
        """Decide on an address or a network."""
        now = time.time()
        self.decisions.append(Decision(scope, value, kind, "crowdsecurity/http-probing", now, now + lasts))

    def delete(self, value: str) -> None:
        """End what was decided on a value, as ``cscli decisions delete`` does."""
        for decision in self.decisions:
            if decision.value == value:
                decision.until = min(decision.until, time.time())

    def stream(self, asked: dict[str, list[str]]) -> bytes:
        """Return what has come and what has ended."""
        now, startup = time.time(), asked.get("startup") == ["true"]
        scopes = asked.get("scopes", ["ip,range"])[0].split(",")
        longest = [
            each
            for each in self.decisions
            if each.scope.lower() in scopes
            and not any(
                (other.scope, other.value, other.kind) == (each.scope, each.value, each.kind)
                and other.until > each.until
                for other in self.decisions
            )
        ]
        came = [each for each in longest if each.until > now and (startup or each.created > self.last_pull)]
        ended = [
            each for each in longest if each.until <= now and (startup or each.until > self.last_pull - 2)
        ]
        self.last_pull = now
        answer = {"new": [_said(each, now) for each in came], "deleted": [_said(each, now) for each in ended]}
        # An empty list was null for years.
        return json.dumps({word: said or None for word, said in answer.items()}).encode()


def _said(decision: Decision, now: float) -> dict[str, object]:
    return {
        "duration": f"{round(decision.until - now)}s",
        "id": 1,
        "origin": "crowdsec",
        "scenario": decision.scenario,
        "scope": decision.scope,
        "type": decision.kind,
        "value": decision.value,
    }


def main() -> None:
    """Be a program; the files are read again and again."""
    port, key, values = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    api = CrowdSec(key=key.read_text().strip(), port=port)
    api.start()
    decided: set[str] = set()
    while True:
        wanted = set(values.read_text().split())
        for value in wanted - decided:
            api.add(value, scope="Range" if "/" in value else "Ip")
        for value in decided - wanted:
            api.delete(value)
        decided = wanted
        time.sleep(0.2)


if __name__ == "__main__":
    main()
