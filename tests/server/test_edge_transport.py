"""The way in: PROXY line, TLS, names, protocols, and the headers of every answer."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from components.remote.remote_script import SERVER_FILES
from tests.server.certificates import Identity
from tests.server.conftest import EdgeMaker
from tests.server.edge import FORBIDDEN, Edge, caddy_user
from tests.server.visitor import DOMAIN, Connection, ConnectionDroppedError

pytestmark = pytest.mark.server


def is_closed_unanswered(edge: Edge, first: bytes) -> bool:
    """Tell whether the edge ends a bare connection that begins with `first` without a byte of TLS or HTTP."""
    with edge.dial(first) as connection:
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.mark.parametrize(
    "first",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        b"GET / HTTP/1.1\r\nHost: " + DOMAIN.encode() + b"\r\n\r\n",
        b"PROXY TCP4 not-an-address 203.0.113.1 40000 443\r\n",
        b"PROXY TCP4 192.0.2.1\r\n",
    ],
)
def test_the_proxy_line_is_required(edge: Edge, first: bytes) -> None:
    assert is_closed_unanswered(edge, first)


SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
VISITOR = socket.inet_aton("198.51.9.77")
ADDRESSES = VISITOR + socket.inet_aton("203.0.113.1") + struct.pack("!HH", 40000, 443)


def proxy_header(body: bytes, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    """Return a PROXY header of version 2; `length` is what it says, if that is not true."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


def tlv(kind: int, value: bytes, *, length: int | None = None) -> bytes:
    """Return a field of such a header."""
    return struct.pack("!BH", kind, len(value) if length is None else length) + value


def statuses_behind(edge: Edge, first: bytes) -> list[int]:
    """Ask twice over one connection that begins with `first`; no answer where the edge closes it."""
    plain = edge.dial(first)
    try:
        with Connection(edge.tls_context().wrap_socket(plain, server_hostname=DOMAIN)) as visitor:
            return [visitor.ask("/share/abc").status, visitor.ask("/").status]
    except (OSError, ConnectionDroppedError):
        plain.close()
        return []


FIELDS = {
    "none": b"",
    "padding": tlv(0x04, bytes(50)),
    "unknown fields": b"".join(tlv(kind, b"x" * kind) for kind in (0x06, 0x30, 0xE0, 0xEF, 0xF0, 0xFF)),
    "a wrong checksum": tlv(0x03, b"\xde\xad\xbe\xef"),
    "a checksum that is too short": tlv(0x03, b"\xde"),
    "what AWS and Azure add": tlv(0xEA, b"\x01vpce-0123456789") + tlv(0xEE, b"\x01\0\0\0\0"),
    "TLS of a proxy before it": tlv(0x20, b"\x07\0\0\0\0" + tlv(0x22, b"admin") + tlv(0x21, b"TLSv1.3")),
    "another name of the host": tlv(0x02, b"other.example") + tlv(0x01, b"h2"),
    "an address": tlv(0x05, b"\x7f\0\0\x01"),
    "as long as a header may be": tlv(0x04, bytes(4096 - len(ADDRESSES) - 3)),
    "a field that is longer than the header": tlv(0x04, b"x", length=65_535),
    "half a field": b"\x04\0",
}


@pytest.mark.parametrize("what", FIELDS)
def test_fields_of_a_proxy_header_change_nothing(edge: Edge, what: str) -> None:
    assert statuses_behind(edge, proxy_header(ADDRESSES + FIELDS[what])) == [200, 403]
    lines = edge.entries_of("198.51.9.77", 2)
    assert [line["verdict"] for line in lines[-2:]] == ["anon", "quiet"]


UNIX = b"/run/x".ljust(108, b"\0") * 2
NO_VISITOR = {
    "v1, unknown": b"PROXY UNKNOWN\r\n",
    "v1, unknown with addresses": b"PROXY UNKNOWN 198.51.9.77 203.0.113.1 40000 443\r\n",
    "v2, the proxy's own": proxy_header(b"", command=0x20, family=0x00),
    "v2, the proxy's own, with addresses": proxy_header(ADDRESSES, command=0x20),
    "v2, the proxy's own, with fields": proxy_header(tlv(0x04, bytes(9)), command=0x20, family=0x00),
    "v2, no family": proxy_header(tlv(0x04, bytes(9)), family=0x00),
    "v2, a path": proxy_header(UNIX, family=0x31),
    "v2, a family that does not exist": proxy_header(ADDRESSES, family=0x13),
    "v2, a command that does not exist": proxy_header(ADDRESSES, command=0x22),
    "v3": proxy_header(ADDRESSES, command=0x31),
    "shorter than its addresses": proxy_header(ADDRESSES[:8]),
    "a length without addresses": proxy_header(ADDRESSES, length=0),
    "IPv6 in the room of IPv4": proxy_header(ADDRESSES, family=0x21),
    "longer than any header": proxy_header(ADDRESSES + tlv(0x04, bytes(60_000))),
}


