"""The bypass corpus: requests that try to reach more of Immich than the table allows, built from rules.

A probe is one request, byte for byte for HTTP/1.1 or a header block for HTTP/2. Families are the rules that
built them.
`python -m tests.server.corpus` prints how many each family has.
"""

from __future__ import annotations

import argparse
import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tests.server.http2 import Header, request_headers
from tests.server.surface_property import STOLEN
from tests.server.visitor import DOMAIN

ASSET = "0a1b2c3d-0000-4000-8000-0123456789ab"
KEY = "k3y_Of-a-Link"
WITH_KEY = f"key={KEY}"


@dataclass(frozen=True)
class Target:
    """A request target with its method and further headers, for either version of HTTP."""

    family: str
    target: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


@dataclass(frozen=True)
class Http1Probe:
    """Bytes for an HTTP/1.1 connection. `lingers`: more may follow the first answer, so wait for it."""

    family: str
    name: str
    raw: bytes
    lingers: bool = False


@dataclass(frozen=True)
class Http2Probe:
    """A header block, and perhaps a body, for an HTTP/2 connection."""

    family: str
    name: str
    headers: tuple[Header, ...]
    body: bytes | None = None


# --- Targets

OPEN_PLACES = (
    f"/share/{KEY}",
    "/s/x",
    "/_app/immutable/entry",
    f"/api/assets/{ASSET}",
    "/api/server/config",
    f"/api/assets/{ASSET}/video/stream/{ASSET}/0",
)
"""Where a stranger may go; the climbs start here."""

PRIVATE_PLACES = (
    "api/users",
    "api/people",
    "api/admin/users",
    "api/albums",
    "api/assets/statistics",
    "api/shared-links",
    "api/system-config",
)
"""Where Immich keeps what is nobody's business."""

# One step up, in every spelling that some server somewhere has taken for one.
STEPS_UP = {
    "dot segments": ("../", "./../", "..//", ".././", "..././"),
    "encoded dots": ("%2e%2e/", ".%2e/", "%2E%2e/", "%2e%2e%2f"),
    "encoded separators": ("..%2f", "..%2F", "%2e%2e%2F"),
    "double encoding": ("%252e%252e/", "..%252f", "%252e%252e%252f", "%25252e%25252e/", "..%25%32%66"),
    "backslash": ("..\\", "..%5c", "..%5C", "..%255c", "%2e%2e%5c"),
    "semicolon": ("..;/", "..;x=y/", "..%3b/", ";/../", "%3b/../", "x;/../../"),
    "control characters": (
        "..%00/",
        "%00../",
        "..%09/",
        "..%0d%0a/",
        "..%20/",
        "..%7f/",
        "..%0a/",
        "..\x01/",
    ),
    "overlong UTF-8": (
        "%c0%ae%c0%ae/",
        "..%c0%af",
        "%e0%80%ae%e0%80%ae/",
        "..%e0%80%af",
        "..%c1%9c",
        "%c0%2e./",
    ),
    "odd Unicode": (
        "..%u002f",
        "%u002e%u002e/",
        "%ef%bc%8e%ef%bc%8e/",
        "..%ef%bc%8f",
        "..%e2%88%95",
        "\xff../",
        "..\xc0\xaf",
    ),
    "fragments": ("..%23/../", "#/../", "..%3f/../", "..%26/"),
}


def climbs() -> Iterator[Target]:
    """From each open place to a private one, by each spelling of a step up."""
    for (family, steps), (shift, place) in itertools.product(STEPS_UP.items(), enumerate(OPEN_PLACES)):
        for number, step in enumerate(steps, shift):
            private = PRIVATE_PLACES[number % len(PRIVATE_PLACES)]
            up = step * place.count("/")
            yield Target(family, f"{place}/{up}{private}" + (f"?{WITH_KEY}" if number % 2 else ""))


