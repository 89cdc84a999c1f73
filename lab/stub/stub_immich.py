#!/usr/bin/python3
"""Stand-in for Immich on the lab's server: answers as Immich 3.1 does, and records what reaches it.

It uses only the standard library, because it runs on the server's own Python. It keeps only the uploads'
checksums.

Credentials (fixed, public):
  API keys ``labapikey`` (may do everything), ``labreadslinks`` and ``labreadsalbums`` (may do that alone)
  session token ``labsession``, sign-in ``admin@lab.example`` with password ``lab``
  share keys ``labsharekey`` (also as slug ``holiday``), ``labupload`` (allows uploads), ``labsecret``
  (password ``open sesame``), ``labexpired``, ``labhostile`` (its album smuggles a script into the page), and
  ``CANARY``, whose key, slug and password tests look for

Control: while the file ``uninitialized`` exists in the record's folder, server/config says ``isInitialized:
false``.

Record: ``requests.jsonl`` there, one JSON object per request: ``time`` (ISO 8601, UTC), ``method``,
``target`` (as received, undecoded), ``headers`` (names in lower case, repeated ones joined by ", "),
``remote`` (address of the proxy), ``body_bytes`` (number), ``body_base64`` (its first 64 KiB), ``status`` (of
the answer).
"""

import argparse
import base64
import hashlib
import json
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AI_PASSIVE, SOCK_STREAM, AddressFamily, getaddrinfo
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

VERSION = (3, 1, 0)
API_KEY = "labapikey"
API_KEYS = {
    API_KEY: ("all",),
    "labreadslinks": ("sharedLink.read",),
    "labreadsalbums": ("album.read",),
}
"""What each key may do (Immich's Permission; "all" is everything)."""
SESSION = "labsession"
EMAIL, PASSWORD = "admin@lab.example", "lab"
USER = "0f0f0f0f-1111-4222-8333-444444444444"
ALBUM = "a1b0a1b0-1111-4222-8333-444444444444"
ASSETS = ("a55e7001-1111-4222-8333-444444444444", "a55e7002-1111-4222-8333-444444444444")
PRIVATE_ASSET = "a55e7fff-1111-4222-8333-444444444444"  # in the library, but in no link
LINK_COOKIE = "immich_shared_link_token"
ID = r"([0-9a-f-]{36})"
RECORDED_BODY = 64 * 1024


@dataclass(frozen=True)
class Link:
    """A shared link."""

    key: str
    slug: str | None = None
    password: str | None = None
    upload: bool = False
    expired: bool = False
    name: str = "Holiday"
    ends: str | None = None

    @property
    def token(self) -> str:
        """The cookie's value once the password was given."""
        return hashlib.sha256(f"{self.key}:{self.password}".encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """As in shared-links/me."""
        return {
            "id": "11111111-2222-4333-8444-555555555555",
            "key": self.key,
            "slug": self.slug,
            "type": "ALBUM",
            "album": {"id": ALBUM, "albumName": self.name, "assetCount": len(ASSETS)},
            "assets": [],
            "allowDownload": True,
            "allowUpload": self.upload,
            "showMetadata": True,
            "password": None,
            "expiresAt": self.ends,
        }

    def listed(self) -> dict[str, Any]:
        """As in its owner's list: with the password, and with its own id."""
        number = hashlib.sha256(self.key.encode()).hexdigest()
        identity = f"{number[:8]}-2222-4333-8444-{number[8:20]}"
        return {
            **self.as_json(),
            "id": identity,
            "userId": USER,
            "description": None,
            "password": self.password,
        }


CANARY = Link(
    "CanaryKey_ofTheLab-7d1f4c0a9be2",
    slug="canary-slug-of-the-lab",
    password="canary password of the lab",  # noqa: S106
    name="Canary album",
    ends="2099-01-01T00:00:00.000Z",
)

LINKS = (
    Link("labsharekey", slug="holiday"),
    Link("labupload", upload=True),
    Link("labsecret", password="open sesame"),  # noqa: S106
    Link("labexpired", expired=True, ends="2026-01-01T00:00:00.000Z"),
    Link("labhostile", name="<script>document.documentElement.dataset.smuggled = 'yes'</script>"),
    CANARY,
)
PAGE_SCRIPT = "document.documentElement.dataset.started = 'yes'"


def find_link(key: str | None, slug: str | None) -> Link | None:
    """The valid link with this key or slug."""
    found = (link for link in LINKS if (key and link.key == key) or (slug and link.slug == slug))
    return next((link for link in found if not link.expired), None)


def _pixel() -> bytes:
    """A PNG of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0\x80"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


PIXEL = _pixel()
ORIGINAL = bytes(range(256)) * 16


class Fault(Exception):
    """A 4xx answer, worded as Immich does."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


ERROR_NAMES = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}


