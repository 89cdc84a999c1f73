"""Frames: what a secret header opens, and what it does not.

A right one reads what surface.toml lists for frames and nothing else, until it is revoked, also behind an
address that is banned. A wrong one is an offence. Anything that only looks like one is nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from components.exposure_check import FRAME, NOBODYS_SECRET
from components.remote.remote_script import SERVER_FILES
from components.surface.table import immich_operations, load
from tests.server.conftest import EdgeMaker
from tests.server.edge import FORBIDDEN, Edge, running_edge
from tests.server.fail2ban import Fail2ban, running_fail2ban
from tests.server.http2 import Http2Connection, request_headers
from tests.server.test_surface_table import fill
from tests.server.visitor import Answer, ConnectionDroppedError
from tests.server.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.server

HEADER = "X-Immich-Exposure-Frame"
ALBUMS = "/api/albums"
WRONG = "ixframe_" + "w" * 32
MAX_RETRY = 10

Headers = Sequence[tuple[str, str]]


def secret(letter: str) -> str:
    """Return a secret of the form that the program makes."""
    return "ixframe_" + letter * 32


def place(edge: Edge, shown: str) -> Path:
    """Return where the file of a frame lies."""
    return edge.state / "devices" / hashlib.sha256(shown.encode()).hexdigest()


def enrol(edge: Edge, name: str, shown: str) -> Headers:
    """Let a frame in, the way devices.sh does; return what it sends."""
    path = place(edge, shown)
    path.write_text(f"{name}\nframe\n")
    path.chmod(0o644)
    return [(HEADER, shown), ("x-api-key", "keyOfImmich")]


def is_refused(answer: Answer) -> bool:
    return (answer.status, answer.body) == (403, FORBIDDEN)


def last_headers(edge: Edge) -> dict[str, list[str]]:
    """Return what Immich got last, but for what Caddy itself says."""
    return {
        name: values
        for name, values in edge.backend.received[-1].headers.items()
        if not name.startswith("x-forwarded-")
        and name not in ("host", "via", "user-agent", "accept-encoding")
    }


# What it may read


def test_of_all_operations_a_frame_reaches_those_of_its_table(edge: Edge) -> None:
    """Over all operations of all supported SDKs; each the same way as a stranger's tests ask them."""
    frame = enrol(edge, "kitchen", secret("k"))
    expected = {name for row in load().frames for name in row.operations}
    reached = set()
    with edge.connect(edge.new_address()) as connection:
        for operation in sorted({each for version in immich_operations().values() for each in version}):
            edge.backend.received.clear()
            target = fill(f"/api{operation.path}")
            body = b"{}" if operation.method in ("POST", "PUT", "PATCH") else None
            answer = connection.ask(target, operation.method, headers=frame, body=body)
            if edge.backend.received:
                assert [(seen.method, seen.target) for seen in edge.backend.received] == [
                    (operation.method, target)
                ]
                reached.add(operation.name)
            else:
                assert is_refused(answer), operation
    assert reached == expected


def test_what_strangers_may_open_is_no_frames_business(edge: Edge) -> None:
    frame = enrol(edge, "kitchen", secret("k"))
    for target in (
        "/",
        "/share/abc",
        "/api/shared-links/me?key=abc",
        "/api/server/config",
        f"{ALBUMS}?key=abc",
    ):
        assert is_refused(edge.ask(target, headers=frame)), target


