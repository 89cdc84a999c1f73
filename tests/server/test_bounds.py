"""What one stranger can take of the edge has a bound, and others do not notice: small attacks, real programs.

The bounds themselves are in docs/limits.md.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import EdgeMaker
from tests.server.edge import Edge, Limits, running_edge
from tests.server.fail2ban import Fail2ban, running_fail2ban
from tests.server.http2 import Http2Connection
from tests.server.key_updates import KeyUpdates
from tests.server.visitor import Connection, ConnectionDroppedError, proxy_line
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

MAX_RETRY = 5
PING = bytes.fromhex("0000080600000000000000000000000000")
START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""A frame of HTTP/2 that is answered, and what comes before any."""

LONGEST_LINE = 1_500
"""More bytes than a line of the access log has."""


@pytest.fixture(scope="module")
def watched(caddy_program: Path) -> Iterator[Edge]:
    """Return an edge whose logs rotate at 1 MB."""
    with running_edge(caddy_program, settings={"LOG_MEGABYTES": "1"}) as edge:
        yield edge


@pytest.fixture(scope="module")
def fail2ban(watched: Edge) -> Iterator[Fail2ban]:
    """Return fail2ban over that edge."""
    with running_fail2ban(watched, max_retry=MAX_RETRY) as server:
        yield server


def flood(edge: Edge, address: str, targets: list[str], **headers: str) -> Counter[int]:
    """Send all these over one HTTP/2 connection and count the statuses."""
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    with (
        edge.connect(address, protocols=("h2",)) as connection,
        Http2Connection(connection) as http2,
    ):
        return http2.flood(targets, headers=named)


def written(edge: Edge) -> int:
    """Return the bytes of all logs, rotated ones as well."""
    return sum(path.stat().st_size for path in edge.logs.iterdir())


def test_a_flood_of_long_lines_neither_hides_an_offender_nor_erases_a_device(
    watched: Edge, fail2ban: Fail2ban
) -> None:
    """HPACK sends a long User-Agent once, and JSON writes each bad byte as six."""
    phone, owner, offender, flooder = watched.device("phone"), *(watched.new_address() for _ in range(3))
    watched.ask("/api/users/me", address=owner, identity=phone)
    watched.entries_of(owner)
    before = written(watched)
    seen: Counter[int] = Counter()
    enough = threading.Event()

    def attack_until_enough() -> None:
        while not enough.is_set():
            with contextlib.suppress(ConnectionDroppedError):
                seen.update(flood(watched, flooder, ["/favicon.ico"] * 500, user_agent="\xff" * 3_900))

    attack = threading.Thread(target=attack_until_enough)
    attack.start()
    wait_until(lambda: written(watched) > before + 100_000, "the flood is under way")
    for _ in range(MAX_RETRY):
        watched.ask("/wp-login.php", address=offender)
    wait_until(watched.ban_file("scan", offender).exists, "the offender is banned")
    enough.set()
    attack.join()
    assert seen[200] >= 300
    assert written(watched) - before < seen.total() * LONGEST_LINE
    [entry] = watched.entries_of(owner)
    assert entry["verdict"] == "device"


def test_who_meets_limits_or_a_ban_is_not_written_down_each_time(watched: Edge) -> None:
    banned, earlier = watched.new_address(), watched.new_address()
    watched.ask("/favicon.ico", address=earlier)
    watched.entries_of(earlier)  # what came before it is written as well
    watched.ban_file("manual", banned).touch()
    before, journal = len(watched.log_entries()), watched.journal.stat().st_size
    flood(watched, banned, ["/favicon.ico"] * 200)
    flood(watched, banned, ["/favicon.ico"] * 200)
    watched.ask("/favicon.ico")  # lines are written in order
    assert len(watched.log_entries()) <= before + 2
    assert watched.journal.stat().st_size == journal


# --- guessing


@pytest.mark.parametrize("kind", ["slugs", "scans"])
def test_a_burst_of_guesses_is_refused_in_place(make_edge: EdgeMaker, kind: str) -> None:
    """Without fail2ban, from four connections at once, on an edge that has ten offences to give."""
    edge = make_edge()
    guesser, other = edge.new_address(), edge.new_address()
    words = [[f"/s/word{n}x{m}" if kind == "slugs" else f"/wp{n}/{m}" for m in range(200)] for n in range(4)]
    edge.backend.answers |= {("GET", word): (404, {}) for batch in words for word in batch}
    edge.backend.answers["GET", "/api/shared-links/me"] = (401, {})
    answered: Counter[int] = Counter()
    attack = [
        threading.Thread(target=lambda batch=batch: answered.update(flood(edge, guesser, batch)))
        for batch in words
    ]
    for each in attack:
        each.start()
    for each in attack:
        each.join()
    # What is refused in place gets a 403 as a scan does: the log tells them apart.
    offences = [entry for entry in edge.entries_of(guesser) if entry.get("verdict") in ("guess", "scan")]
    assert 10 <= len(offences) <= 10 + 60, answered
    if kind == "slugs":
        assert answered[404] <= 10 + 4 * 6
    with pytest.raises(ConnectionDroppedError):
        edge.ask("/s/one-more", address=guesser)
    assert edge.ask("/share/abc", address=other).status == 200


