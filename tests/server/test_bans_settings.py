"""Other ban times count after fail2ban has reloaded, and every ban stays what it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.edge import Edge, running_edge
from tests.server.fail2ban import Fail2ban, running_fail2ban
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

HOUR = 3600


@pytest.fixture
def watched(caddy_program: Path) -> Iterator[Edge]:
    """Return an edge of a test's own."""
    with running_edge(caddy_program) as edge:
        yield edge


@pytest.fixture
def fail2ban(watched: Edge) -> Iterator[Fail2ban]:
    """Return fail2ban, which bans for an hour at the fifth offence."""
    with running_fail2ban(watched, max_retry=5, ban_time="1h") as server:
        yield server


def scan(edge: Edge, address: str, times: int) -> Path:
    """Ask so many times for what only a scanner asks for; return where a ban would lie."""
    for _ in range(times):
        edge.ask("/wp-login.php", address=address)
    edge.entries_of(address, times)
    return edge.ban_file("scan", address)


def lasts(ban: Path) -> float:
    """Return the hours that a ban still lasts."""
    return (ban.stat().st_mtime - time.time()) / HOUR


def test_other_ban_times_count_after_a_reload(watched: Edge, fail2ban: Fail2ban) -> None:
    old = scan(watched, "192.0.2.1", 5)
    wait_until(old.exists, "the first scanner is banned")
    by_hand = watched.ban_file("manual", "192.0.2.9")
    by_hand.touch()
    assert lasts(old) == pytest.approx(1, abs=0.1)

    fail2ban.configure(max_retry=3, ban_time="8h")
    reloaded = fail2ban.client("reload")
    assert reloaded.returncode == 0, reloaded.stderr

    assert old.exists() and by_hand.exists()
    new = scan(watched, "192.0.2.2", 3)
    wait_until(new.exists, "the second scanner is banned, at the third offence")
    assert lasts(new) == pytest.approx(8, abs=0.1)
    assert lasts(old) == pytest.approx(1, abs=0.1)


def test_a_ban_of_before_a_reload_can_be_lifted_after_it(watched: Edge, fail2ban: Fail2ban) -> None:
    ban = scan(watched, "192.0.2.3", 5)
    wait_until(ban.exists, "the scanner is banned")
    assert fail2ban.client("reload").returncode == 0
    assert fail2ban.client("set", "immich-scan", "unbanip", "192.0.2.3").returncode == 0
    wait_until(lambda: not ban.exists(), "the ban is lifted")


def test_settings_that_fail2ban_refuses_leave_it_as_it_was(watched: Edge, fail2ban: Fail2ban) -> None:
    (fail2ban.folder / "bans.conf").write_text("maxretry = 3\n")
    assert fail2ban.client("reload").returncode != 0
    ban = scan(watched, "192.0.2.4", 5)
    wait_until(ban.exists, "the scanner is banned as before")
    assert lasts(ban) == pytest.approx(1, abs=0.1)
