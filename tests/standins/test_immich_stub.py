"""The stub of Immich answers as the real one was seen to answer, and writes down what reached it."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.standins.stub import load_stub

stub_immich = load_stub()
ASSET, PENDING = stub_immich.ASSETS
KEY = {"x-api-key": stub_immich.API_KEY}


@dataclass
class Answer:
    """Status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """What an error says."""
        return str(json.loads(self.body)["message"])


class Client:
    """Asks a running stub."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder

    def __call__(
        self,
        target: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request(method, target, body, headers or {})
        reply = connection.getresponse()
        answer = Answer(
            reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        )
        connection.close()
        return answer

    def record(self) -> list[dict[str, Any]]:
        """All that was written down."""
        return [json.loads(line) for line in (self.folder / "requests.jsonl").read_text().splitlines()]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Client]:
    """A stub on a free port."""
    with stub_immich.Stub("127.0.0.1", 0, tmp_path) as stub:
        thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Client(stub.server_address[1], tmp_path)
        stub.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/api/server/ping", 200),
        ("/api/server/config", 200),
        ("/api/server/features", 200),
        ("/share/labsharekey", 200),
        (f"/share/labsharekey/photos/{ASSET}", 200),
        ("/s/holiday", 200),
        ("/share/bad", 404),
        ("/share/labexpired", 404),
        ("/_app/immutable/entry/start.lab.js", 200),
        ("/photos", 200),  # any page of the app
        ("/api/no/such", 404),
        ("//api/server/ping", 404),
        ("/a/..%2fb", 400),
        ("/API/Server/Ping/", 200),  # the real router minds neither case nor a slash at the end
        ("/api/shared-links/me?key=labsharekey", 200),
        ("/api/shared-links/me?slug=holiday", 200),
        ("/api/shared-links/me?key=bad", 401),
        ("/api/shared-links/me?key=labexpired", 401),
        ("/api/shared-links/me?key=labsecret", 401),
        ("/api/shared-links/me?key=", 401),
        ("/api/timeline/buckets?key=labsharekey", 200),
        (f"/api/assets/{ASSET}/thumbnail?key=labsharekey", 200),
        (f"/api/assets/{PENDING}/thumbnail?key=labsharekey", 404),
        (f"/api/assets/{ASSET}/original?key=labsecret", 200),  # a password guards only shared-links/me
        (f"/api/assets/{stub_immich.PRIVATE_ASSET}/original?key=labsharekey", 400),
        ("/api/users/me", 401),
        ("/api/users/me?key=labsharekey", 403),
        ("/api/users/me?apiKey=labapikey", 200),
    ],
)
def test_answers_like_the_real_one(ask: Client, target: str, status: int) -> None:
    assert ask(target).status == status


@pytest.mark.parametrize(
    "headers",
    [
        KEY,
        {"Authorization": "Bearer labsession"},
        {"Cookie": "immich_access_token=labsession"},
        {"x-immich-user-token": "labsession"},
    ],
)
def test_every_way_of_signing_in_counts(ask: Client, headers: dict[str, str]) -> None:
    assert ask("/api/users/me", headers=headers).status == 200


def test_link_wins_over_a_session(ask: Client) -> None:
    assert ask("/api/users/me?key=labsharekey", headers=KEY).status == 403
    assert ask("/api/users/me?key=", headers=KEY).status == 200


def test_password_opens_a_link(ask: Client) -> None:
    login = "/api/shared-links/login?key=labsecret"
    assert ask("/api/shared-links/me?key=labsecret").message == "Password required"
    assert ask(login, "POST", b'{"password": "sesame"}').status == 401
    opened = ask(login, "POST", b'{"password": "open sesame"}', {"X-Forwarded-Proto": "https"})
    assert opened.status == 201
    cookie = opened.headers["set-cookie"]
    assert "Secure" in cookie and "HttpOnly" in cookie
    headers = {"Cookie": cookie.partition(";")[0]}
    assert ask("/api/shared-links/me?key=labsecret", headers=headers).status == 200


def test_uploads_are_for_links_that_allow_them(ask: Client) -> None:
    assert ask("/api/assets?key=labsharekey", "POST", b"photo").status == 401
    assert ask("/api/assets?key=labupload", "POST", b"photo").status == 201
    assert ask("/api/assets?key=labupload", "POST", b"photo").status == 200


def test_checksum_tells_on_the_library(ask: Client) -> None:
    ask("/api/assets", "POST", b"photo", KEY)
    known = {"x-immich-checksum": "e05a5c97ae4bcb2d62b3d36b4e3c7d0a1e8a3bd8"}
    assert ask("/api/assets?key=labsharekey", "POST", b"", known).status == 401
    known["x-immich-checksum"] = next(iter(json.loads(b'["%s"]' % _sha1(b"photo"))))
    assert ask("/api/assets?key=labsharekey", "POST", b"", known).status == 200


def _sha1(data: bytes) -> bytes:
    return bytes(stub_immich.hashlib.sha1(data, usedforsecurity=False).hexdigest(), "ascii")


def test_downloads(ask: Client) -> None:
    assert ask("/api/download/info?key=labsharekey", "POST", b"{}").status == 201
    archive = ask("/api/download/archive?key=labsharekey", "POST", b"{}")
    assert (archive.status, archive.headers["content-type"]) == (200, "application/octet-stream")
    part = ask(f"/api/assets/{ASSET}/original?key=labsharekey", headers={"Range": "bytes=2-5"})
    assert (part.status, part.body) == (206, b"\x02\x03\x04\x05")


def test_server_without_an_admin(ask: Client) -> None:
    assert json.loads(ask("/api/server/config").body)["isInitialized"] is True
    (ask.folder / "uninitialized").touch()
    assert json.loads(ask("/api/server/config").body)["isInitialized"] is False


def test_record_holds_what_was_received(ask: Client) -> None:
    ask("/api/assets/%2e%2E?key=labupload&x=%2F", "POST", b"\x00photo", {"X-Mixed": "Case"})
    (entry,) = ask.record()
    assert (entry["method"], entry["target"]) == ("POST", "/api/assets/%2e%2E?key=labupload&x=%2F")
    assert entry["headers"]["x-mixed"] == "Case"
    assert (entry["remote"], entry["body_bytes"], entry["body_base64"]) == ("127.0.0.1", 6, "AHBob3Rv")
    assert entry["status"] == 404


def test_chunked_body_is_counted(ask: Client) -> None:
    with socket.create_connection(("127.0.0.1", ask.port)) as raw:
        raw.sendall(b"POST /api/assets?key=labupload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n")
        raw.sendall(b"Connection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 201")
        while raw.recv(4096):
            pass
    assert ask.record()[0]["body_bytes"] == 5


def test_web_socket_sends_messages_back(ask: Client) -> None:
    with socket.create_connection(("127.0.0.1", ask.port)) as raw:
        raw.sendall(
            b"GET /api/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        )
        raw.sendall(b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        stream = raw.makefile("rb")
        head = b"".join(iter(stream.readline, b"\r\n"))
        assert head.startswith(b"HTTP/1.1 101")
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # the example of RFC 6455, 1.3
        raw.sendall(b"\x81\x82\x01\x02\x03\x04" + bytes((ord("h") ^ 1, ord("i") ^ 2)))
        assert stream.read(4) == b"\x81\x02hi"
        raw.sendall(b"\x88\x80\x00\x00\x00\x00")


# Where it listens


@pytest.mark.parametrize(
    ("host", "known", "address"),
    [
        ("localhost", ["::1", "127.0.0.1"], "::1"),
        ("localhost", ["127.0.0.1"], "127.0.0.1"),
        ("0.0.0.0", None, "0.0.0.0"),
        ("::", None, "::"),
        ("::1", None, "::1"),
    ],
)
def test_it_listens_at_the_first_address_of_a_name_as_node_does(
    host: str, known: list[str] | None, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = {True: socket.AF_INET6, False: socket.AF_INET}
    if known:
        answer = [(families[":" in one], socket.SOCK_STREAM, 6, "", (one, 2283)) for one in known]
        monkeypatch.setattr(stub_immich, "getaddrinfo", lambda *_, **__: answer)
    assert stub_immich.listen_address(host, 2283) == (families[":" in address], address)


@pytest.mark.parametrize(
    ("key", "target", "status", "message"),
    [
        ("labreadslinks", "/api/shared-links", 200, ""),
        ("labapikey", "/api/shared-links", 200, ""),
        ("labreadsalbums", "/api/shared-links", 403, "Missing required permission: sharedLink.read"),
        ("labreadslinks", "/api/users/me", 403, "Missing required permission: all"),
        ("labreadslinks", f"/api/assets/{ASSET}/original", 403, "Missing required permission: all"),
        ("nobodys", "/api/shared-links", 401, "Invalid API key"),
        ("nobodys", "/api/api-keys/me", 401, "Invalid API key"),
        ("labreadsalbums", "/api/api-keys/me", 200, ""),
    ],
)
def test_a_key_may_do_what_it_was_made_for(
    ask: Client, key: str, target: str, status: int, message: str
) -> None:
    """As auth.service.ts of Immich has it: `me` needs no right, and what names none needs all."""
    answer = ask(target, headers={"x-api-key": key})
    assert answer.status == status
    assert not message or answer.message == message


def test_who_has_no_key_is_told_of_none(ask: Client) -> None:
    assert ask("/api/api-keys/me").status == 401
    session = {"Authorization": f"Bearer {stub_immich.SESSION}"}
    assert (ask("/api/api-keys/me", headers=session).status, ask("/api/shared-links").status) == (403, 401)


def test_the_owners_list_of_links_has_what_opens_them(ask: Client) -> None:
    links = json.loads(ask("/api/shared-links", headers=KEY).body)
    assert len({link["id"] for link in links}) == len(links) == len(stub_immich.LINKS)
    [canary] = [link for link in links if link["key"] == stub_immich.CANARY.key]
    assert (canary["password"], canary["slug"]) == (stub_immich.CANARY.password, stub_immich.CANARY.slug)
    assert json.loads(ask("/api/shared-links/me?key=labsharekey").body)["password"] is None