def listen_address(host: str, port: int) -> tuple[AddressFamily, str]:
    """Where Node listens: only on the first address of a name, so on ``::1`` for localhost."""
    found = getaddrinfo(host, port, type=SOCK_STREAM, flags=AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, str(address[0])


class Stub(ThreadingHTTPServer):
    """The server; ``folder`` holds the record and the control files."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, folder: Path) -> None:
        self.address_family, address = listen_address(host, port)
        self.folder = folder
        self.checksums: set[str] = set()
        self._recording = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__((address, port), Handler)

    @property
    def initialized(self) -> bool:
        """Whether an admin exists."""
        return not (self.folder / "uninitialized").exists()

    def record(self, entry: dict[str, Any]) -> None:
        """Append one request; world-readable, whatever the unit's umask."""
        with self._recording, (self.folder / "requests.jsonl").open("a") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(json.dumps(entry) + "\n")


class Handler(BaseHTTPRequestHandler):
    """One connection. The routes are the table ROUTES below."""

    protocol_version = "HTTP/1.1"
    server_version = "immich-stub"
    sys_version = ""
    server: Stub

    def handle_request_line(self) -> None:
        """Answer one request of any method."""
        self.body, self.body_size = b"", 0
        # Not self.path: Python strips all but one of its leading slashes.
        self.target = self.requestline.split(" ")[1]
        self.query = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        try:
            self._read_body()
            self._route()
        except Fault as fault:
            self._fault(fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_request_line

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the record has everything, and the journal should contain no share keys."""

    def reply_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        self._send(status, "application/json; charset=utf-8", json.dumps(value).encode(), headers)

    def reply_page(self, title: str, status: int = 200) -> None:
        """Answer with the app's page, as for any path outside /api; the title is inserted unescaped."""
        text = (
            f'<!doctype html><html><head><title>{title}</title><meta property="og:title" content="{title}">'
        )
        text += (
            '<link rel="modulepreload" href="/_app/immutable/entry/start.lab.js"></head>'
            f"<body><h1>{title}</h1><p>The lab's stand-in for Immich.</p>"
            f"<script>{PAGE_SCRIPT}</script></body></html>"
        )
        self._send(status, "text/html; charset=utf-8", text.encode())

    def reply_file(self, data: bytes, kind: str) -> None:
        """Answer with a file, or with part of it if a range was requested (RFC 9110, 14.2)."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {"Accept-Ranges": "bytes", "Cache-Control": "private, max-age=86400"}
        if not wanted or int(wanted[1]) >= len(data):
            self._send(200, kind, data, headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(206, kind, data[first : last + 1], headers)

    def link(self) -> Link | None:
        """The request's link. Raises Fault if the given key or slug opens nothing."""
        key = (self.query.get("key") or [""])[0] or self.headers.get("x-immich-share-key", "")
        slug = (self.query.get("slug") or [""])[0] or self.headers.get("x-immich-share-slug", "")
        if not (key or slug):
            return None
        if found := find_link(key, slug):
            return found
        raise Fault(401, f"Invalid share {'key' if key else 'slug'}")

    def signed_in(self, right: str = "all") -> bool:
        """Whether the request carries a session or an API key, in any of the ways Immich supports.

        Raises Fault for a key without this permission, and for an unknown key.
        """
        cookies = SimpleCookie(self.headers.get("Cookie", ""))
        cookie = cookies["immich_access_token"].value if "immich_access_token" in cookies else ""
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        session_names = ("x-immich-user-token", "x-immich-session-token")
        sessions = [cookie, bearer, *(self.headers.get(name, "") for name in session_names)]
        sessions += self.query.get("sessionKey", [])
        keys = [self.headers.get("x-api-key", ""), *self.query.get("apiKey", [])]
        if SESSION in sessions:
            return True
        key = next((key for key in keys if key), None)
        if key is None:
            return False
        if key not in API_KEYS:
            raise Fault(401, "Invalid API key")
        if right not in API_KEYS[key] and "all" not in API_KEYS[key]:
            raise Fault(403, f"Missing required permission: {right}")
        return True

    def require_user(self, right: str = "all") -> None:
        """Raise Fault unless a permitted user is signed in: 403 with a link, 401 without anything."""
        if self.link():
            raise Fault(403, "Forbidden")
        if not self.signed_in(right):
            raise Fault(401, "Authentication required")

    def require_link_or_user(self) -> Link | None:
        """The link (it precedes a session), or None for a user. Raises Fault if there is neither."""
        found = self.link()
        if not found and not self.signed_in():
            raise Fault(401, "Authentication required")
        return found

    def require_asset(self, asset: str) -> None:
        """Raise Fault if the asset does not exist or is not in the request's link."""
        allowed = ASSETS if self.require_link_or_user() else (*ASSETS, PRIVATE_ASSET)
        if asset not in allowed:
            raise Fault(400, "Not found or no asset.read access")

    def body_json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises Fault for anything else."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as error:
            raise Fault(400, "The body is not JSON") from error
        if not isinstance(value, dict):
            raise Fault(400, "The body is not an object")
        return value

    def _route(self) -> None:
        path = self.target.partition("?")[0]
        if "//" in path or "/../" in path + "/":
            raise Fault(404, f"Cannot {self.command} {path}")
        if re.search(r"\.\.%2f", path, re.IGNORECASE):
            raise Fault(400, "Bad Request")
        # Like the real router: case does not matter, nor does a trailing slash.
        plain = unquote(path).lower().rstrip("/") or "/"
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, answer in ROUTES:
            if wanted == method and (found := re.fullmatch(pattern, plain)):
                answer(self, *found.groups())
                return
        if plain.startswith("/api/") or method != "GET":
            raise Fault(404, f"Cannot {self.command} {path}")
        self.reply_page("Immich")

    def _read_body(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self._take(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            self._take(int(self.headers.get("Content-Length", 0)))

    def _take(self, size: int) -> None:
        while size:
            part = self.rfile.read(min(size, 1 << 20))
            if not part:
                raise Fault(400, "The body ended early")
            size -= len(part)
            self.body_size += len(part)
            self.body += part[: RECORDED_BODY - len(self.body)]

    def _send(self, status: int, kind: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        self._record(status)  # first, so that the record is there once the answer arrives
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _fault(self, fault: Fault) -> None:
        name = ERROR_NAMES.get(fault.status, "Error")
        self.reply_json({"message": fault.message, "error": name, "statusCode": fault.status}, fault.status)

    def _record(self, status: int) -> None:
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            name = name.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self.server.record(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "method": self.command,
                "target": self.target,
                "headers": headers,
                "remote": self.client_address[0],
                "body_bytes": self.body_size,
                "body_base64": base64.b64encode(self.body).decode(),
                "status": status,
            }
        )

    def upgrade(self) -> None:
        """Become a WebSocket (RFC 6455) that echoes every message."""
        key = self.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest()).decode()
        self._record(101)
        self.send_response(101)
        for name, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        while (frame := _read_frame(self.rfile.read)) and frame[0] & 0x0F != 8:
            self.wfile.write(_frame(*frame))


def _read_frame(read: Callable[[int], bytes]) -> tuple[int, bytes] | None:
    """First byte and unmasked payload of the next frame; None at the end of the stream."""
    head = read(2)
    if len(head) < 2:
        return None
    size = head[1] & 0x7F
    if size >= 126:
        size = int.from_bytes(read(2 if size == 126 else 8), "big")
    mask = read(4) if head[1] & 0x80 else b"\0\0\0\0"
    return head[0], bytes(byte ^ mask[place % 4] for place, byte in enumerate(read(size)))


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    return bytes((first, 126)) + struct.pack(">H", size) + payload if size < 65536 else (
        bytes((first, 127)) + struct.pack(">Q", size) + payload
    )  # fmt: skip


def _config(handler: Handler) -> None:
    handler.reply_json(
        {
            "loginPageMessage": "",
            "trashDays": 30,
            "userDeleteDelay": 7,
            "oauthButtonText": "",
            "isInitialized": handler.server.initialized,
            "isOnboarded": handler.server.initialized,
            "externalDomain": "",
            "publicUsers": True,
            "mapDarkStyleUrl": "https://tiles.immich.cloud/v1/style/dark.json",
            "mapLightStyleUrl": "https://tiles.immich.cloud/v1/style/light.json",
            "maintenanceMode": False,
        }
    )


def _features(handler: Handler) -> None:
    names = ("passwordLogin", "map", "search", "sidecar", "trash", "reverseGeocoding")
    handler.reply_json(dict.fromkeys(names, True))


def _share_page(handler: Handler, key: str, _photo: str | None = None) -> None:
    given = handler.target.partition("?")[0].split("/")  # keys are case-sensitive, unlike paths
    found = (
        find_link(unquote(given[2]), None)
        if given[1].lower() == "share"
        else find_link(None, unquote(given[2]))
    )
    handler.reply_page(found.name if found else "Immich", 200 if found else 404)


def _link(handler: Handler) -> None:
    found = handler.require_link_or_user()
    if not found:
        raise Fault(403, "Forbidden")
    cookies = SimpleCookie(handler.headers.get("Cookie", ""))
    given = cookies[LINK_COOKIE].value.split("~") if LINK_COOKIE in cookies else []
    if found.password and found.token not in given:
        raise Fault(401, "Password required")
    handler.reply_json(found.as_json())


def _link_login(handler: Handler) -> None:
    found = handler.link()
    if not found:
        raise Fault(401, "Authentication required")
    if not found.password or handler.body_json().get("password") != found.password:
        raise Fault(401, "Invalid password")
    secure = "; Secure" if handler.headers.get("X-Forwarded-Proto") == "https" else ""
    cookie = f"{LINK_COOKIE}={found.token}; Max-Age=86400; Path=/; HttpOnly; SameSite=Lax{secure}"
    handler.reply_json(found.as_json(), 201, {"Set-Cookie": cookie})


def _buckets(handler: Handler) -> None:
    handler.require_link_or_user()
    handler.reply_json([{"timeBucket": "2026-07-01", "count": len(ASSETS)}])


def _bucket(handler: Handler) -> None:
    handler.require_link_or_user()
    handler.reply_json({"id": list(ASSETS), "isImage": [True] * len(ASSETS), "ratio": [1.0] * len(ASSETS)})


def _album(handler: Handler, album: str) -> None:
    handler.require_link_or_user()
    if album != ALBUM:
        raise Fault(400, "Not found or no album.read access")
    handler.reply_json({"id": ALBUM, "albumName": "Holiday", "assetCount": len(ASSETS), "assets": []})


def _map_markers(handler: Handler, album: str) -> None:
    handler.require_link_or_user()
    if album != ALBUM:
        raise Fault(400, "Not found or no album.read access")
    handler.reply_json([])


def _asset(handler: Handler, asset: str) -> None:
    handler.require_asset(asset)
    handler.reply_json({"id": asset, "type": "IMAGE", "originalFileName": "photo.png", "ownerId": USER})


def _thumbnail(handler: Handler, asset: str) -> None:
    handler.require_asset(asset)
    if asset == ASSETS[1]:  # not generated yet, which is common
        raise Fault(404, "Asset media not found")
    handler.reply_file(PIXEL, "image/png")


def _original(handler: Handler, asset: str) -> None:
    handler.require_asset(asset)
    handler.reply_file(ORIGINAL, "application/octet-stream")


def _stream(handler: Handler, asset: str, *_: str) -> None:
    handler.require_asset(asset)
    handler.reply_file(b"#EXTM3U\n", "application/vnd.apple.mpegurl")


def _end_stream(handler: Handler, asset: str, _session: str) -> None:
    handler.require_asset(asset)
    handler._send(204, "application/json", b"")


def _download_info(handler: Handler) -> None:
    handler.require_link_or_user()
    size = len(ORIGINAL) * len(ASSETS)
    handler.reply_json({"totalSize": size, "archives": [{"size": size, "assetIds": list(ASSETS)}]}, 201)


def _download_archive(handler: Handler) -> None:
    handler.require_link_or_user()
    handler.reply_file(b"PK\x05\x06" + b"\0" * 18, "application/octet-stream")


def _upload(handler: Handler) -> None:
    link = handler.require_link_or_user()
    checksum = handler.headers.get("x-immich-checksum", "")
    if checksum in handler.server.checksums:  # before checking what the link allows, like the real one
        handler.reply_json({"id": PRIVATE_ASSET, "status": "duplicate"}, 200)
        return
    if link and not link.upload:
        raise Fault(401, "Unauthorized")
    digest = hashlib.sha1(handler.body, usedforsecurity=False).hexdigest()
    duplicate = digest in handler.server.checksums
    handler.server.checksums.add(digest)
    answer = {"id": ASSETS[0], "status": "duplicate" if duplicate else "created"}
    handler.reply_json(answer, 200 if duplicate else 201)


def _me(handler: Handler) -> None:
    handler.require_user()
    handler.reply_json({"id": USER, "email": EMAIL, "name": "Lab", "isAdmin": True})


def _login(handler: Handler) -> None:
    given = handler.body_json()
    if (given.get("email"), given.get("password")) != (EMAIL, PASSWORD):
        raise Fault(401, "Incorrect email or password")
    cookie = f"immich_access_token={SESSION}; Path=/; HttpOnly; SameSite=Lax"
    answer = {"accessToken": SESSION, "userId": USER, "userEmail": EMAIL, "name": "Lab", "isAdmin": True}
    handler.reply_json(answer, 201, {"Set-Cookie": cookie})


def _sign_up(handler: Handler) -> None:
    if handler.server.initialized:
        raise Fault(400, "The server already has an admin")
    handler.reply_json({"id": USER, "email": EMAIL, "isAdmin": True}, 201)


def _for_users(handler: Handler, *_: str) -> None:
    handler.require_user()
    handler.reply_json([], 201 if handler.command == "POST" else 200)


def _links(handler: Handler) -> None:
    handler.require_user("sharedLink.read")
    handler.reply_json([link.listed() for link in LINKS])


def _my_key(handler: Handler) -> None:
    """Every key may request this about itself; a session has no key."""
    key = handler.headers.get("x-api-key", "")
    if key not in API_KEYS:
        handler.require_user()
        raise Fault(403, "Not authenticated with API Key")
    handler.reply_json({"id": USER, "name": "lab", "permissions": list(API_KEYS[key])})


def _socket(handler: Handler) -> None:
    if handler.headers.get("Upgrade", "").lower() == "websocket":
        handler.upgrade()
    else:
        handler._send(200, "text/plain; charset=UTF-8", b'0{"sid":"lab","upgrades":["websocket"]}')


def _json(value: object) -> Callable[..., None]:
    return lambda handler, *_: handler.reply_json(value)


def _file(data: bytes, kind: str) -> Callable[..., None]:
    return lambda handler, *_: handler.reply_file(data, kind)


ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", "/api/server/ping", _json({"res": "pong"})),
    ("GET", "/api/server/version", _json(dict(zip(("major", "minor", "patch"), VERSION, strict=True)))),
    ("GET", "/api/server/config", _config),
    ("GET", "/api/server/features", _features),
    (
        "GET",
        "/api/server/media-types",
        _json({"image": [".jpg", ".png"], "sidecar": [".xmp"], "video": [".mp4"]}),
    ),
    ("GET", "/api/server/about", _for_users),
    ("GET", "/.well-known/immich", _json({"api": {"endpoint": "/api"}})),
    ("GET", f"/share/([^/]+)(?:/photos/{ID})?", _share_page),
    ("GET", f"/s/([^/]+)(?:/photos/{ID})?", _share_page),
    ("GET", r"/_app/version\.json", _json({"version": "lab"})),
    ("GET", "/_app/immutable/.+", _file(b"export const lab = true;\n", "text/javascript")),
    ("GET", r"/service-worker\.js", _file(b"", "text/javascript")),
    ("GET", r"/custom\.css", _file(b"", "text/css")),
    ("GET", r"/manifest\.json", _json({"name": "Immich"})),
    ("GET", r"/robots\.txt", _file(b"User-agent: *\nDisallow: /\n", "text/plain")),
    ("GET", r"/[a-z0-9_-]+\.(?:png|ico)", _file(PIXEL, "image/png")),
    ("GET", "/api/shared-links/me", _link),
    ("POST", "/api/shared-links/login", _link_login),
    ("GET", "/api/shared-links", _links),
    ("GET", "/api/api-keys/me", _my_key),
    ("POST", "/api/shared-links", _for_users),
    ("GET", "/api/timeline/buckets", _buckets),
    ("GET", "/api/timeline/bucket", _bucket),
    ("GET", f"/api/albums/{ID}/map-markers", _map_markers),
    ("GET", f"/api/albums/{ID}", _album),
    ("GET", "/api/albums", _for_users),
    ("GET", "/api/assets/statistics", _for_users),
    ("POST", "/api/assets/jobs", _for_users),
    ("GET", f"/api/assets/{ID}/thumbnail", _thumbnail),
    ("GET", f"/api/assets/{ID}/original", _original),
    ("GET", f"/api/assets/{ID}/video/playback", _original),
    ("GET", rf"/api/assets/{ID}/video/stream/main\.m3u8", _stream),
    ("GET", rf"/api/assets/{ID}/video/stream/{ID}/(\d+)/([^/]+)", _stream),
    ("DELETE", f"/api/assets/{ID}/video/stream/{ID}", _end_stream),
    ("GET", f"/api/assets/{ID}", _asset),
    ("POST", "/api/assets", _upload),
    ("POST", "/api/download/info", _download_info),
    ("POST", "/api/download/archive", _download_archive),
    ("GET", "/api/users/me", _me),
    ("GET", "/api/users", _for_users),
    ("GET", "/api/people", _for_users),
    ("POST", "/api/search/metadata", _for_users),
    ("POST", "/api/auth/login", _login),
    ("POST", "/api/auth/admin-sign-up", _sign_up),
    ("POST", "/api/auth/validatetoken", _json({"authStatus": True})),
    ("GET", "/api/socket.io", _socket),
)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="Stand-in for Immich on the lab's server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=2283)
    parser.add_argument("--record", type=Path, default=Path("/var/lib/immich-stub"), metavar="FOLDER")
    options = parser.parse_args()
    with Stub(options.host, options.port, options.record) as stub:
        stub.serve_forever()


if __name__ == "__main__":
    main()