def test_immich_gets_its_own_key_and_nothing_of_ours(edge: Edge) -> None:
    frame = enrol(edge, "kitchen", secret("k"))
    more = [
        ("Cookie", "immich_access_token=stolen"),
        ("Authorization", "Bearer stolen"),
        ("x-immich-user-token", "stolen"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
    ]
    assert edge.ask(ALBUMS, headers=[*frame, *more]).status == 200
    assert last_headers(edge) == {"x-api-key": ["keyOfImmich"]}
    both_in_one = [("x-api-key", f"{secret('k')}.keyOfImmich")]
    assert edge.ask(f"{ALBUMS}?apiKey={secret('k')}.keyOfImmich", headers=both_in_one).status == 200
    assert last_headers(edge) == {"x-api-key": ["keyOfImmich"]}
    assert edge.backend.targets()[-1] == ALBUMS


def test_a_search_has_a_bound(edge: Edge) -> None:
    frame = enrol(edge, "kitchen", secret("k"))
    assert edge.ask("/api/search/random", "POST", headers=frame, body=b"{}").status == 200
    assert edge.ask("/api/search/random", "POST", headers=frame, body=b" " * 200_000).status == 413


def test_a_frame_has_a_budget_of_its_own(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings={"FRAME_REQUESTS": "20"})
    one, other = enrol(edge, "kitchen", secret("k")), enrol(edge, "hall", secret("h"))
    answers = [edge.ask(ALBUMS, headers=one).status for _ in range(25)]
    assert answers[:20] == [200] * 20 and answers[-1] == 429
    assert edge.ask(ALBUMS, headers=other).status == 200


# How it does not get in


@pytest.mark.parametrize(
    "headers",
    [
        [(HEADER, secret("k")), (HEADER, secret("k"))],
        [(HEADER, secret("k")), (HEADER.lower(), WRONG)],
        [(HEADER, f"{secret('k')}, {secret('k')}")],
        [(HEADER, f"{secret('k')}\t{secret('k')}")],
        [(HEADER, secret("k").upper())],
        [(HEADER, secret("k")[:-1])],
        [(HEADER, "")],
        [(HEADER, secret("k")), ("x-api-key", f"{secret('k')}.key")],
        [("x-api-key", f"{secret('k')}.key"), ("x-api-key", "key")],
        [("x-api-key", f"{secret('k')}x.key")],
        [(HEADER, WRONG), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")],
    ],
    ids=lambda headers: "|".join(f"{name}: {value}" for name, value in headers)[:60],
)
def test_a_secret_that_is_shown_in_another_way_is_a_wrong_one(edge: Edge, headers: Headers) -> None:
    enrol(edge, "kitchen", secret("k"))
    address = edge.new_address()
    edge.backend.received.clear()
    assert is_refused(edge.ask(ALBUMS, headers=headers, address=address))
    assert edge.backend.received == []
    assert [each["verdict"] for each in edge.entries_of(address)] == ["wrong-secret"]


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (f"{ALBUMS}?{HEADER}={secret('k')}", []),
        (f"{ALBUMS}?apiKey={secret('k')}.key", []),
        (ALBUMS, [("Cookie", f"{HEADER}={secret('k')}")]),
        (ALBUMS, [("Authorization", f"Bearer {secret('k')}")]),
        (ALBUMS, [("X_Immich_Exposure_Frame", secret("k"))]),
        (ALBUMS, [("X-Immich-Exposure-Frames", secret("k"))]),
        (ALBUMS, [("x-api-key", f"key.{secret('k')}")]),
        (ALBUMS, [("x-immich-api-key", f"{secret('k')}.key")]),
        (ALBUMS, [("User-Agent", f"frame {secret('k')}")]),
        (f"/share/abc/{secret('k')}.key/api/albums", []),
        (f"/_app/{secret('k').upper()}", []),
    ],
)
def test_a_secret_elsewhere_is_nothing(edge: Edge, target: str, headers: Headers) -> None:
    enrol(edge, "kitchen", secret("k"))
    address = edge.new_address()
    edge.backend.received.clear()
    assert is_refused(edge.ask(target, headers=headers, address=address))
    assert edge.backend.received == []
    assert [each["verdict"] for each in edge.entries_of(address)] == ["quiet"]
    assert secret("k") not in edge.log_text().lower()


def test_spelling_and_spaces_of_the_header_do_not_matter(edge: Edge) -> None:
    """Header names have no case, and what is around a value is no part of it (RFC 9110, 5.1 and 5.5)."""
    enrol(edge, "kitchen", secret("k"))
    for name in (HEADER, HEADER.lower(), HEADER.upper()):
        assert edge.ask(ALBUMS, headers=[(name, f"  {secret('k')}\t")]).status == 200


def test_http_2_is_no_other_way_in(edge: Edge) -> None:
    frame = [(name.lower(), value) for name, value in enrol(edge, "kitchen", secret("k"))]
    name = HEADER.lower()

    def ask(extra: Headers, address: str) -> int:
        with edge.connect(address, protocols=("h2",)) as connection, Http2Connection(connection) as http2:
            try:
                return http2.send(request_headers(ALBUMS, extra=extra)).status
            except ConnectionDroppedError:
                return 0

    assert ask(frame, edge.new_address()) == 200
    edge.backend.received.clear()
    for extra in (
        [(name, secret("k")), (name, secret("k"))],
        [(name, secret("k")), (name, WRONG)],
        [(HEADER, secret("k"))],
        [(f"{name} ", secret("k"))],
        [(name, f"{secret('k')}\r\nx: y")],
        [(name, f"{secret('k')}\0")],
        [(f":{name}", secret("k"))],
    ):
        assert ask(extra, edge.new_address()) in (0, 400, 403), extra
    assert edge.backend.received == []