def test_a_password_of_a_link_is_guessed_no_faster_from_many_networks(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings={"LINK_PASSWORDS": "12"})
    login = "/api/shared-links/login"
    edge.backend.answers["POST", login] = (401, {})
    statuses = Counter(
        edge.ask(f"{login}?key=abc", "POST", address=f"2001:db8:{number:x}::1", body=b"{}").status
        for number in range(40)
    )
    assert statuses == {401: 12, 429: 28}
    assert edge.ask(f"{login}?slug=other", "POST", body=b"{}").status == 401


def test_a_wide_network_guesses_no_faster_than_a_few_visitors(make_edge: EdgeMaker) -> None:
    edge = make_edge(settings={"OFFENCES": "3"})
    edge.backend.answers["GET", "/api/shared-links/me"] = (401, {})
    answered = 0
    for number in range(30):
        with contextlib.suppress(ConnectionDroppedError):
            target = f"/api/shared-links/me?key=word{number}"
            answered += edge.ask(target, address=f"2001:db8:7:{number:x}::1").status == 401
    assert answered == 15


def test_a_visitor_of_a_live_link_is_not_cut_off_by_a_neighbour(watched: Edge, fail2ban: Fail2ban) -> None:
    """Both behind one IPv4 address: one has opened a link, the other scans and is banned."""
    shared = watched.new_address()
    live = "/api/shared-links/me?key=live"
    assert watched.ask(live, address=shared).status == 200
    for _ in range(MAX_RETRY):
        watched.ask("/wp-login.php", address=shared)
    wait_until(watched.ban_file("scan", shared).exists, "the scanner is banned")
    for target in (live, "/share/live", "/_app/immutable/x.js"):
        assert watched.ask(target, address=shared).status == 200, target
    for target in ("/share/other", "/api/shared-links/me?key=live&slug=word"):
        with pytest.raises(ConnectionDroppedError):
            watched.ask(target, address=shared)
    watched.ban_file("manual", shared).touch()
    with pytest.raises(ConnectionDroppedError):
        watched.ask(live, address=shared)


# --- connections and requests


def test_one_network_has_so_many_connections(make_edge: EdgeMaker) -> None:
    """They cost no handshake: those beyond the bound are closed before it, and the others have to wait."""
    edge = make_edge()
    crowd, other = "192.0.2.50", "192.0.2.51"
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(edge.dial(proxy_line(crowd) + b"\x16")) for _ in range(340)]
        wait_until(lambda: sum(map(is_closed, opened)) >= 40, "what is too much is closed")
        assert edge.ask("/share/abc", address=other).status == 200
    wait_until(lambda: answers(edge, crowd), "the network has connections again")