def disguises() -> Iterator[Target]:
    """A private place, with steps up behind it that lead a cleaning reader to an open one."""
    for family, steps in STEPS_UP.items():
        for step, place in itertools.product(steps, PRIVATE_PLACES[:4]):
            up = step * (place.count("/") + 1)
            yield Target(family, f"/{place}/{up}share/{KEY}")
            yield Target(family, f"/{place}/{up}share%2f{KEY}")
            yield Target(family, f"/{place}/{up}api/server/config?{WITH_KEY}")


def other_spellings() -> Iterator[Target]:
    """A private place written so that a list of forbidden places would not know it."""
    for place in PRIVATE_PLACES:
        head, _, rest = place.partition("/")
        yield from (
            Target("case", f"/{place.upper()}?{WITH_KEY}"),
            Target("case", f"/{head.title()}/{rest.title()}?{WITH_KEY}"),
            Target("trailing slash and dot", f"/{place}/?{WITH_KEY}"),
            Target("trailing slash and dot", f"/{place}.?{WITH_KEY}"),
            Target("trailing slash and dot", f"/{place}/.?{WITH_KEY}"),
            Target("trailing slash and dot", f"/{place}%20?{WITH_KEY}"),
            Target("slashes", f"//{place}?{WITH_KEY}"),
            Target("slashes", f"/{head}//{rest}?{WITH_KEY}"),
            Target("slashes", f"/./{place}?{WITH_KEY}"),
            Target("slashes", f"/.//{place}"),
            Target("encoded letters", f"/%61{place[1:]}?{WITH_KEY}"),
            Target("encoded letters", f"/{head}/%{ord(rest[0]):02x}{rest[1:]}?{WITH_KEY}"),
            Target("suffixes", f"/{place};/share/{KEY}"),
            Target("suffixes", f"/{place}%3b/share/{KEY}"),
            Target("suffixes", f"/{place}?/share/{KEY}"),
            Target("suffixes", f"/{place}#/share/{KEY}"),
            Target("suffixes", f"/{place}%00/share/{KEY}"),
            Target("suffixes", f"/{place}%3f{WITH_KEY}"),
            Target("suffixes", f"/{place}/favicon.ico"),
            Target("suffixes", f"/{place}%2ffavicon.ico"),
            Target("backslash", "\\" + place.replace("/", "\\")),
            Target("backslash", f"/{place.replace('/', '%5c')}"),
            Target("encoded separators", f"/{place.replace('/', '%2f')}?{WITH_KEY}"),
        )
    yield from (
        Target("trailing slash and dot", f"/api/shared-links/?{WITH_KEY}", "POST", body=b"{}"),
        Target("trailing slash and dot", f"/api/assets/?{WITH_KEY}", "POST", body=b"{}"),
        Target("trailing slash and dot", f"/api/assets/{ASSET}/?{WITH_KEY}"),
        Target("case", f"/api/Assets/{ASSET}?{WITH_KEY}"),
        Target("case", f"/SHARE/{KEY}/../../api/users"),
        Target("case", f"/api/assets/{ASSET}/THUMBNAIL?{WITH_KEY}"),
    )


def other_forms() -> Iterator[Target]:
    """Absolute, authority, asterisk and relative forms (RFC 9112, 3.2), and other hosts."""
    for place in PRIVATE_PLACES[:4]:
        for scheme in ("http", "https", "HTTPS", "ftp", "file", "immich"):
            yield Target("absolute form", f"{scheme}://{DOMAIN}/{place}?{WITH_KEY}")
        yield from (
            Target("absolute form", f"https://{DOMAIN}/share/{KEY}/../../{place}"),
            Target("absolute form", f"https://{DOMAIN}:443/{place}"),
            Target("absolute form", f"https://user:{STOLEN}@{DOMAIN}/{place}"),
            Target("absolute form", f"http://127.0.0.1/{place}"),
            Target("absolute form", f"https://localhost/share/{KEY}"),
            Target("absolute form", f"https://{DOMAIN}%2f{place}/share/{KEY}"),
            Target("authority form", f"//{DOMAIN}/{place}"),
            Target("authority form", f"//share/{KEY}/../../{place}"),
            Target("authority form", f"{DOMAIN}:443/{place}"),
            Target("relative form", place),
            Target("relative form", f"../{place}"),
            Target("relative form", f"?{place}"),
        )
    yield from (
        Target("authority form", f"{DOMAIN}:443", "CONNECT"),
        Target("authority form", "127.0.0.1:2283", "CONNECT"),
        Target("authority form", "/api/users", "CONNECT"),
        Target("asterisk form", "*", "OPTIONS"),
        Target("asterisk form", "*"),
        Target("absolute form", f"https://{DOMAIN}/share/{KEY}"),
    )