def test_a_certificates_file_is_no_frames_and_a_frames_no_certificates(edge: Edge) -> None:
    enrol(edge, "kitchen", secret("k"))
    place(edge, secret("k")).write_text("kitchen\nuntil 4102444800\n")
    assert is_refused(edge.ask(ALBUMS, headers=[(HEADER, secret("k"))]))
    phone = edge.device("phone")
    assert edge.ask(ALBUMS, identity=phone, headers=[(HEADER, WRONG)]).status == 200, "a device is one first"
    stranger = edge.authority.issue("stranger")
    assert is_refused(edge.ask(ALBUMS, identity=stranger, headers=[(HEADER, WRONG)]))


def test_without_the_folder_nobody_knows_and_nobody_is_blamed(make_edge: EdgeMaker) -> None:
    edge = make_edge()
    frame = enrol(edge, "kitchen", secret("k"))
    edge.state.joinpath("devices").rename(edge.state / "moved")
    address = edge.new_address()
    assert edge.ask(ALBUMS, headers=frame, address=address).status == 503
    assert all(each.get("verdict") != "wrong-secret" for each in edge.entries_of(address))


# Until when


def test_a_revoked_frame_is_out_at_its_next_request_and_blamed_for_nothing(edge: Edge) -> None:
    frame, address = enrol(edge, "kitchen", secret("r")), edge.new_address()
    (edge.state / "revoked").mkdir(exist_ok=True)
    with edge.connect(address) as connection:
        assert connection.ask(ALBUMS, headers=frame).status == 200
        place(edge, secret("r")).rename(edge.state / "revoked" / place(edge, secret("r")).name)
        assert is_refused(connection.ask(ALBUMS, headers=frame))
        for _ in range(100):
            connection.ask(ALBUMS, headers=frame)
    verdicts = [each["verdict"] for each in edge.entries_of(address, 102)]
    assert verdicts == ["frame", *["quiet"] * 101]


def test_what_a_revoked_frame_has_open_ends(make_edge: EdgeMaker) -> None:
    """A film that Immich sends for ever: it ends within the interval, and nobody else's does."""
    edge = make_edge(settings={"LOOK_AGAIN": "100ms"})
    frame, other = enrol(edge, "kitchen", secret("k")), enrol(edge, "hall", secret("h"))
    film = f"/api/assets/{'0a1b2c3d-0000-4000-8000-0123456789ab'}/video/playback"
    stop = time.monotonic() + PATIENCE

    def slowly(method: str, target: str) -> tuple[int, bytes] | None:
        while target == film and time.monotonic() < stop and place(edge, secret("h")).exists():
            time.sleep(0.05)
        return None

    edge.backend.decide = slowly
    with edge.connect(edge.new_address()) as lost, edge.connect(edge.new_address()) as kept:
        for connection, headers in ((lost, frame), (kept, other)):
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
            connection.tls.sendall(
                f"GET {film} HTTP/1.1\r\nHost: immich.edge-tailnet.ts.net\r\n{lines}\r\n".encode()
            )
        wait_until(lambda: len(edge.backend.received) == 2, "both films have begun")
        place(edge, secret("k")).unlink()
        assert lost.tls.recv(12) == b"HTTP/1.1 403"
        kept.tls.settimeout(0.5)
        with pytest.raises(TimeoutError):
            kept.tls.recv(1)
        place(edge, secret("h")).unlink()


# Bans


@pytest.fixture(scope="module")
def watched(caddy_program: Path) -> Iterator[Edge]:
    """Return an edge that fail2ban watches."""
    with running_edge(caddy_program) as edge:
        yield edge


@pytest.fixture(scope="module")
def fail2ban(watched: Edge) -> Iterator[Fail2ban]:
    """Return fail2ban with the default number of offences."""
    with running_fail2ban(watched, max_retry=MAX_RETRY) as server:
        yield server


