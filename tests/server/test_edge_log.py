"""The access log: enough for fail2ban and the owner, no secret of anybody."""

from __future__ import annotations

import stat

import pytest

from tests.server.certificates import Identity
from tests.server.edge import Edge
from tests.server.visitor import ConnectionDroppedError
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

SECRET = "S3cretOfAVisitor"
SECRETS_IN_REQUESTS = (
    f"/share/{SECRET}",
    f"/share/{SECRET}/photos/0a1b2c3d-0000-4000-8000-0123456789ab",
    f"/share/{SECRET}?x=1",
    f"/Share/{SECRET}",
    f"//share//{SECRET}",
    f"/s/{SECRET}",
    f"/s/my%20{SECRET}",
    f"/api/shared-links/me?key={SECRET}",
    f"/api/shared-links/me?slug={SECRET}/{SECRET}",
    f"/api/shared-links/me?slug=a?{SECRET}",
    f"/api/shared-links/me?slug=x&password={SECRET}",
    f"/api/shared-links/me?slug=x&password=a={SECRET}",
    f"/api/shared-links/me?k%65y={SECRET}",
    f"/api/shared-links/me?apiKey={SECRET}&key=x",
    f"/api/unknown?token={SECRET}",
    f"https://immich.edge-tailnet.ts.net/share/{SECRET}",
    f"/s/a&{SECRET}",
    f"/x&key={SECRET}",
    f"/api/shared-links/me?a=b&key={SECRET}/s/{SECRET}",
    f"/api/shared-links/me?/share/{SECRET}",
    f"/s/share/{SECRET}",
    f"/share%2f{SECRET}",
    f"/share:{SECRET}",
    f"/share?{SECRET}",
    f"/share/./{SECRET}",
    f"/https%3A%2F%2Fimmich.edge-tailnet.ts.net%2Fshare%2F{SECRET}",
    f"/api/shared-links/me%3Fkey={SECRET}",
    f"/api/shared-links/me;key%3D{SECRET}",
)
SECRET_HEADERS = [
    ("Cookie", f"immich_shared_link_token={SECRET}"),
    ("Authorization", f"Bearer {SECRET}"),
    ("x-api-key", SECRET),
    ("x-immich-share-key", SECRET),
    ("Referer", f"https://immich.edge-tailnet.ts.net/share/{SECRET}"),
    ("X-Anything", SECRET),
]


def test_no_secret_gets_into_the_journal(edge: Edge) -> None:
    """What Caddy says apart from the access log: about answers that broke off."""
    edge.backend.answers["GET", f"/share/{SECRET}"] = (200, {"Content-Length": "1000"})
    with pytest.raises(ConnectionDroppedError):
        edge.ask(f"/share/{SECRET}", headers=SECRET_HEADERS)
    said = "aborting with incomplete response"
    wait_until(lambda: said in edge.journal.read_text(), f"Caddy says {said}")
    assert SECRET not in edge.journal.read_text()


def test_another_host_is_in_the_log_without_secrets(edge: Edge) -> None:
    address = edge.new_address()
    with edge.connect(address) as connection:
        connection.ask(f"/share/{SECRET}?key={SECRET}", host="other.example", headers=SECRET_HEADERS)
    [entry] = edge.entries_of(address)
    assert (entry["request"]["host"], entry["verdict"]) == ("other.example", "scan")
    assert SECRET not in str(entry)


def test_no_secret_gets_into_the_log(edge: Edge, phone: Identity) -> None:
    edge.backend.answers["GET", "/api/shared-links/me"] = (
        302,
        {
            "Location": f"/api/assets/x/original?key={SECRET}",
            "Set-Cookie": f"immich_shared_link_token={SECRET}",
        },
    )
    for identity in (None, phone):
        for target in SECRETS_IN_REQUESTS:
            address = edge.new_address()
            edge.ask(target, address=address, identity=identity, headers=SECRET_HEADERS)
            edge.ask(target, "POST", address=address, identity=identity, body=SECRET.encode())
            edge.entries_of(address, count=2)
    assert SECRET not in edge.log_text()
    assert SECRET not in edge.journal.read_text()


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        ("/share/abc", "anon"),
        ("/api/server/config", "anon"),
        ("/api/shared-links/me?key=abc", "anon"),
        ("/", "quiet"),
        ("/api/users/me", "quiet"),
        ("/api/shared-links/me?key=", "quiet"),
        ("/api/socket.io/?EIO=4", "quiet"),
        ("/.well-known/immich", "quiet"),
        ("/apple-touch-icon.png", "quiet"),
        ("/photos", "quiet"),
        ("/auth/login", "quiet"),
        ("/api/shared-links/me?key=a&password=b", "quiet"),
        ("/wp-login.php", "scan"),
        ("/.env", "scan"),
        ("/.git/config", "scan"),
        ("/api/v1/pods", "scan"),
        ("/share/../api/users/me", "quiet"),
        ("/s/%c0%ae", "quiet"),
        ("/_app/env.mjs", "quiet"),
        ("/maintenance", "quiet"),
        ("/login", "quiet"),
        ("/ads.txt", "quiet"),
        ("/security.txt", "quiet"),
        ("/api", "quiet"),
        ("/s/", "quiet"),
        ("/workflows/x", "quiet"),
        ("/admin/users", "quiet"),
        ("/%c0%ae", "scan"),
    ],
)
def test_each_request_gets_its_verdict(edge: Edge, target: str, verdict: str) -> None:
    address = edge.new_address()
    edge.ask(target, address=address, headers=[("User-Agent", "Visitor/1.0")])
    [entry] = edge.entries_of(address)
    assert entry["verdict"] == verdict
    assert entry["user_agent"] == "Visitor/1.0"
    assert "headers" not in entry["request"] and "resp_headers" not in entry


def test_the_target_is_in_the_log_apart_from_its_secrets(edge: Edge) -> None:
    address = edge.new_address()
    edge.ask(f"/share/{SECRET}/photos/1?page=2&flag&key={SECRET}", address=address)
    [entry] = edge.entries_of(address)
    assert entry["request"]["uri"] == "/share/REDACTED/photos/REDACTED?page=REDACTED&REDACTED&key=REDACTED"


def test_devices_are_logged_as_devices(edge: Edge, phone: Identity) -> None:
    address = edge.new_address()
    edge.ask("/wp-login.php", address=address, identity=phone)
    [entry] = edge.entries_of(address)
    assert entry["verdict"] == "device"
    assert entry["request"]["tls"]["client_common_name"] == "phone"


def test_the_log_is_for_its_owner_and_group(edge: Edge) -> None:
    edge.ask("/")
    files = sorted(edge.logs.glob("*.log"))
    assert [path.name for path in files] == ["access.log", "devices.log", "offences.log"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}
