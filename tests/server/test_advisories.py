"""One raw request for each advisory of server/versions.json that touches the edge, named after it.

The built Caddy is newer than every one of them; what is shown here is that our own guards hold as well.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from components.surface.supported_versions import load
from tests.server.conftest import EdgeMaker
from tests.server.edge import FORBIDDEN, Edge
from tests.server.visitor import DOMAIN, Answer, ConnectionDroppedError
from tests.server.waiting import HarnessError

pytestmark = pytest.mark.server

KEY = "k3y_Of-a-Link"


def raw(edge: Edge, target: str, headers: str = "") -> Answer:
    """Send one request, byte for byte, from a new address."""
    with edge.connect(edge.new_address()) as connection:
        return connection.send(f"GET {target} HTTP/1.1\r\nHost: {DOMAIN}\r\n{headers}\r\n".encode("latin-1"))


def assert_refused(answer: Answer) -> None:
    """Every refusal is the same."""
    assert (answer.status, answer.body) == (403, FORBIDDEN)


def ghsa_4xrr_hq4w_6vf4(edge: Edge, make_edge: EdgeMaker) -> None:
    """Globs and backslashes in what the file matcher looks up: devices and bans are found by name alone."""
    banned, stray = edge.new_address(), edge.state / "devices" / "x"
    edge.ban_file("scan", banned).touch()
    stray.touch()
    try:
        for text in ("*", "\\*", "[0-9a-f]*", "?" * 64, "{a,b}*", "..\\*"):
            answer = raw(edge, f"/api/users/{text}", f"X-Forwarded-For: {text}\r\n")
            assert_refused(answer)
        assert edge.ask("/share/x").status == 200, "a ban of one address is nobody else's"
        with pytest.raises(ConnectionDroppedError):
            edge.ask("/share/x", address=banned)
    finally:
        stray.unlink()


def expanded_twice(edge: Edge, make_edge: EdgeMaker) -> None:
    """Placeholder-shaped text in what vars_regexp matches: refused in a path, never expanded in a query."""
    for text in ("{env.HOME}", "{file./etc/passwd}", "{http.request.uri}", "{http.vars.x}"):
        assert_refused(raw(edge, f"/s/{text}"))
        assert_refused(raw(edge, f"/share/{text}?key={KEY}"))
        edge.backend.received.clear()
        target = f"/api/shared-links/me?slug={text}"
        raw(edge, target, f"X-Probe: {text}\r\nCookie: immich_shared_link_token={text}\r\n")
        assert edge.backend.targets() in ([target], [])
        assert str(edge.folder) not in str(edge.backend.received)
        assert all(
            each.headers["cookie"] == [f"immich_shared_link_token={text}"] for each in edge.backend.received
        )


def ghsa_g7pc_pc7g_h8jh(edge: Edge, make_edge: EdgeMaker) -> None:
    """Letter case and escapes together: the list matches the target as it was sent."""
    for target in ("/API/users%2Fme", "/Share/x", "/share%2Fx", "/%53hare/x", "/api/Server/config", "/S/x"):
        assert_refused(raw(edge, target))
    assert edge.backend.targets() == []


def cve_2026_27586(edge: Edge, make_edge: EdgeMaker) -> None:
    """A trust pool that cannot be read: no start. One without a certificate: nobody is trusted."""
    broken = make_edge(start=False)
    (broken.state / "device-ca.crt").unlink()
    with pytest.raises(HarnessError, match="Caddy ended by itself"):
        broken.start()
    (broken.state / "device-ca.crt").write_text("no certificate\n")
    broken.start()
    assert_refused(broken.ask("/api/users/me", identity=broken.device("phone")))
    assert_refused(broken.ask("/api/users/me"))


def tailscale_20739(edge: Edge, make_edge: EdgeMaker) -> None:
    """A funnel that does not pass the PROXY line on: the line is required, nobody counts as this machine."""
    with pytest.raises(OSError):
        connection = edge.dial(b"")
        with connection, edge.tls_context().wrap_socket(connection, server_hostname=DOMAIN) as tls:
            tls.sendall(f"GET /share/x HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
            assert tls.recv(1) == b""
            raise ConnectionResetError
    assert edge.backend.targets() == []


def cve_2026_40096(edge: Edge, make_edge: EdgeMaker) -> None:
    """A redirect in the page cannot be mended here; no script in it runs, and no other site frames it."""
    edge.backend.answers["GET", f"/share/{KEY}"] = (
        200,
        {"Content-Security-Policy": "img-src *", "Content-Type": "text/html"},
    )
    answer = raw(edge, f"/share/{KEY}")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "script-src 'self' 'wasm-unsafe-eval'; " in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer", "the key stays out of the other site's log"


def ghsa_78x4_6x83_jx75(edge: Edge, make_edge: EdgeMaker) -> None:
    """A link's password in the address, as old pages send it: refused, and not in the log."""
    address = edge.new_address()
    target = "/api/shared-links/me?password=Th3-Passw0rd&slug=private"
    assert_refused(edge.ask(target, address=address))
    assert edge.backend.targets() == []
    edge.entries_of(address)
    assert "Th3-Passw0rd" not in edge.log_text()


REQUESTS: dict[str, Callable[[Edge, EdgeMaker], None]] = {
    "GHSA-4xrr-hq4w-6vf4": ghsa_4xrr_hq4w_6vf4,
    "GHSA-m2w3-8f23-hxxf": expanded_twice,
    "GHSA-wwhq-w58m-w29c": expanded_twice,
    "GHSA-g7pc-pc7g-h8jh": ghsa_g7pc_pc7g_h8jh,
    "CVE-2026-27586": cve_2026_27586,
    "tailscale/tailscale#20739": tailscale_20739,
    "CVE-2026-40096": cve_2026_40096,
    "GHSA-78x4-6x83-jx75": ghsa_78x4_6x83_jx75,
}


@pytest.mark.parametrize("advisory", REQUESTS)
def test_our_own_guard_holds(edge: Edge, make_edge: EdgeMaker, advisory: str) -> None:
    REQUESTS[advisory](edge, make_edge)


def test_each_advisory_has_its_request() -> None:
    """What is no advisory names a release instead, such as `caddyserver/caddy v2.11.9, go.mod`."""
    named = {reason.id for floor in load().values() for reason in floor.advisories}
    assert {each for each in named if " v" not in each} == set(REQUESTS)
