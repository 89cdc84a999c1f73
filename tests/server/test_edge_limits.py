"""Budgets: a flood meets 429, other visitors and all devices go on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.server.conftest import EdgeMaker
from tests.server.edge import Edge, Limits
from tests.server.forms import UPLOAD, sized_form
from tests.server.visitor import DOMAIN, Connection, ConnectionDroppedError
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

LOGIN = "/api/shared-links/login?key=abc"


@pytest.fixture
def tight(make_edge: EdgeMaker) -> Edge:
    """Return an edge with room for 20 requests, 3 passwords and 2 zip files a minute."""
    return make_edge(
        limits=Limits(
            requests=20,
            requests_window="60s",
            password_attempts=3,
            password_window="60s",
            bundles=2,
            offences=1000,
        )
    )


def statuses(edge: Edge, target: str, count: int, address: str, method: str = "GET") -> list[int]:
    """Ask the same so many times over one connection."""
    with edge.connect(address) as connection:
        return [connection.ask(target, method, body=b"").status for _ in range(count)]


def test_a_flood_meets_429_alone(tight: Edge) -> None:
    phone = tight.device("phone")
    flooder = tight.new_address()
    assert statuses(tight, "/share/abc", 25, flooder) == [200] * 20 + [429] * 5
    answer = tight.ask("/api/users/me", address=flooder)
    assert (answer.status, json.loads(answer.body)["status"]) == (429, 429)
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-robots-tag"] == "noindex, nofollow"
    assert tight.ask("/share/abc").status == 200
    with tight.connect(flooder, phone) as connection:
        assert [connection.ask("/api/users/me").status for _ in range(60)] == [200] * 60


def test_refusals_cost_budget_too(tight: Edge) -> None:
    assert statuses(tight, "/wp-login.php", 22, tight.new_address()) == [403] * 20 + [429] * 2


def test_a_network_of_ipv6_has_one_budget(tight: Edge) -> None:
    for host in range(20):
        assert tight.ask("/share/abc", address=f"2001:db8:7:7::{host + 1:x}").status == 200
    assert tight.ask("/share/abc", address="2001:db8:7:7:ffff::99").status == 429
    assert tight.ask("/share/abc", address="2001:db8:7:8::1").status == 200


def test_forwarded_addresses_do_not_make_budgets(tight: Edge) -> None:
    flooder = tight.new_address()
    seen = {
        tight.ask("/share/abc", address=flooder, headers=[("X-Forwarded-For", f"192.0.2.{n}")]).status
        for n in range(21)
    }
    assert 429 in seen


def test_passwords_of_links_have_a_smaller_budget(tight: Edge) -> None:
    guesser = tight.new_address()
    assert statuses(tight, LOGIN, 5, guesser, "POST") == [200] * 3 + [429] * 2
    assert statuses(tight, "/api/Shared-Links/Login?key=abc", 1, guesser, "POST") == [429]
    assert tight.ask("/share/abc", address=guesser).status == 200


def test_zip_files_have_a_smaller_budget(tight: Edge) -> None:
    collector = tight.new_address()
    archive = "/api/download/archive?key=abc"
    assert statuses(tight, archive, 4, collector, "POST") == [200] * 2 + [429] * 2
    assert statuses(tight, "/api/download/info?key=abc", 3, collector, "POST") == [200] * 3
    assert statuses(tight, LOGIN, 1, collector, "POST") == [200]
    assert statuses(tight, archive, 1, tight.new_address(), "POST") == [200]


def test_a_big_album_scrolled_fast_is_no_flood_and_a_flood_is(make_edge: EdgeMaker) -> None:
    """The requests allowed by default, all at once: 2,000 photos and what belongs to the page.

    The window is so long that hardly any budget comes back meanwhile: a slow machine's flood is one too.
    """
    edge = make_edge(limits=Limits(requests_window="3000s"), settings={"PACE": "100000"})
    asset = "/api/assets/0a1b2c3d-0000-4000-8000-{:012x}/thumbnail?size=thumbnail&key=abc"
    page = ["/share/abc", "/api/shared-links/me?key=abc", *["/_app/immutable/chunks/x.js"] * 120]
    months = ["/api/timeline/buckets?key=abc", *["/api/timeline/bucket?timeBucket=2026-01-01&key=abc"] * 120]
    targets = [*page, *months, *(asset.format(number) for number in range(2_000))]
    address = edge.new_address()
    with edge.connect(address) as connection:
        assert {connection.ask(target).status for target in targets} == {200}
        flood = []
        with pytest.raises(ConnectionDroppedError):
            for _ in range(3_500):
                flood.append(connection.ask("/api/server/config").status)
    assert flood[-20:].count(429) > 10 and flood[:1_000] == [200] * 1_000
    assert edge.ask("/share/abc").status == 200


def test_logins_of_a_device_have_a_small_budget_of_their_own(tight: Edge) -> None:
    phone, laptop = tight.device("phone"), tight.device("laptop")
    address = tight.new_address()
    with tight.connect(address, phone) as connection:
        tries = [connection.ask("/api/auth/login", "POST", body=b"{}").status for _ in range(5)]
        assert tries == [200] * 3 + [429] * 2
        # Immich takes these for the same address.
        for spelling in ("/api/auth/login/", "/api/auth/login/?x", "/API/Auth/Login/", "/api/auth/%6Cogin/"):
            assert connection.ask(spelling, "POST", body=b"{}").status == 429, spelling
        assert connection.ask("/api/users/me").status == 200
    assert tight.ask("/api/auth/login", "POST", identity=laptop, address=address).status == 200


def ends_unanswered(connection: Connection, drops: Sequence[bytes], pause: float) -> bool:
    """Send the drops with pauses and tell whether the edge gives up on the request (408 or hanging up)."""
    try:
        for drop in drops:
            connection.tls.sendall(drop)
            time.sleep(pause)  # slowness is what this is about
        return b" 200 " not in connection.tls.recv(65_536)
    except TimeoutError:
        return False
    except OSError:
        return True


SLOW_CALL = (
    f"POST /api/download/info?key=abc HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: 100\r\n\r\n".encode()
)

SLOW_READ = (
    f"GET /api/server/config HTTP/1.1\r\nHost: {DOMAIN}\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n".encode()
)
"""A request that usually has no body, with one of unknown length."""


@pytest.fixture
def impatient(make_edge: EdgeMaker) -> Edge:
    """Return an edge that waits for bodies for one second."""
    return make_edge(settings={"BODY_PATIENCE": "1s"})


@pytest.mark.parametrize("call", [SLOW_CALL, SLOW_READ], ids=["length", "chunks"])
def test_a_body_that_stalls_is_given_up(impatient: Edge, call: bytes) -> None:
    with impatient.connect(impatient.new_address()) as connection:
        assert ends_unanswered(connection, [call + b"x"], 0)
    assert not any(seen.body_size == 100 for seen in impatient.backend.received)


def test_a_body_that_trickles_is_given_up_though_it_never_stalls(impatient: Edge) -> None:
    with impatient.connect(impatient.new_address()) as connection:
        assert ends_unanswered(connection, [SLOW_CALL, *[b"x"] * 20, b"x" * 80], 0.1)
    assert not any(seen.body_size == 100 for seen in impatient.backend.received)


def test_a_device_may_be_slow(impatient: Edge) -> None:
    with impatient.connect(impatient.new_address(), impatient.device("phone")) as connection:
        assert not ends_unanswered(connection, [SLOW_CALL, *[b"x"] * 20, b"x" * 80], 0.1)


def peak_memory(pid: int) -> int:
    """Return the most memory that a process has had, in kB."""
    [line] = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in each]
    return int(line.split()[1])


def test_a_big_upload_of_a_device_flows_through(make_edge: EdgeMaker) -> None:
    """2 GB: nothing of it is kept, and no limit of visitors applies."""
    edge = make_edge()
    chunk, chunks = b"x" * (4 << 20), 512
    size = chunks * len(chunk)
    with edge.connect(edge.new_address(), edge.device("phone")) as connection:
        assert connection.ask("/api/server/ping").status == 200
        before = peak_memory(edge.pid)
        head = f"POST /api/assets HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: {size}\r\n\r\n"
        connection.tls.sendall(head.encode())
        for _ in range(chunks // 2):
            connection.tls.sendall(chunk)
        wait_until(
            lambda: edge.backend.arrived > size // 2 - (8 << 20),
            "the first half is with Immich before the second is sent",
        )
        for _ in range(chunks // 2 - 1):
            connection.tls.sendall(chunk)
        assert connection.send(chunk).status == 200
    assert edge.backend.received[-1].body_size == size
    assert peak_memory(edge.pid) - before < 32 << 10


def test_an_upload_of_a_visitor_ends_at_its_limit(make_edge: EdgeMaker) -> None:
    edge = make_edge(uploads="on", settings={"UPLOAD_SIZE": "3MB"})
    fits, exceeds = sized_form(3_000_000), sized_form(3_000_001)
    assert edge.ask(UPLOAD, "POST", headers=fits.headers, body=fits.body).status == 201
    assert edge.ask(UPLOAD, "POST", headers=exceeds.headers, body=exceeds.body).status == 413
    assert [seen.body_size for seen in edge.backend.received if seen.method == "POST"] == [3_000_000]


def test_another_host_has_the_same_limits(make_edge: EdgeMaker) -> None:
    """Nobody gets more by naming a host that is not ours, and nothing besides the refusal or a 429."""
    edge = make_edge(limits=Limits(requests=5))
    with edge.connect(edge.new_address()) as connection:
        statuses = [connection.ask("/photos", host="other.example").status for _ in range(20)]
    assert statuses[0] == 403 and statuses[-1] == 429
    assert set(statuses) == {403, 429}