# Text that Caddy or a shell might expand.
PLACEHOLDERS = (
    "{env.HOME}",
    "{http.request.uri}",
    "{http.request.tls.client.fingerprint}",
    "{http.request.header.X-Probe}",
    "{http.vars.client_ip}",
    "{file./etc/passwd}",
    "{system.wd}",
    "{re.link.1}",
    "{$IMMICH_EXPOSURE_STATE}",
    "$1",
    "${1}",
    "%7Benv.HOME%7D",
    "%257Benv.HOME%257D",
)
GLOBS = ("*", "?", "[a-z]", "{a,b}", "\\*", "**/*", "[!x]*", "%2a", "%5b%2d%5d")


def expansions() -> Iterator[Target]:
    """Placeholder-shaped text and glob characters wherever a client writes."""
    for text in PLACEHOLDERS + GLOBS:
        family = "placeholders" if text in PLACEHOLDERS else "globs"
        yield from (
            Target(family, f"/{text}"),
            Target(family, f"/s/{text}"),
            Target(family, f"/share/{text}"),
            Target(family, f"/api/{text}?{WITH_KEY}"),
            Target(family, f"/api/shared-links/me?key={text}"),
            Target(family, f"/api/users?{WITH_KEY}&{text}=1"),
            Target(family, "/api/users", headers=(("X-Probe", f"/share/{text}"), ("Cookie", text))),
        )


def queries() -> Iterator[Target]:
    """A key that is none, a key for some readers only, and credentials of users beside a key."""
    thumbnail = f"/api/assets/{ASSET}/thumbnail"
    no_keys = (
        "",
        "?",
        "?key",
        "?key=",
        "?slug=",
        "?key=&slug=",
        "?Key=x",
        "?KEY=x",
        "?%6bey=x",
        "?k%65y=x",
        "?key%00=x",
        "?key%20=x",
        "?+key=x",
        "?key[]=x",
        "?key[a]=x",
        "?key%5b%5d=x",
        "?xkey=x",
        "?x;key=x",
        "?x=1;key=x",
        "?x=1%26key=x",
        "?x=1%26key%3dx",
        "?x=?key=x",
        "?x#?key=x",
        "?&key",
        "?key=&key=x",
        "?key=x&key=",
        "?key=x&key=y",
        "?key&key=x",
        "?key=x&key",
        "?key&a=b&key=x",
        "?slug&slug=x",
        "?slug=x&a&slug",
        "?slug=a&slug=b",
        "?key=x&key[]=y",
        "?key=x&key[__proto__]=y",
        "?key=x&__proto__[key]=y",
        "?key=x&k%65y=y",
        "?key=x&%6bey=",
        "?key=%00",
        "?key=x%00y",
        "?key=%0d%0ax",
        "?key=+",
        "?key=%20",
        "?key=;x",
        "?key=x]=y",
        "?key=x[]=y",
        "?key=x&slug=[key]=y",
        "?key=x\ty",
        "?key=\xe4",
        "??key=x",
        "?key==",
    )
    yield from (Target("query: key", thumbnail + query) for query in no_keys)
    yield from (Target("query: key", f"/api/albums{query}") for query in no_keys)
    for name, joined in itertools.product(
        ("apiKey", "sessionKey", "password", "APIKEY", "api%4bey", "apiKey[]", "%61pi%4b%65y", "apiKey%20"),
        ("key=x&{}", "{}&key=x", "key=x;{}", "key=x&y;{}", "key=x%26{}", "key=x&&{}", "key=x?{}"),
    ):
        yield Target("query: credentials", f"{thumbnail}?{joined.format(f'{name}={STOLEN}')}")
    for name in ("x-immich-share-key", "x-immich-share-slug", "X-Immich-Share-Key", "X_Immich_Share_Key"):
        yield Target("query: header instead", thumbnail, headers=((name, STOLEN),))
        yield Target("query: header instead", f"{thumbnail}?key=", headers=((name, STOLEN),))
        yield Target("query: header instead", f"{thumbnail}?{WITH_KEY}", headers=((name, STOLEN),))


