"""Who opened what: from a visitor's request through the real edge and its log to the row that counts it."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.programs.harness import Machine
from tests.server.certificates import Identity
from tests.server.conftest import EdgeMaker
from tests.server.edge import Edge, caddy_user
from tests.server.forms import form
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

KEY = "CanaryKeyOfALink-" + "A" * 50
SLUG = "canary-slug-of-a-link"
PASSWORD = "canary-password-of-a-link"
ME = "/api/shared-links/me"
ASSET = "/api/assets/a55e7001-1111-4222-8333-444444444444"


@pytest.fixture
def counting(make_edge: EdgeMaker) -> Edge:
    """Return an edge that names links, as it is with `who: true`."""
    edge = make_edge(settings={"WHO": "on"}, uploads="on", start=False)
    put_key(edge)
    edge.start()
    edge.backend.answers["POST", "/api/assets"] = (201, {})
    edge.backend.answers["POST", "/api/shared-links/login"] = (201, {})
    return edge


def put_key(edge: Edge) -> None:
    """Put the key where the edge's user reads it, as `make_who` does."""
    folder = edge.state / "who"
    folder.mkdir(mode=0o750)
    (folder / "key").write_text("0123456789abcdef" * 4 + " 1700000000\n")
    (folder / "key").chmod(0o640)
    if (user := caddy_user()) is not None:
        for path in (folder, folder / "key"):
            os.chown(path, 0, pwd.getpwnam(user).pw_gid)


