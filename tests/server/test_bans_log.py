"""The log that fail2ban reads: rotated by Caddy, and no offender is lost over it."""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.edge import Edge, running_edge
from tests.server.fail2ban import Fail2ban, running_fail2ban
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

MAX_RETRY = 5
ROLLS = 2
LONG = "/wp-login.php?" + "x" * 400


@pytest.fixture(scope="module")
def watched(caddy_program: Path) -> Iterator[Edge]:
    """Return an edge that rotates its log at 1 MiB, the least that Caddy knows."""
    with running_edge(caddy_program, settings={"LOG_MEGABYTES": "1"}) as edge:
        yield edge


@pytest.fixture(scope="module")
def fail2ban(watched: Edge) -> Iterator[Fail2ban]:
    """Return fail2ban over that log."""
    with running_fail2ban(watched, max_retry=MAX_RETRY) as server:
        yield server


def rolled(edge: Edge) -> list[Path]:
    """Return what was rotated away."""
    return sorted(path for path in edge.logs.iterdir() if path.name.startswith("offences-"))


def offend(edge: Edge, address: str, count: int) -> None:
    """Do what only a scanner does."""
    for _ in range(count):
        edge.ask("/wp-login.php", address=address)


def test_no_offender_escapes_over_a_rotation(watched: Edge, fail2ban: Fail2ban) -> None:
    for number in range(1, ROLLS + 1):
        before, after = watched.new_address(), watched.new_address()
        offend(watched, before, MAX_RETRY - 1)  # the last offence comes in the next file
        inode = watched.offences.stat().st_ino
        while watched.offences.stat().st_ino == inode:
            with watched.connect(watched.new_address()) as connection:
                for _ in range(MAX_RETRY - 1):
                    assert connection.ask(LONG, headers=[("User-Agent", "x" * 400)]).status == 403
        offend(watched, before, 1)
        offend(watched, after, MAX_RETRY)
        for address in (before, after):
            wait_until(watched.ban_file("scan", address).exists, f"{address} is banned after roll {number}")
    assert len(rolled(watched)) >= ROLLS
    wait_until(lambda: any(path.suffix == ".gz" for path in rolled(watched)), "old logs are compressed")
    for path in rolled(watched):
        assert path.stat().st_mode & 0o007 == 0, f"{path.name} is for its owner and group alone"
        if path.suffix == ".gz":
            assert gzip.decompress(path.read_bytes()).startswith(b'{"level":')


def test_the_new_log_belongs_to_who_had_the_old_one(watched: Edge, fail2ban: Fail2ban) -> None:
    """fail2ban on NixOS may read every file; the mode is for the owner's group."""
    status = watched.offences.stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_uid == (watched.logs.stat().st_uid if os.geteuid() == 0 else os.geteuid())
