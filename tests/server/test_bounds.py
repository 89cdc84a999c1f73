"""What one stranger can take of the edge has a bound, and others do not notice: small attacks, real programs.

The bounds themselves are in docs/limits.md.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.edge import Edge, running_edge
from tests.server.fail2ban import Fail2ban, running_fail2ban
from tests.server.http2 import Http2Connection
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

MAX_RETRY = 5
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
    seen: list[Counter[int]] = []
    attack = threading.Thread(
        target=lambda: seen.append(
            flood(watched, flooder, ["/favicon.ico"] * 4_000, user_agent="\xff" * 3_900)
        )
    )
    attack.start()
    wait_until(lambda: written(watched) > before + 100_000, "the flood is under way")
    for _ in range(MAX_RETRY):
        watched.ask("/wp-login.php", address=offender)
    wait_until(watched.ban_file("scan", offender).exists, "the offender is banned")
    assert attack.is_alive(), "the flood ended too soon to show anything"
    attack.join()
    assert seen[0][200] + seen[0][429] == 4_000
    assert written(watched) - before < 4_000 * LONGEST_LINE
    [entry] = watched.entries_of(owner)
    assert entry["verdict"] == "device"


def test_who_meets_limits_or_a_ban_is_not_written_down_each_time(watched: Edge) -> None:
    banned = watched.new_address()
    watched.ban_file("manual", banned).touch()
    before, journal = len(watched.log_entries()), watched.journal.stat().st_size
    flood(watched, banned, ["/favicon.ico"] * 200)
    flood(watched, banned, ["/favicon.ico"] * 200)
    watched.ask("/favicon.ico")  # lines are written in order
    assert len(watched.log_entries()) <= before + 2
    assert watched.journal.stat().st_size == journal