def is_closed(connection: socket.socket) -> bool:
    """Tell whether the other side has hung up."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def answers(edge: Edge, address: str) -> bool:
    """Tell whether a visitor is answered."""
    with contextlib.suppress(ConnectionDroppedError):
        return edge.ask("/share/abc", address=address).status == 200
    return False


def test_who_does_not_stop_loses_the_connection(make_edge: EdgeMaker) -> None:
    """What a visitor may ask, then 429, then nothing; a device behind the same address asks on."""
    edge = make_edge(limits=Limits(requests=20, requests_window="600s"))
    phone, shared = edge.device("phone"), edge.new_address()
    statuses: list[int] = []
    with edge.connect(shared) as connection, pytest.raises(ConnectionDroppedError):
        for _ in range(60):
            statuses.append(connection.ask("/api/server/config").status)
    assert statuses == [200] * 20 + [429] * 20
    with pytest.raises(ConnectionDroppedError):
        edge.ask("/api/server/config", address=shared)
    assert flood(edge, shared, ["/api/server/config"] * 60)[0] == 60
    assert edge.ask("/api/users/me", address=shared, identity=phone).status == 200
    assert edge.ask("/api/server/config").status == 200


def test_frames_that_are_no_requests_are_read_at_a_pace(make_edge: EdgeMaker) -> None:
    """Each PING is answered, so the answers tell how many were read: 64 KiB at once, then 256 KiB/s."""
    edge = make_edge()
    answered = 0
    with edge.connect(edge.new_address(), protocols=("h2",)) as connection:
        connection.tls.settimeout(0.02)
        connection.tls.sendall(START)
        began = time.monotonic()
        # For longer where the machine is so busy that little is asked in a second.
        while (ran := time.monotonic() - began) < 1 or (answered <= 20_000 and ran < 30):
            with contextlib.suppress(OSError):
                connection.tls.send(PING * 900)
            with contextlib.suppress(OSError):
                answered += len(connection.tls.recv(65536))
        took = time.monotonic() - began
        assert edge.ask("/api/server/config").status == 200
    assert 20_000 < answered < (80 << 10) + (256 << 10) * took, "they are read as fast as they come"


def test_key_updates_alone_end_the_connection(make_edge: EdgeMaker) -> None:
    edge = make_edge()
    with KeyUpdates(edge, edge.new_address()) as visitor:
        visitor.send(b"".join(visitor.update() for _ in range(100)))
        while visitor.receive():
            pass
    assert edge.ask("/api/server/config").status == 200


def test_key_updates_between_frames_are_read_at_a_pace(make_edge: EdgeMaker) -> None:
    """Each is answered by one, and by a PING's answer."""
    edge = make_edge()
    answered = 0
    with KeyUpdates(edge, edge.new_address()) as visitor:
        visitor.tls.settimeout(0.02)
        visitor.send(visitor.record(START))
        began = time.monotonic()
        while (ran := time.monotonic() - began) < 2 or (answered <= 20_000 and ran < 30):
            pairs = b"".join(visitor.update() + visitor.record(PING) for _ in range(100))
            sent = 0
            while sent < len(pairs):  # half a record would make nonsense of all that follows
                with contextlib.suppress(TimeoutError):
                    sent += socket.socket.send(visitor.tls, pairs[sent:])
                with contextlib.suppress(TimeoutError):
                    answered += len(visitor.receive())
        took = time.monotonic() - began
        assert edge.ask("/api/server/config").status == 200
    assert 20_000 < answered < (80 << 10) + (256 << 10) * took, "they are read as fast as they come"


def test_answers_that_nobody_reads_are_few(make_edge: EdgeMaker) -> None:
    edge = make_edge()
    path = "/api/assets/0a1b2c3d-0000-4000-8000-0123456789ab/original"
    edge.backend.bodies["GET", path] = b"x" * (12 << 20)
    with contextlib.ExitStack() as stack:
        hoarder = edge.new_address()
        assert edge.ask("/api/shared-links/me?key=abc", address=hoarder).status == 200
        opened = [stack.enter_context(edge.connect(hoarder)) for _ in range(100)]
        for connection in opened:
            ask_without_reading(connection, f"{path}?key=abc")
        wait_until(lambda: len(edge.backend.received) >= 61, "what is let in reaches Immich")
        assert edge.ask("/share/abc").status == 200
        assert edge.backend.targets().count(f"{path}?key=abc") == 60


def test_videos_take_no_place_from_photos(make_edge: EdgeMaker) -> None:
    """A browser keeps the answer to a video open while somebody watches: 90 of a network, and then a 429."""
    edge = make_edge()
    asset = "/api/assets/0a1b2c3d-0000-4000-8000-0123456789ab"
    edge.backend.bodies["GET", f"{asset}/video/playback"] = b"x" * (12 << 20)
    link, video, photo = (
        "/api/shared-links/me?key=abc",
        f"{asset}/video/playback?key=abc",
        f"{asset}/thumbnail?key=abc",
    )
    party, other = edge.new_address(), edge.new_address()
    for address in (party, other):
        assert edge.ask(link, address=address).status == 200
    with contextlib.ExitStack() as stack:
        for _ in range(95):
            ask_without_reading(stack.enter_context(edge.connect(party)), video)
        wait_until(lambda: edge.backend.targets().count(video) >= 90, "what is let in reaches Immich")
        assert edge.ask(video, address=party).status == 429
        for address in (party, other):
            assert edge.ask(photo, address=address).status == 200
        assert edge.ask(video, address=other).status == 200
        assert edge.backend.targets().count(video) == 91


def ask_without_reading(connection: Connection, target: str) -> None:
    """Send a request and leave its answer where it is."""
    connection.tls.sendall(f"GET {target} HTTP/1.1\r\nHost: immich.edge-tailnet.ts.net\r\n\r\n".encode())