OVERRIDES = (
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-HTTP-Method", "PUT"),
    ("X-Method-Override", "DELETE"),
    ("x-http-method-override", "delete"),
    ("X-Original-URL", "/api/users"),
    ("X-Original-Uri", "/api/users"),
    ("X-Rewrite-URL", "/api/users"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Forwarded-Host", "localhost"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Prefix", f"/{STOLEN}"),
    ("X-Forwarded-Uri", "/api/users"),
    ("X-Forwarded-Method", "DELETE"),
    ("X-Forwarded-Client-Cert", STOLEN),
    ("X-Real-IP", "127.0.0.1"),
    ("Forwarded", "for=127.0.0.1;host=localhost"),
    ("Authorization", f"Bearer {STOLEN}"),
    ("Proxy-Authorization", f"Basic {STOLEN}"),
    ("X-Api-Key", STOLEN),
    ("x-immich-user-token", STOLEN),
    ("x-immich-session-token", STOLEN),
    ("x-immich-checksum", STOLEN),
    ("Cookie", f"immich_access_token={STOLEN}; immich_is_authenticated=true"),
    ("Cookie", f"immich_shared_link_token=x; immich_access_token={STOLEN}"),
    ("Cookie", f"a=b;immich_access_token={STOLEN};immich_shared_link_token=x"),
    ("Cookie", f"immich_shared_link_token=x,immich_access_token={STOLEN}"),
    ("Cookie", f'immich_shared_link_token="x\\073 immich_access_token={STOLEN}"'),
    ("Upgrade", "websocket"),
    ("Upgrade", "h2c"),
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("Connection", "X-Forwarded-For, Cookie, Host"),
    ("Connection", "close, X-Forwarded-Proto"),
    ("Expect", "100-continue"),
    ("TE", "trailers"),
    ("Range", "bytes=0-0"),
    ("Destination", "/api/users"),
)


def headers() -> Iterator[Target]:
    """Headers that a back end might obey, on an open request and on a closed one."""
    for name, value in OVERRIDES:
        extra: tuple[tuple[str, str], ...] = ((name, value),)
        if name == "Upgrade":
            extra = (("Connection", "Upgrade"), *extra)
        yield Target("headers", f"/api/shared-links/me?{WITH_KEY}", headers=extra)
        yield Target("headers", f"/share/{KEY}", headers=extra)
        yield Target("headers", "/api/users", headers=extra)
        yield Target("headers", f"/api/download/info?{WITH_KEY}", "POST", extra, b"{}")


def methods() -> Iterator[Target]:
    """Methods that the row does not have."""
    for method in (
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "PROPFIND",
        "get",
        "GET\t",
        "G%45T",
        "HEADX",
    ):
        for path in (
            f"/share/{KEY}",
            f"/api/assets/{ASSET}?{WITH_KEY}",
            f"/api/albums/{ASSET}?{WITH_KEY}",
            "/api/server/config",
        ):
            yield Target("methods", path, method)


def oversize() -> Iterator[Target]:
    """More than the edge reads of a request."""
    for size in (8_000, 15_000, 40_000, 200_000):
        yield Target("oversize", f"/share/{KEY}", headers=(("X-Big", "x" * size), ("X-Api-Key", STOLEN)))
        yield Target("oversize", f"/api/users?{'x' * size}&{WITH_KEY}")
        yield Target("oversize", f"/{'a/../' * (size // 5)}api/users")
    many = tuple((f"X-{number}", "y") for number in range(1500))
    yield Target("oversize", f"/share/{KEY}", headers=(*many, ("X-Api-Key", STOLEN)))