@pytest.mark.parametrize("what", NO_VISITOR)
def test_nobody_gets_in_whose_address_no_header_names(edge: Edge, what: str) -> None:
    """Otherwise all of them would be one visitor, 127.0.0.1, whom no ban reaches."""
    assert statuses_behind(edge, NO_VISITOR[what]) == []
    assert edge.ask("/share/abc").status == 200, "the others go on"


def test_a_header_that_never_ends_is_not_waited_for(edge: Edge) -> None:
    began = time.monotonic()
    with edge.dial(proxy_header(ADDRESSES, length=4_000)) as connection:
        assert connection.recv(1) == b""
    assert time.monotonic() - began < 6


def test_a_second_proxy_line_changes_nothing(edge: Edge) -> None:
    two = b"PROXY TCP4 192.0.2.1 203.0.113.1 1 443\r\nPROXY TCP4 127.0.0.1 203.0.113.1 1 443\r\n"
    with edge.dial(two) as connection:
        assert b"HTTP/1.1 200" not in connection.recv(64)


def test_a_wrong_host_is_refused_like_all_else(edge: Edge, phone: Identity) -> None:
    """Not by Caddy's own 421, which says who answers; a device is no exception."""
    for host in ("other.example", "127.0.0.1", DOMAIN + "."):
        for identity in (None, phone):
            with edge.connect(edge.new_address(), identity) as connection:
                answer = connection.ask("/share/abc", host=host)
                assert (answer.status, answer.body) == (403, FORBIDDEN)
    assert edge.backend.received == []
    with edge.connect(edge.new_address()) as connection:
        assert connection.ask("/share/abc", host=f"{DOMAIN}:443").status == 200


@pytest.mark.parametrize("server_name", ["other.example", None])
def test_a_wrong_name_gets_no_handshake(edge: Edge, server_name: str | None) -> None:
    with pytest.raises(ConnectionDroppedError, match="alert"):
        edge.connect(edge.new_address(), server_name=server_name)


def test_http2_is_spoken_and_http3_not_offered(edge: Edge) -> None:
    with edge.connect(edge.new_address(), protocols=["h3", "h2", "http/1.1"]) as connection:
        assert connection.tls.selected_alpn_protocol() == "h2"
    for target in ("/share/abc", "/"):
        assert "alt-svc" not in edge.ask(target).headers