def who(edge: Edge, program: Path, ask: str) -> str:
    """Return what the edge's program says of it."""
    command = [str(program), "who", "--ask", ask, "--state", str(edge.state), "--logs", str(edge.logs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def test_each_visit_is_counted_and_nothing_that_opens_a_link_is_kept(
    counting: Edge, caddy_program: Path
) -> None:
    phone = counting.device("phone")
    visitor, other = counting.new_address(), counting.new_address()
    for address in (visitor, visitor, other):
        counting.ask(f"/share/{KEY}", address=address)
        counting.ask(f"{ME}?key={KEY}", address=address)
        counting.ask(f"{ASSET}/thumbnail?key={KEY}", address=address)
    counting.ask(f"{ASSET}/original?key={KEY}", address=visitor)
    counting.ask(f"/api/download/archive?key={KEY}", "POST", address=visitor, body=b"{}")
    photo = form()
    target = f"/api/assets?slug={SLUG}"
    counting.ask(target, "POST", address=other, headers=photo.headers, body=photo.body)
    login = f'{{"password":"{PASSWORD}"}}'.encode()
    counting.ask(f"/api/shared-links/login?slug={SLUG}", "POST", address=other, body=login)
    # What makes a preview; who guesses; and a device, which is no visitor.
    previewer = counting.new_address()
    counting.ask(f"/share/{KEY}", address=previewer, headers=[("User-Agent", "WhatsApp/2.23")])
    counting.ask(f"{ME}?key={KEY}", address=previewer, headers=[("User-Agent", "Twitterbot/1.0")])
    counting.ask(f"{ME}?key={KEY}", address=visitor, identity=phone)
    counting.backend.answers["GET", ME] = (401, {})
    for number in range(5):
        counting.ask(f"{ME}?key=guess{number}", address=counting.new_address())

    def table() -> str:
        return who(counting, caddy_program, "table")

    wait_until(lambda: re.search(r" 1 +0 +1 ", table()) is not None, "the last visit is counted")
    rows = re.findall(r"^[0-9a-f]{16} +(\d+) +(\d+) +(\d+) ", table(), re.MULTILINE)
    assert sorted(rows) == [("1", "0", "1"), ("2", "2", "0")]
    assert re.search(r"^phone +20\d\d-.* \d+\.\d+\.\d+\.\d+$", table(), re.MULTILINE)
    first = who(counting, caddy_program, "sum")
    assert (first.count("first "), "links 2 opens 3" in first) == (2, True)
    assert who(counting, caddy_program, "sum") == "links 2 opens 3\n"

    kept = (counting.state / "who/summary").read_text()
    assert visitor not in kept.replace(json.loads(kept)["devices"][phone.fingerprint[:16]]["address"], "")
    page = who(counting, caddy_program, "page")
    for text in (counting.log_text(), counting.journal.read_text(), kept, page, table()):
        assert not [canary for canary in (KEY, SLUG, PASSWORD) if canary in text]


def test_without_it_no_line_names_a_link_or_a_device(edge: Edge, phone: Identity) -> None:
    visitor, device = edge.new_address(), edge.new_address()
    edge.ask(f"{ME}?key={KEY}", address=visitor)
    edge.ask("/api/users/me", address=device, identity=phone)
    for address in (visitor, device):
        [entry] = edge.entries_of(address)
        assert not {"deed", "device"} & entry.keys()


def test_a_key_that_is_not_there_stops_no_edge(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings={"WHO": "on"})
    address = edge.new_address()
    assert edge.ask(f"{ME}?key={KEY}", address=address).status == 200
    [entry] = edge.entries_of(address)
    assert "deed" not in entry
    assert "who opened what is not recorded" in edge.journal.read_text()


class KeysOfImmich(BaseHTTPRequestHandler):
    """What Immich says to its API's keys, of what its server's `said` holds by path: a status and a body."""

    def do_GET(self) -> None:
        status, body = getattr(self.server, "said").get(self.path, (404, {}))  # noqa: B009
        known = self.path == "/api/server/ping" or self.headers.get("x-api-key") == "a-key"
        text = json.dumps(body).encode()
        self.send_response(status if known else 401)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def immich() -> Iterator[ThreadingHTTPServer]:
    """Return an Immich that answers about keys."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), KeysOfImmich)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


ME_OF_KEYS, LINKS = "/api/api-keys/me", "/api/shared-links"
MANY = [f"album.{word}" for word in ("read", "create", "update", "delete", "share", "download", "statistics")]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({ME_OF_KEYS: (200, {"permissions": ["sharedLink.read"]})}, ""),
        ({ME_OF_KEYS: (200, {"permissions": ["all"]})}, "has more permissions than it needs (all)"),
        ({ME_OF_KEYS: (200, {"permissions": ["sharedLink.read", *MANY]})}, "album.share and 2 more)"),
        ({ME_OF_KEYS: (200, {"permissions": ["album.read"]})}, "lacks the permission sharedLink.read"),
        ({ME_OF_KEYS: (401, {})}, "Immich refuses the API key"),
        ({LINKS: (403, {})}, "lacks the permission sharedLink.read"),  # an Immich that knows no such question
        ({}, None),
    ],
)
def test_before_the_first_up_a_script_says_of_a_key_what_the_edges_program_says_later(
    immich: ThreadingHTTPServer, caddy_program: Path, tmp_path: Path, said: Any, words: str | None
) -> None:
    vars(immich)["said"] = {LINKS: (200, []), "/api/server/ping": (200, {"res": "pong"}), **said}
    machine, port = Machine(tmp_path / "machine", "dash"), immich.server_address[1]
    (machine.fakes / "curl").unlink()
    look = ("drift", "look", "443", "8443", "127.0.0.1", str(port))
    done = machine.run(*look, payload={"api-key": "a-key\n"})
    by_script = [line.removeprefix("tell ") for line in done.stdout.splitlines() if line.startswith("tell ")]
    key = tmp_path / "key"
    key.write_text("a-key\n")
    command = [str(caddy_program), "who", "--ask", "words", "--state", str(tmp_path)]
    command += ["--immich", f"127.0.0.1:{port}", "--key", str(key)]
    later = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert by_script == later, done.stderr
    assert (words or "") in "".join(later) and len(later) == bool(words)