def targets() -> list[Target]:
    """Return every target of the corpus, without repetition."""
    rules: Sequence[Iterable[Target]] = (
        climbs(),
        disguises(),
        other_spellings(),
        other_forms(),
        expansions(),
        queries(),
        headers(),
        methods(),
        oversize(),
    )
    return list(dict.fromkeys(itertools.chain.from_iterable(rules)))


# --- HTTP/1.1


def _latin(text: str) -> bytes:
    return text.encode("latin-1")


def http1_probe(target: Target) -> Http1Probe:
    """Return a target as an HTTP/1.1 request."""
    lines = [f"{target.method} {target.target} HTTP/1.1", f"Host: {DOMAIN}"]
    lines += [f"{name}: {value}" for name, value in target.headers]
    lingers = any(name == "Connection" for name, _ in target.headers)
    if not lingers:
        lines.append("Connection: close")
    if target.body is not None:
        lines.append(f"Content-Length: {len(target.body)}")
    raw = _latin("\r\n".join(lines) + "\r\n\r\n") + (target.body or b"")
    return Http1Probe(target.family, " | ".join(lines)[:200], raw, lingers)


_HOST = f"Host: {DOMAIN}\r\n"
_HIDDEN = f"GET /api/users HTTP/1.1\r\n{_HOST}X-Api-Key: {STOLEN}\r\n\r\n"
_POST = f"POST /api/download/info?{WITH_KEY} HTTP/1.1\r\n{_HOST}"
_GET = f"GET /share/{KEY} HTTP/1.1\r\n{_HOST}"