def test_http2_answers_alike(edge: Edge) -> None:
    curl = shutil.which("curl")
    assert curl is not None, "curl is missing: install it (make setup does it)."
    place = ["--resolve", f"{DOMAIN}:{edge.port}:127.0.0.1", "--haproxy-protocol", "--http2", "--insecure"]
    for target, expected in (
        ("/", "403 2"),
        ("/api/server/config", "200 2"),
        ("/api/shared-links/me?key=", "403 2"),
    ):
        done = subprocess.run(
            [curl, "--silent", "--output", "/dev/null", "--write-out", "%{http_code} %{http_version}", *place]
            + [f"https://{DOMAIN}:{edge.port}{target}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == expected


def listeners(pid: int) -> set[str]:
    """Return the sockets a process listens on, in the kernel's hex form: `tcp 0100007F:20FB`."""
    own = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            columns = line.split()
            listening = columns[3] == "0A" if protocol.startswith("tcp") else True
            if listening and f"socket:[{columns[9]}]" in own:
                found.add(f"{protocol} {columns[1]}")
    return found


def test_the_only_listener_is_tcp_on_loopback(edge: Edge) -> None:
    assert listeners(edge.pid) == {f"tcp 0100007F:{edge.port:04X}"}


def test_caddy_runs_without_rights(edge: Edge) -> None:
    """The permission tests mean nothing when Caddy is root."""
    user = caddy_user()
    expected = os.geteuid() if user is None else pwd.getpwnam(user).pw_uid
    assert Path(f"/proc/{edge.pid}").stat().st_uid == expected != 0


def test_long_headers_are_refused(edge: Edge) -> None:
    address = edge.new_address()
    assert edge.ask("/share/abc", address=address, headers=[("X-Long", "x" * 8_000)]).status == 200
    assert edge.ask("/share/abc", address=address, headers=[("X-Long", "x" * 32_000)]).status == 431


def test_every_answer_has_the_protective_headers(edge: Edge, phone: Identity) -> None:
    wanted = {
        "strict-transport-security": "max-age=31536000",
        "x-content-type-options": "nosniff",
        "x-robots-tag": "noindex, nofollow",
        "referrer-policy": "no-referrer",
    }
    edge.backend.answers["GET", "/share/abc"] = (
        200,
        {"X-Robots-Tag": "all", "Referrer-Policy": "unsafe-url"},
    )
    for answer in (edge.ask("/share/abc"), edge.ask("/"), edge.ask("/api/users/me", identity=phone)):
        assert {name: answer.headers.get(name) for name in wanted} == wanted
        assert "server" not in answer.headers and "via" not in answer.headers


def test_a_dead_immich_is_a_plain_json_error(make_edge: EdgeMaker) -> None:
    edge = make_edge()
    edge.backend.stop()
    answer = edge.ask(
        "/share/SecretKeyOfALink?password=secret", headers=[("Cookie", "immich_shared_link_token=secret")]
    )
    assert answer.status == 403, "a password in the query is not passed on"
    answer = edge.ask("/share/SecretKeyOfALink", headers=[("Cookie", "immich_shared_link_token=secret")])
    assert (answer.status, json.loads(answer.body)) == (502, {"status": 502, "message": "Bad Gateway"})
    assert answer.headers["x-robots-tag"] == "noindex, nofollow"
    assert "SecretKeyOfALink" not in edge.journal.read_text()
    assert "secret" not in edge.journal.read_text()


def adapted(edge: Edge, caddyfile: Path) -> dict[str, Any]:
    """Return what Caddy makes of a Caddyfile."""
    done = edge.run_caddy("adapt", "--config", str(caddyfile), "--adapter", "caddyfile")
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def test_the_guards_survive_adaptation(edge: Edge) -> None:
    """A `servers` block with an address would be dropped silently; only the adapted JSON shows it."""
    [server] = adapted(edge, edge.folder / "Caddyfile")["apps"]["http"]["servers"].values()
    assert server["listen"] == [f"127.0.0.1:{edge.port}"]
    assert server["protocols"] == ["h1", "h2"]
    assert server["strict_sni_host"] is True
    assert "trusted_proxies" not in server
    wrappers = server["listener_wrappers"]
    assert [wrapper["wrapper"] for wrapper in wrappers] == [
        "proxy_protocol",
        "few_connections",
        "bounded_handshakes",
        "tls",
        "early_handshakes",
    ]
    assert wrappers[0]["fallback_policy"] == "REQUIRE" and "allow" not in wrappers[0]
    assert server["read_header_timeout"] and server["idle_timeout"] and server["max_header_bytes"]
    [ours, any_other_name] = server["tls_connection_policies"]
    assert ours["match"] == {"sni": [DOMAIN]}
    assert ours["client_authentication"]["mode"] == "request"
    assert any_other_name == {}, "no certificate is meant for another name"


def test_the_caddyfile_needs_no_environment(edge: Edge, caddy_program: Path, tmp_path: Path) -> None:
    copy = tmp_path / "Caddyfile"
    copy.write_text((SERVER_FILES / "Caddyfile").read_text())
    done = subprocess.run(
        [caddy_program, "adapt", "--config", copy],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    [server] = config["apps"]["http"]["servers"].values()
    assert server["listen"] == ["127.0.0.1:8443"]
    assert config["admin"]["listen"] == "unix//run/immich-edge/admin.sock"
    assert "/var/lib/immich-exposure/devices" in done.stdout


def test_a_wrong_value_of_uploads_is_refused(make_edge: EdgeMaker) -> None:
    edge = make_edge(uploads="maybe", start=False)
    done = edge.run_caddy("adapt", "--config", "Caddyfile")
    assert done.returncode != 0 and "the feature uploads is on or off" in done.stderr


def test_the_caddyfile_is_formatted(edge: Edge) -> None:
    done = edge.run_caddy("fmt", "--diff", "Caddyfile")
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line[:1] in "+-" and line] == []


def test_a_websocket_of_a_device_survives_a_reload(make_edge: EdgeMaker) -> None:
    edge = make_edge()
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    with edge.connect(edge.new_address(), edge.device("phone")) as connection:
        assert connection.ask("/api/socket.io/", headers=upgrade).status == 101
        edge.reload()
        connection.tls.sendall(b"still there?")
        assert connection.tls.recv(64) == b"still there?"


def test_a_forced_reload_reads_a_renewed_certificate(make_edge: EdgeMaker) -> None:
    edge = make_edge()
    before = edge.connect(edge.new_address())
    first = before.tls.getpeercert(binary_form=True)
    edge.renew_server_certificate()
    edge.reload()
    with edge.connect(edge.new_address()) as after:
        assert after.tls.getpeercert(binary_form=True) != first
        assert after.ask("/").body == FORBIDDEN
    before.tls.close()