@pytest.mark.parametrize("header", [HEADER, "x-api-key"])
def test_a_hundred_wrong_ones_are_banned_and_a_right_one_behind_them_is_not(
    watched: Edge, fail2ban: Fail2ban, header: str
) -> None:
    frame, address = enrol(watched, "kitchen", secret("k")), watched.new_address()
    watched.backend.received.clear()
    refused = 0
    with contextlib.suppress(ConnectionDroppedError), watched.connect(address) as connection:
        for number in range(100):
            guess = "ixframe_" + "abcdefghijklmnopqrstuvwxyz234567"[number % 32] * 31 + "z"
            assert is_refused(connection.ask(ALBUMS, headers=[(header, guess)]))
            refused += 1
    assert refused == MAX_RETRY, "the edge itself stops it, before fail2ban has read of it"
    assert watched.backend.received == []
    ban = watched.ban_file("auth", address)
    wait_until(ban.exists, f"{address} is banned")
    with pytest.raises(ConnectionDroppedError):
        watched.ask("/share/abc", address=address)
    with watched.connect(address) as connection:
        for _ in range(100):
            assert connection.ask(ALBUMS, headers=frame).status == 200
        assert is_refused(connection.ask("/api/users", headers=frame)), "an answer all the same"


def test_the_check_from_outside_gets_nobody_banned(watched: Edge, fail2ban: Fail2ban) -> None:
    """The home's own address, where it is the operator's as well."""
    address = watched.new_address()
    with watched.connect(address) as connection:
        for _ in range(3 * MAX_RETRY):
            assert is_refused(connection.ask(FRAME.path, headers=list(NOBODYS_SECRET.items())))
    assert {each["verdict"] for each in watched.entries_of(address, 3 * MAX_RETRY)} == {"quiet"}


def test_a_right_one_is_never_banned_whatever_it_asks(watched: Edge, fail2ban: Fail2ban) -> None:
    frame, address = enrol(watched, "hall", secret("h")), watched.new_address()
    with watched.connect(address) as connection:
        for number in range(100):
            target = ("/wp-login.php", "/.env", ALBUMS, "/api/users", "/share/abc")[number % 5]
            assert connection.ask(target, headers=frame).status == (200 if target == ALBUMS else 403)
    scanner = watched.new_address()
    for _ in range(MAX_RETRY):
        watched.ask("/wp-login.php", address=scanner)
    wait_until(watched.ban_file("scan", scanner).exists, "fail2ban has read all of it")
    assert not any(watched.ban_file(jail, address).exists() for jail in ("auth", "keys", "scan"))
    entries = watched.entries_of(address, 100)
    assert {(each["verdict"], each["frame"]) for each in entries} == {("frame", "hall")}


def test_one_whom_the_owner_has_banned_by_address_gets_in_as_a_device_does(watched: Edge) -> None:
    frame, address = enrol(watched, "attic", secret("t")), watched.new_address()
    watched.ban_file("manual", address).touch()
    assert watched.ask(ALBUMS, headers=frame, address=address).status == 200


def test_no_log_has_a_secret(watched: Edge, fail2ban: Fail2ban) -> None:
    frame = enrol(watched, "kitchen", secret("k"))
    address = watched.new_address()
    watched.ask(f"{ALBUMS}?apiKey={secret('k')}.keyOfImmich", headers=frame, address=address)
    watched.ask(ALBUMS, headers=[(HEADER, WRONG)], address=address)
    watched.entries_of(address, 2)
    files = [*watched.logs.glob("*"), watched.journal, fail2ban.log]
    written = "".join(path.read_text(errors="replace") for path in files)
    assert "wrong-secret" in written
    for text in (secret("k"), WRONG, "keyOfImmich", place(watched, secret("k")).name):
        assert text not in written


# The Caddyfile


def test_a_broken_table_of_frames_is_no_configuration(make_edge: EdgeMaker) -> None:
    edge = make_edge(start=False)
    text = edge.surface.read_text()
    edge.surface.write_text(text.replace('path = "/api/faces"', 'path = "/api/{faces}"'))
    done = edge.run_caddy("validate", "--config", "Caddyfile", "--adapter", "caddyfile")
    assert done.returncode != 0 and "what frames may ask" in done.stderr


def test_frames_come_after_devices_and_before_bans(edge: Edge) -> None:
    done = edge.run_caddy("adapt", "--config", str(SERVER_FILES / "Caddyfile"), "--adapter", "caddyfile")
    places = [
        done.stdout.find(f'"handler":"{name}"') for name in ("while_enrolled", "frame_rights", "hang_up")
    ]
    assert -1 not in places and places == sorted(places)
    assert json.loads(done.stdout)