def smuggling() -> Iterator[tuple[str, str]]:
    """Requests about whose end or whose host two servers might disagree, with a second one hidden behind."""
    size = len(_HIDDEN)
    chunk = f"{size:x}\r\n{_HIDDEN}\r\n0\r\n\r\n"
    encodings = (
        "Transfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: CHUNKED",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        'Transfer-Encoding: "chunked"',
        "Transfer_Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\x00",
        "Transfer-Encoding: \x0bchunked",
    )
    for encoding in encodings:
        for first in (_POST, _GET):
            yield "lengths", f"{first}Content-Length: 4\r\n{encoding}\r\n\r\n0\r\n\r\n{_HIDDEN}"
            yield "lengths", f"{first}{encoding}\r\nContent-Length: {size + 5}\r\n\r\n0\r\n\r\n{_HIDDEN}"
            yield "lengths", f"{first}{encoding}\r\n\r\n{chunk}"
    lengths = (
        "0",
        "+0",
        "-1",
        "0x0",
        "00",
        "0,0",
        "0, 5",
        "1e1",
        "",
        " ",
        "18446744073709551616",
        "0\r\nContent-Length: 5",
        "5\r\nContent-Length: 0",
    )
    for length in lengths:
        for first in (_POST, _GET):
            yield "lengths", f"{first}Content-Length: {length}\r\n\r\n{_HIDDEN}"
    for size_line in (
        "0;x=y",
        "0x0",
        "00000000000000000",
        "-0",
        "0 ",
        "g",
        "0\n",
        "1\r\nz\r\n0;\n",
        "ffffffffffffffff",
        "2\r\nabc\r\n0",
    ):
        yield "chunks", f"{_POST}Transfer-Encoding: chunked\r\n\r\n{size_line}\r\n\r\n{_HIDDEN}"
    yield (
        "chunks",
        f"{_POST}Transfer-Encoding: chunked\r\nTrailer: X-Api-Key\r\n\r\n"
        f"0\r\nX-Api-Key: {STOLEN}\r\nHost: other\r\n\r\n",
    )
    yield (
        "chunks",
        f"{_POST}Transfer-Encoding: chunked\r\n\r\n"
        f"0\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n{_HIDDEN}",
    )
    hosts = (
        "Host: other.example",
        f"{_HOST}Host: other.example",
        f"Host: other.example\r\n{_HOST[:-2]}",
        f"{_HOST}{_HOST[:-2]}",
        f"Host: {DOMAIN}, other.example",
        f"Host: {DOMAIN}:443",
        f"Host: {DOMAIN}.",
        f"Host: {DOMAIN.upper()}",
        f"Host: user@{DOMAIN}",
        f"Host: {DOMAIN}/api/users",
        f"Host: {DOMAIN}#x",
        f"Host: {DOMAIN}%00.example",
        "Host: 127.0.0.1",
        "Host: localhost",
        "Host:",
        "X: y",
        f"Host : {DOMAIN}",
        f" Host: {DOMAIN}",
        f"Host: {DOMAIN}\r\n X-Folded: /api/users",
        f"X-Api-Key : {STOLEN}\r\n{_HOST[:-2]}",
        f"X-Api-Key:{STOLEN}\r\n{_HOST[:-2]}",
        f"X\x00Api-Key: {STOLEN}\r\n{_HOST[:-2]}",
        f"X-Y: z\r\n\tX-Api-Key: folded\r\n{_HOST[:-2]}",
    )
    for host in hosts:
        yield "hosts", f"GET /api/users HTTP/1.1\r\n{host}\r\n\r\n"
        yield "hosts", f"GET /share/{KEY} HTTP/1.1\r\n{host}\r\n\r\n"
    lines = (
        "GET /api/users",
        "GET /api/users HTTP/0.9",
        "GET /api/users HTTP/1.0",
        "GET /api/users HTTP/2.0",
        "GET /api/users HTTP/9.9",
        "GET  /api/users HTTP/1.1",
        "GET\t/api/users\tHTTP/1.1",
        " GET /api/users HTTP/1.1",
        f"GET /share/{KEY} /api/users HTTP/1.1",
        f"GET /share/{KEY} HTTP/1.1 /api/users HTTP/1.1",
        f"GET /share/{KEY}\x00/../../api/users HTTP/1.1",
        f"GET /share/{KEY}\r/../../api/users HTTP/1.1",
        f"GET /share/{KEY} HTTP/1.1\nX: y",
        "\r\n\r\nGET /api/users HTTP/1.1",
        "PRI * HTTP/2.0",
        "PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\nGET /api/users HTTP/1.1",
    )
    for line in lines:
        yield "request lines", f"{line}\r\n{_HOST}\r\n{_HIDDEN}"
    yield "pipelines", f"{_GET}\r\n{_HIDDEN}"
    yield "pipelines", f"{_GET}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n{_HIDDEN}"
    yield (
        "pipelines",
        f"{_GET}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n{_HIDDEN}",
    )
    yield (
        "pipelines",
        f"{_GET}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        f"HTTP2-Settings: AAMAAABkAAQ\r\n\r\n{_HIDDEN}",
    )


def http1_probes() -> list[Http1Probe]:
    """Return the whole corpus for HTTP/1.1."""
    sent = [http1_probe(target) for target in targets()]
    return sent + [Http1Probe(family, text[:160], _latin(text), True) for family, text in smuggling()]


# --- HTTP/2


