"""A refusal tells nothing: one answer, byte for byte, whatever was asked; or no answer at all."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.server.conftest import EdgeMaker
from tests.server.edge import Edge
from tests.server.visitor import DOMAIN, ConnectionDroppedError

pytestmark = pytest.mark.server

KEY = "k3y_Of-a-Link"
ASSET = "0a1b2c3d-0000-4000-8000-0123456789ab"
REFUSED = (
    ("GET", "/", ""),
    ("GET", "/auth/login", ""),
    ("GET", "/wp-login.php", ""),
    ("GET", "/share/", ""),
    ("GET", "/share/../api/users/me", ""),
    ("GET", "/photos", "X-Very-Long: " + "x" * 9_000 + "\r\n"),
    ("GET", "/s/%c0%ae", ""),
    ("GET", "/s/x?password=1", ""),
    ("GET", "/api/users/me", "Authorization: Bearer stolen\r\n"),
    ("GET", "/api/users/me", "Cookie: immich_access_token=stolen\r\n"),
    ("GET", "/api/server/ping", "Origin: https://elsewhere.example\r\n"),
    ("GET", "/api/shared-links/me", ""),
    ("GET", f"/api/shared-links/me?key={KEY}&key={KEY}", ""),
    ("GET", "/api/" + "x" * 5_000, ""),
    ("GET", "/api/assets/x", "Range: bytes=0-1\r\nIf-None-Match: *\r\nAccept-Encoding: gzip, br\r\n"),
    ("OPTIONS", "/api/server/config", "Origin: https://elsewhere.example\r\n"),
    ("TRACE", "/api/server/config", ""),
    ("POST", "/api/auth/login", "Content-Length: 2\r\n"),
    ("POST", "/api/server/config", "Content-Length: 2\r\n"),
    ("PUT", f"/api/assets/{ASSET}/original?key={KEY}", "Content-Length: 2\r\n"),
    ("PATCH", "/", "Content-Length: 2\r\n"),
    ("PROPFIND", "/", ""),
    ("BREW", "/pot", ""),
)
"""Method, target and further header lines; a Content-Length is followed by that much."""


def raw_answer(edge: Edge, method: str, target: str, headers: str, host: str = DOMAIN) -> bytes:
    """Ask once and return the answer as it came, up to the end of its body, without the date."""
    body = b"{}" if "Content-Length" in headers else b""
    with edge.connect(edge.new_address()) as connection:
        request = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"
        connection.tls.sendall(request.encode() + body)
        received = b""
        while b"\r\n\r\n" not in received or not received.endswith(b"}"):
            chunk = connection.tls.recv(65_536)
            if not chunk:
                break
            received += chunk
    dateless, dates = re.subn(rb"\r\nDate: [^\r]+", b"", received)
    assert dates == 1
    return dateless


def test_every_refusal_is_the_same_byte_for_byte(edge: Edge) -> None:
    answers = {raw_answer(edge, *asked): asked for asked in REFUSED}
    for host in ("other.example", "localhost", f"{DOMAIN}."):
        answers[raw_answer(edge, "GET", "/", "", host)] = ("GET", host, "")
    assert len(answers) == 1, list(answers.items())
    assert edge.backend.received == []
    [answer] = answers
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    assert (status, sorted(headers)) == (
        b"HTTP/1.1 403 Forbidden",
        [
            b"Cache-Control: no-store",
            b"Content-Length: 36",
            b"Content-Security-Policy: frame-ancestors 'none'",
            b"Content-Type: application/json",
            b"Referrer-Policy: no-referrer",
            b"Strict-Transport-Security: max-age=31536000",
            b"X-Content-Type-Options: nosniff",
            b"X-Robots-Tag: noindex, nofollow",
        ],
    )
    assert body == b'{"status":403,"message":"Forbidden"}'


def test_head_is_refused_with_the_same_headers(edge: Edge) -> None:
    head, get = edge.ask("/", "HEAD"), edge.ask("/")
    dateless = [
        {name: value for name, value in each.headers.items() if name != "date"} for each in (head, get)
    ]
    assert head.status == get.status and dateless[0] == dateless[1] and head.body == b""


def test_what_go_answers_itself_names_no_program(edge: Edge) -> None:
    """These never reach Caddy's handlers, so they differ; they must at least not say who answers."""
    host = f"Host: {DOMAIN}\r\n".encode()
    for raw, status in (
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + host + host + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + host + b"Transfer-Encoding: odd\r\n\r\n", 501),
        (b"GET / HTTP/3.0\r\n" + host + b"\r\n", 505),
        (b"GET / HTTP/1.1\r\n" + host + b"X: " + b"x" * 32_000 + b"\r\n\r\n", 431),
    ):
        with edge.connect(edge.new_address()) as connection:
            answer = connection.send(raw)
        assert answer.status == status
        assert not {"server", "via", "x-powered-by"} & answer.headers.keys()
        assert b"caddy" not in answer.body.lower()


@pytest.fixture
def silent(make_edge: EdgeMaker) -> Iterator[Edge]:
    """Return an edge that drops strangers instead of answering."""
    yield make_edge(settings={"REJECT_WITH": "drop"})


def test_strangers_may_be_dropped_instead(silent: Edge) -> None:
    for method, target, headers in REFUSED:
        with silent.connect(silent.new_address()) as connection:
            body = "{}" if "Content-Length" in headers else ""
            with pytest.raises(ConnectionDroppedError):
                connection.send(
                    f"{method} {target} HTTP/1.1\r\nHost: {DOMAIN}\r\n{headers}\r\n{body}".encode()
                )
    with silent.connect(silent.new_address()) as connection, pytest.raises(ConnectionDroppedError):
        connection.ask("/", host="other.example")
    assert silent.backend.received == []
    assert silent.ask(f"/share/{KEY}").status == 200
    assert silent.ask("/api/users/me", identity=silent.device("phone")).status == 200


def test_a_dropped_stranger_still_gets_a_verdict(silent: Edge) -> None:
    address = silent.new_address()
    for target in ("/wp-login.php", "/photos"):
        with pytest.raises(ConnectionDroppedError):
            silent.ask(target, address=address)
    entries = silent.entries_of(address, count=2)
    assert [(entry["status"], entry["verdict"]) for entry in entries] == [(0, "scan"), (0, "quiet")]


def test_a_policy_of_immich_is_added_to_and_not_replaced(edge: Edge) -> None:
    edge.backend.answers["GET", f"/share/{KEY}"] = (200, {"Content-Security-Policy": "script-src 'self'"})
    with edge.connect(edge.new_address()) as connection:
        connection.tls.sendall(f"GET /share/{KEY} HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
        received = b""
        while not received.endswith(b"immich"):
            received += connection.tls.recv(65_536)
    policies = re.findall(rb"Content-Security-Policy: ([^\r]+)\r\n", received)
    assert sorted(policies) == [b"frame-ancestors 'none'", b"script-src 'self'"]


def test_a_misspelt_way_with_strangers_is_no_configuration(make_edge: EdgeMaker) -> None:
    done = make_edge(settings={"REJECT_WITH": "ignore"}, start=False).run_caddy(
        "adapt", "--config", "Caddyfile"
    )
    assert done.returncode != 0 and "rejected with forbidden or drop" in done.stderr
