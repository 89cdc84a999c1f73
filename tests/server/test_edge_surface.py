"""What an anonymous visitor reaches: the rows of a shared link's page, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.server.conftest import EdgeMaker
from tests.server.edge import FORBIDDEN, Edge
from tests.server.forms import sized_form
from tests.server.visitor import Answer, ConnectionDroppedError

pytestmark = pytest.mark.server

ASSET = "0a1b2c3d-0000-4000-8000-0123456789ab"
OTHER = "ffffffff-0000-4000-8000-0123456789ab"
KEY = "k3y_Of-a-Link"

LINK_READS = (
    "/api/shared-links/me",
    "/api/timeline/buckets",
    "/api/timeline/bucket",
    f"/api/albums/{ASSET}",
    f"/api/albums/{ASSET}/map-markers",
    f"/api/assets/{ASSET}",
    f"/api/assets/{ASSET}/thumbnail",
    f"/api/assets/{ASSET}/original",
    f"/api/assets/{ASSET}/video/playback",
    f"/api/assets/{ASSET}/video/stream/main.m3u8",
    f"/api/assets/{ASSET}/video/stream/{OTHER}/0/segment_1.m4s",
)
LINK_CALLS = (
    ("POST", "/api/shared-links/login"),
    ("POST", "/api/download/info"),
    ("POST", "/api/download/archive"),
    ("DELETE", f"/api/assets/{ASSET}/video/stream/{OTHER}"),
)
WITHOUT_KEY = (
    f"/share/{KEY}",
    f"/share/{KEY}/",
    f"/share/{KEY}?fbclid=IwAR0_x-y&utm_source=chat",
    f"/share/{KEY}/photos/{ASSET}",
    "/s/summer-2026",
    f"/s/summer-2026/photos/{ASSET}/",
    "/s/Tom%20%26%20Anna's%20trip%20(1)",
    "/s/%D0%BB%D0%B5%D1%82%D0%BE",
    "/s/%E5%A4%8F%F0%9F%8C%9E",
    "/_app/immutable/entry/start.B7x_q-1.js",
    "/_app/env.js",
    "/_app/version.json",
    "/service-worker.js",
    "/manifest.json",
    "/custom.css",
    "/robots.txt",
    "/favicon.ico",
    "/favicon-32.png",
    "/apple-icon-180.png",
    "/manifest-icon-192.maskable.png",
    "/feature-panel.png",
    "/light_skeleton.png",
    "/dark_skeleton.png",
    "/api/server/config",
    "/api/server/features",
    "/api/server/media-types",
    "/api/public/config",
)
CLOSED = (
    ("GET", "/"),
    ("GET", "/auth/login"),
    ("GET", "/photos"),
    ("GET", "/index.php"),
    ("GET", "/_app/env.mjs"),
    ("POST", f"/share/{KEY}"),
    ("GET", f"/share/{KEY}/edit"),
    ("GET", "/share/"),
    ("GET", "/api/users/me"),
    ("GET", "/api/server/ping"),
    ("GET", "/api/server/about"),
    ("POST", "/api/server/config"),
    ("POST", "/api/auth/login"),
    ("POST", "/api/auth/admin-sign-up"),
    ("POST", f"/api/auth/validateToken?key={KEY}"),
    ("GET", f"/api/shared-links?key={KEY}"),
    ("POST", f"/api/shared-links/?key={KEY}"),
    ("GET", f"/api/shared-links/{ASSET}?key={KEY}"),
    ("PUT", f"/api/shared-links/{ASSET}/assets?key={KEY}"),
    ("GET", f"/api/assets/statistics?key={KEY}"),
    ("POST", f"/api/assets/jobs?key={KEY}"),
    ("POST", f"/api/assets/bulk-upload-check?key={KEY}"),
    ("POST", f"/api/assets?key={KEY}"),
    ("GET", f"/api/assets/{ASSET}/ocr?key={KEY}"),
    ("GET", f"/api/assets/{ASSET}/metadata?key={KEY}"),
    ("DELETE", f"/api/assets/{ASSET}?key={KEY}"),
    ("PUT", f"/api/assets/{ASSET}/original?key={KEY}"),
    ("PUT", f"/api/albums/{ASSET}/assets?key={KEY}"),
    ("POST", f"/api/search/metadata?key={KEY}"),
    ("GET", f"/api/assets/{ASSET}/?key={KEY}"),
    ("GET", f"/api/Assets/{ASSET}?key={KEY}"),
    ("GET", f"/x/api/assets/{ASSET}?key={KEY}"),
    ("GET", "/x/api/server/config"),
    ("GET", f"/x/share/{KEY}"),
    ("GET", "/x/favicon.ico"),
    ("GET", f"/api/assets/{ASSET}0?key={KEY}"),
    ("GET", "/api/socket.io/?EIO=4&transport=polling"),
    ("OPTIONS", "/api/server/config"),
    ("TRACE", "/api/server/config"),
)


def assert_refused(answer: Answer) -> None:
    """Every refusal is the same, whatever was asked."""
    assert (answer.status, answer.body) == (403, FORBIDDEN)
    assert answer.headers["content-type"] == "application/json"
    assert "server" not in answer.headers


@pytest.mark.parametrize("target", WITHOUT_KEY)
def test_pages_and_their_files_are_open(edge: Edge, target: str) -> None:
    assert edge.ask(target).status == 200
    assert edge.ask(target, "HEAD").status == 200
    assert [(seen.method, seen.target) for seen in edge.backend.received] == [
        ("GET", target),
        ("HEAD", target),
    ]


@pytest.mark.parametrize("path", LINK_READS)
def test_link_reads_need_a_key_or_a_slug(edge: Edge, path: str) -> None:
    for refused in ("", "?key=", "?slug=", "?key=&slug=", "?key[]=x", "?Key=x", "?xkey=x", "?key"):
        assert_refused(edge.ask(path + refused))
    assert edge.backend.targets() == []
    for accepted in (f"?key={KEY}", "?slug=summer", f"?size=preview&key={KEY}", f"?key={KEY}&c=a%2Fb%3D"):
        assert edge.ask(path + accepted).status == 200
    assert len(edge.backend.targets()) == 4


@pytest.mark.parametrize(("method", "path"), LINK_CALLS)
def test_link_calls_need_a_key_or_a_slug(edge: Edge, method: str, path: str) -> None:
    assert_refused(edge.ask(path, method, body=b"{}"))
    assert_refused(edge.ask(f"{path}?key=", method, body=b"{}"))
    assert edge.backend.targets() == []
    assert edge.ask(f"{path}?key={KEY}", method, body=b"{}").status == 200
    assert edge.ask(f"{path}?slug=summer", method, body=b"{}").status == 200


@pytest.mark.parametrize(("method", "target"), CLOSED)
def test_all_else_is_closed(edge: Edge, method: str, target: str) -> None:
    assert_refused(edge.ask(target, method))
    assert edge.backend.targets() == []


def test_a_link_key_twice_is_refused(edge: Edge) -> None:
    for query in (f"key=&key={KEY}", f"key={KEY}&x=1&key=", "slug=a&slug=b", f"k%65y={KEY}&key={KEY}"):
        assert_refused(edge.ask(f"/api/shared-links/me?{query}"))
    assert edge.backend.targets() == []


@pytest.mark.parametrize(
    "smuggled", ["apiKey=x", "sessionKey=x", "APIKEY=x", "password=x", "apiKey", "api%4bey=x"]
)
def test_credentials_in_the_query_are_refused(edge: Edge, smuggled: str) -> None:
    assert_refused(edge.ask(f"/api/shared-links/me?key={KEY}&{smuggled}"))
    assert_refused(edge.ask(f"/api/shared-links/me?{smuggled}&key={KEY}"))
    assert edge.backend.targets() == []


CREDENTIAL_HEADERS = (
    ("Authorization", "Bearer stolen"),
    ("Proxy-Authorization", "Basic stolen"),
    ("x-api-key", "stolen"),
    ("X-Immich-User-Token", "stolen"),
    ("x-immich-session-token", "stolen"),
    ("x-immich-checksum", "stolen"),
    ("x-immich-share-key", "stolen"),
    ("x-immich-share-slug", "stolen"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-Method-Override", "DELETE"),
    ("X-Original-URL", "/api/users"),
    ("X-Rewrite-URL", "/api/users"),
    ("X-Real-IP", "192.0.2.1"),
    ("Forwarded", "for=192.0.2.1"),
    ("X-Forwarded-For", "192.0.2.1"),
    ("X-Forwarded-Host", "stolen"),
    ("X-Forwarded-Prefix", "stolen"),
    ("Cookie", "immich_access_token=stolen; immich_is_authenticated=true; immich_auth_type=password"),
    ("X-A-Header-Of-Tomorrow", "stolen"),
    ("X-Immich-Token-Of-Tomorrow", "stolen"),
    ("Cookie", "__Host-immich_access_token=stolen; immich_shared_link_token_2=stolen"),
)


def test_credentials_are_stripped(edge: Edge) -> None:
    address = edge.new_address()
    answer = edge.ask(f"/api/shared-links/me?key={KEY}", address=address, headers=CREDENTIAL_HEADERS)
    assert answer.status == 200
    [seen] = edge.backend.received
    for trace in ("stolen", "192.0.2.1", "DELETE", "/api/users"):
        assert trace not in str(seen)
    assert "cookie" not in seen.headers
    assert seen.headers["x-forwarded-for"] == [address]
    assert seen.headers["x-forwarded-host"] == seen.headers["host"]
    assert seen.headers["x-forwarded-proto"] == ["https"]


def test_what_the_page_sends_gets_through(edge: Edge) -> None:
    kept = {
        "accept": "application/json",
        "accept-language": "de",
        "content-type": "application/json",
        "if-none-match": '"x"',
        "range": "bytes=0-9",
        "user-agent": "Visitor/1.0",
        "x-immich-hls-msn": "3",
        "x-immich-hls-pos": "12.5",
    }
    edge.ask(f"/api/shared-links/me?key={KEY}", headers=tuple(kept.items()))
    [seen] = edge.backend.received
    assert {name: seen.headers.get(name) for name in kept} == {name: [value] for name, value in kept.items()}


def test_only_the_cookie_of_the_link_is_kept(edge: Edge) -> None:
    kept = "immich_shared_link_token=aGk%3D%2Cx/y+z="
    for headers in (
        [("Cookie", f"immich_access_token=stolen; {kept}; other=1")],
        [("Cookie", "immich_access_token=stolen"), ("Cookie", f"a=b;{kept}")],
        [("Cookie", kept)],
    ):
        edge.backend.received.clear()
        edge.ask(f"/api/shared-links/me?key={KEY}", headers=headers)
        [seen] = edge.backend.received
        assert seen.headers["cookie"] == [kept]


def test_a_device_keeps_its_credentials(edge: Edge) -> None:
    identity = edge.device("tablet")
    headers = [
        ("Authorization", "Bearer mine"),
        ("x-api-key", "mine"),
        ("Cookie", "immich_access_token=mine"),
    ]
    assert (
        edge.ask("/api/users/me", identity=identity, headers=[*headers, ("X-Real-IP", "192.0.2.1")]).status
        == 200
    )
    [seen] = edge.backend.received
    assert str(seen).count("mine") == 3
    assert "192.0.2.1" not in str(seen)


def test_bodies_are_small(edge: Edge) -> None:
    call = f"/api/download/info?key={KEY}"
    assert edge.ask(call, "POST", body=b"x" * 900_000).status == 200
    assert edge.ask(call, "POST", body=b"x" * 1_100_000).status == 413


def test_no_upgrade_for_visitors(edge: Edge) -> None:
    upgrade: Sequence[tuple[str, str]] = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    assert edge.ask(f"/share/{KEY}", headers=upgrade).status == 200, "some proxies offer one with everything"
    [seen] = edge.backend.received
    assert "pgrade" not in str(seen)
    laptop = edge.device("laptop")
    assert edge.ask("/api/socket.io/", identity=laptop, headers=upgrade).status == 101


def test_uploads_are_opened_by_the_setting_alone(edge: Edge, make_edge: EdgeMaker) -> None:
    upload = f"/api/assets?key={KEY}"
    assert_refused(edge.ask(upload, "POST", body=b"photo"))
    open_edge = make_edge(uploads="on")
    assert_refused(open_edge.ask("/api/assets?key=", "POST", body=b"photo"))
    assert_refused(open_edge.ask(f"/api/assets/?key={KEY}", "POST", body=b"photo"))
    assert_refused(open_edge.ask(f"/api/assets?key={KEY}", "PUT", body=b"photo"))
    assert open_edge.backend.received == []
    checksum = [("x-immich-checksum", "da39a3ee")]
    sent = sized_form(3_000_000)
    assert open_edge.ask(upload, "POST", body=sent.body, headers=sent.headers + checksum).status == 201
    question, seen = open_edge.backend.received
    assert question.target == f"/api/shared-links/me?key={KEY}"
    assert seen.body_size == 3_000_000
    assert "x-immich-checksum" not in {*question.headers, *seen.headers}


PREFIXES = (f"/share/{KEY}", "/s/x", "/_app/immutable", f"/api/assets/{ASSET}", "/api/server/config")
CLIMBS = (
    "/../../api/users/me",
    "/../../../../../api/users/me",
    "/..%2f..%2f..%2fapi/users/me",
    "/%2e%2e/%2e%2e/%2e%2e/api/users/me",
    "/.%2e/.%2E/api/users/me",
    "/..;/..;/..;/api/users/me",
    "/..\\..\\..\\api\\users\\me",
    "/..%5c..%5c..%5capi%5cusers%5cme",
    "/%252e%252e/%252e%252e/api/users/me",
    "/..%252f..%252fapi/users/me",
    "/%c0%ae%c0%ae/%c0%ae%c0%ae/api/users/me",
    "/%e0%80%ae%e0%80%ae/api/users/me",
    "/..%c0%af..%c0%afapi/users/me",
    "/./../api/users/me",
    "/..//..//api/users/me",
    "/%00/../api/users/me",
    "/..%00/api/users/me",
    "/%09../api/users/me",
    "/..%0d%0a/api/users/me",
    "/..%23/../api/users/me",
    "/..%3f/../api/users/me",
)
ODD_TARGETS = (
    "//api/users/me",
    "/./api/users/me",
    "/api//users/me",
    "/api/./users/me",
    "/%61pi/users/me",
    "/API/users/me",
    "/api/users/me/",
    "/api/users/me%00",
    "/api/users/me;/share/x",
    "/api/users/me%3b/share/x",
    "/api/users/me?/share/x",
    "/api/users/me#/share/x",
    "\\api\\users\\me",
    "/share/../api/users/me",
    "/share/%2e%2e/api/users/me",
    f"/share/{KEY}%2f..%2f..%2fapi%2fusers%2fme",
    f"/api/assets/{ASSET}/thumbnail/..?key={KEY}",
    f"/api/assets/{ASSET}%2fthumbnail?key={KEY}",
    f"/api/server/config%2f..%2f..%2fusers%2fme?key={KEY}",
    f"/api/server/config/..;/users?key={KEY}",
    f"/api/assets/{ASSET};x/original?key={KEY}",
    f"https://{'immich.edge-tailnet.ts.net'}/api/users/me",
    "http://localhost/api/users/me",
    "*",
    "api/users/me",
    "/s/x?slug=%00",
    "/{env.HOME}",
    "/s/{env.HOME}",
    "/s/{http.request.tls.client.fingerprint}",
)


@pytest.mark.parametrize(
    "target", [prefix + climb for prefix in PREFIXES for climb in CLIMBS] + list(ODD_TARGETS)
)
def test_no_target_gets_around_the_list(edge: Edge, target: str) -> None:
    for query in ("", f"{'&' if '?' in target else '?'}key={KEY}"):
        try:
            status = edge.ask(target + query).status
        except ConnectionDroppedError:
            continue
        assert status in (400, 403, 421)
    assert edge.backend.targets() == []


def test_connect_and_smuggling_reach_nothing(edge: Edge) -> None:
    host = b"Host: immich.edge-tailnet.ts.net\r\n"
    hidden = b"GET /api/users/me HTTP/1.1\r\n" + host + b"\r\n"
    for raw in (
        b"CONNECT immich.edge-tailnet.ts.net:443 HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /s/x HTTP/1.1\r\n" + host + b"Host: other\r\n\r\n",
        b"GET /s/x HTTP/1.1\r\n" + host + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET /s/x HTTP/1.1\r\n" + host + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + hidden,
        b"GET /s/x HTTP/1.1\r\n" + host + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden,
        b"GET /s/x\r\n\r\n" + hidden,
    ):
        try:
            with edge.connect(edge.new_address()) as connection:
                assert connection.send(raw).status in (400, 403, 421, 501)
        except ConnectionDroppedError:
            pass
    with edge.connect(edge.new_address()) as connection:
        size = str(len(hidden)).encode()
        assert connection.send(
            b"GET /s/x HTTP/1.1\r\n" + host + b"Content-Length: " + size + b"\r\n\r\n" + hidden
        )
    assert [seen.target for seen in edge.backend.received] == ["/s/x"]