def http2_blocks() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Header blocks that HTTP/2 forbids or that two readers take differently (RFC 9113, 8.2 and 8.3)."""
    sound = [(":method", "GET"), (":scheme", "https"), (":authority", DOMAIN), (":path", f"/share/{KEY}")]

    def changed(name: str, value: str) -> list[tuple[str, str]]:
        return [(each, value if each == name else old) for each, old in sound]

    for name, value in sound:
        yield "pseudo-headers: missing", [each for each in sound if each[0] != name]
        yield "pseudo-headers: twice", [*sound, (name, value)]
        yield "pseudo-headers: late", [("x", "y"), *sound]
    for path in (
        "/api/users",
        "",
        "*",
        "api/users",
        f"https://{DOMAIN}/api/users",
        "/share/x HTTP/1.1\r\nX-Api-Key: y",
        f"/share/{KEY}\r\n\r\n{_HIDDEN}",
        f"/share/{KEY} /api/users",
        f"/share/{KEY}#/../../api/users",
    ):
        yield "pseudo-headers: path", changed(":path", path)
        yield "pseudo-headers: path twice", [*sound, (":path", path)]
        yield "pseudo-headers: path twice", [(":path", path), *sound]
    for method in ("get", "G ET", "CONNECT", "", "GET /api/users HTTP/1.1\r\nX: ", "GET\x00", "DELETE"):
        yield "pseudo-headers: method", changed(":method", method)
    for authority in (
        "other.example",
        "127.0.0.1",
        "localhost:2283",
        f"user@{DOMAIN}",
        f"{DOMAIN}/api/users",
        f"{DOMAIN}\r\nX-Api-Key: {STOLEN}",
        "",
        f"{DOMAIN}:443",
        f"{DOMAIN}.",
    ):
        yield "pseudo-headers: authority", changed(":authority", authority)
        yield "pseudo-headers: authority", [*changed(":authority", authority), ("host", DOMAIN)]
        yield "pseudo-headers: authority", [*sound, ("host", authority)]
    for scheme in ("http", "ftp", "https://x/api/users?", "", "HTTPS\r\nX: y"):
        yield "pseudo-headers: scheme", changed(":scheme", scheme)
    for extra in (
        (":protocol", "websocket"),
        (":status", "200"),
        (":unknown", "x"),
        ("", "x"),
        ("X-Api-Key", STOLEN),
        ("x-api-key", STOLEN),
        ("x-api-key ", STOLEN),
        (" x-api-key", STOLEN),
        ("x-api-key:", STOLEN),
        ("x\r\nx-api-key", STOLEN),
        ("x", f"y\r\nx-api-key: {STOLEN}"),
        ("x", f"y\nx-api-key: {STOLEN}"),
        ("x", f"y\x00{STOLEN}"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", f"chunked\r\n\r\n0\r\n\r\n{_HIDDEN}"),
        ("content-length", "5"),
        ("content-length", "-1"),
        ("te", "gzip, trailers"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("http2-settings", "AAMAAABkAAQ"),
        ("cookie", f"immich_shared_link_token=x\r\nx-api-key: {STOLEN}"),
    ):
        yield "fields", [*sound, extra]
        yield "fields", [*changed(":path", "/api/users"), extra]
    crumbs = [("cookie", "immich_shared_link_token=x"), ("cookie", f"immich_access_token={STOLEN}")]
    yield "fields", [*sound, *crumbs]
    yield "fields", [*sound, *reversed(crumbs)]
    connect = [(":method", "CONNECT"), (":authority", "127.0.0.1:2283")]
    yield "connect", connect
    yield "connect", [*connect, (":scheme", "https"), (":path", "/api/users"), (":protocol", "websocket")]
    yield "connect", [*connect, (":scheme", "https"), (":path", f"/share/{KEY}"), (":protocol", "websocket")]


LARGEST_BLOCK = 60_000
"""Bytes of a header block; compressing more takes the tests seconds and shows nothing new."""


def http2_probes() -> list[Http2Probe]:
    """Return the whole corpus for HTTP/2: every target, and the hostile header blocks."""
    found = []
    for target in targets():
        extra = [(name.lower(), value) for name, value in target.headers]
        block = request_headers(target.target, target.method, extra=extra)
        if sum(len(name) + len(value) for name, value in block) > LARGEST_BLOCK:
            continue
        found.append(
            Http2Probe(target.family, f"{target.method} {target.target[:120]}", tuple(block), target.body)
        )
    for family, fields in http2_blocks():
        encoded = tuple((_latin(name), _latin(value)) for name, value in fields)
        found.append(Http2Probe(family, str(fields)[:200], encoded))
        if family.endswith("method"):
            found.append(Http2Probe(family, f"{str(fields)[:190]} with a body", encoded, _latin(_HIDDEN)))
    return found


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m tests.server.corpus", description="Count the probes of the corpus by family."
    ).parse_args()
    for version, probes in (("HTTP/1.1", http1_probes()), ("HTTP/2", http2_probes())):
        counts = collections.Counter(probe.family for probe in probes)
        print(f"{version}: {sum(counts.values())} probes")
        for family_name, count in sorted(counts.items()):
            print(f"  {count:4}  {family_name}")
