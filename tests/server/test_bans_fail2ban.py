"""fail2ban on Caddy's real log: offenders are cut off, people and innocents are not."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.certificates import Identity
from tests.server.edge import Edge, banned, running_edge
from tests.server.fail2ban import Fail2ban, running_fail2ban
from tests.server.visitor import ConnectionDroppedError
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

MAX_RETRY = 5
LOGIN = "/api/shared-links/login?key=abc"


@pytest.fixture(scope="module")
def watched(caddy_program: Path) -> Iterator[Edge]:
    """Return an edge whose link passwords are always wrong, for the tests of this file."""
    with running_edge(caddy_program) as edge:
        edge.backend.answers["POST", "/api/shared-links/login"] = (401, {})
        yield edge


@pytest.fixture(scope="module")
def fail2ban(watched: Edge) -> Iterator[Fail2ban]:
    """Return fail2ban, which bans at the fifth offence."""
    with running_fail2ban(watched, max_retry=MAX_RETRY) as server:
        yield server


def repeat(
    edge: Edge,
    address: str,
    target: str,
    count: int,
    method: str = "GET",
    *,
    headers: tuple[tuple[str, str], ...] = (),
    identity: Identity | None = None,
) -> None:
    """Ask the same so many times."""
    for _ in range(count):
        edge.ask(target, method, address=address, headers=headers, identity=identity, body=b"")


def await_ban(edge: Edge, jail: str, address: str) -> Path:
    """Wait until an address is banned and return its file."""
    path = edge.ban_file(jail, address)
    wait_until(path.exists, f"{address} is banned by {jail}")
    return path


def assert_cut(edge: Edge, address: str) -> None:
    """A banned visitor gets no answer."""
    with pytest.raises(ConnectionDroppedError):
        edge.ask("/share/abc", address=address)


def settle(edge: Edge) -> None:
    """Return when fail2ban has read all that was logged so far: a scanner that came last is banned."""
    scanner = edge.new_address()
    repeat(edge, scanner, "/wp-login.php", MAX_RETRY)
    await_ban(edge, "scan", scanner)


@pytest.mark.parametrize("address", ["192.0.2.66", "2001:db8:66::66"])
def test_a_scanner_is_banned(watched: Edge, fail2ban: Fail2ban, address: str) -> None:
    phone = watched.device("phone")
    name = "2001:db8:66::_64" if ":" in address else address
    repeat(watched, address, "/wp-login.php", MAX_RETRY - 1)
    repeat(watched, address, "/%2e%2e/etc/passwd", 1)
    path = await_ban(watched, "scan", name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert_cut(watched, address)
    assert watched.ask("/share/abc").status == 200
    assert watched.ask("/api/users/me", address=address, identity=phone).status == 200
    lifted = fail2ban.client("set", "immich-scan", "unbanip", name.replace("_", "/"))
    assert lifted.returncode == 0, lifted.stderr
    wait_until(lambda: not path.exists(), "the ban is lifted")
    assert watched.ask("/share/abc", address=address).status == 200


def test_an_ipv6_network_is_one_visitor(watched: Edge, fail2ban: Fail2ban) -> None:
    """Whoever has a /64 could come from another address each time."""
    for number in range(MAX_RETRY):
        repeat(watched, f"2001:db8:77::{number}", "/wp-login.php", 1)
    await_ban(watched, "scan", "2001:db8:77::_64")
    assert_cut(watched, "2001:db8:77:0:ffff::1")
    assert watched.ask("/share/abc", address="2001:db8:77:1::1").status == 200


def test_a_guesser_of_link_passwords_is_banned(watched: Edge, fail2ban: Fail2ban) -> None:
    guesser = watched.new_address()
    repeat(watched, guesser, LOGIN, MAX_RETRY, "POST")
    await_ban(watched, "auth", guesser)
    assert_cut(watched, guesser)


def test_real_people_are_never_banned(watched: Edge, fail2ban: Fail2ban) -> None:
    phone = watched.device("phone")
    person, typist, owner = (watched.new_address() for _ in range(3))
    asset = "/api/assets/0a1b2c3d-0000-4000-8000-0123456789ab/thumbnail"
    watched.backend.answers["GET", asset] = (404, {})
    watched.backend.answers["GET", "/share/deep-link"] = (404, {})
    watched.backend.answers["GET", "/api/shared-links/me"] = (401, {})
    watched.backend.answers["POST", "/api/auth/login"] = (401, {})
    for target in (
        "/share/deep-link",
        f"{asset}?key=abc",
        "/api/shared-links/me?key=abc",
        "/api/shared-links/me?key=",
        "/api/users/me",
        "/",
        "/photos",
        "/api/socket.io/?EIO=4",
        "/.well-known/immich",
        "/apple-touch-icon-precomposed.png",
    ):
        repeat(watched, person, target, 2 * MAX_RETRY)
    repeat(watched, typist, LOGIN, MAX_RETRY - 1, "POST")
    repeat(watched, owner, "/api/auth/login", 3 * MAX_RETRY, "POST", identity=phone)
    repeat(watched, owner, "/wp-login.php", 3 * MAX_RETRY, identity=phone)
    settle(watched)
    assert banned(watched).isdisjoint({person, typist, owner})


def test_no_visitor_can_have_another_banned(watched: Edge, fail2ban: Fail2ban) -> None:
    victim = "192.0.2.99"
    forged = (
        '{"level":"info","ts":"2026-01-01T00:00:00.000Z","logger":"http.log.access.log0",'
        f'"msg":"handled request","request":{{"remote_ip":"{victim}","remote_port":"1",'
        f'"client_ip":"{victim}","proto":"HTTP/1.1",'
    )
    tail = '","bytes_read":0,"user_id":"","duration":0.1,"size":40,"status":403,"user_agent":"",'
    tail += '"verdict":"scan"}'
    address = watched.new_address()
    for _ in range(MAX_RETRY):
        for headers in (
            (("User-Agent", forged + tail),),
            (("User-Agent", f'x","client_ip":"{victim}","verdict":"scan"}}'),),
            (("X-Forwarded-For", victim), ("X-Real-IP", victim), ("Forwarded", f"for={victim}")),
            ((f"client_ip:{victim}", victim),),
        ):
            watched.ask("/share/abc", address=address, headers=headers)
        for target in (
            f'/share/","client_ip":"{victim}","verdict":"scan"}}',
            f"/share/x?{forged.replace(' ', '')}",
        ):
            watched.ask(target, address=watched.new_address())
        with watched.connect(address) as connection:
            connection.ask(
                "/share/abc", f'GET","client_ip":"{victim}","status":403', host=watched_host(victim)
            )
    settle(watched)
    assert victim not in banned(watched)


def watched_host(victim: str) -> str:
    """Return a Host header that tries to look like a field of the log."""
    return f'x","client_ip":"{victim}'


def test_bans_come_back_after_a_restart(watched: Edge, fail2ban: Fail2ban) -> None:
    scanner, leftover = watched.new_address(), watched.ban_file("scan", "192.0.2.200")
    repeat(watched, scanner, "/wp-login.php", MAX_RETRY)
    path = await_ban(watched, "scan", scanner)
    by_hand = watched.ban_file("manual", watched.new_address())
    by_hand.touch()
    fail2ban.stop()
    assert path.exists(), "while fail2ban is away nobody slips in"
    leftover.touch()
    fail2ban.start()
    wait_until(lambda: not leftover.exists(), "a ban that ended meanwhile is lifted")
    assert path.exists()
    assert_cut(watched, scanner)
    fail2ban.kill()
    path.unlink()
    fail2ban.start()
    wait_until(path.exists, "the ban is restored from fail2ban's database")
    watched.restart()
    assert_cut(watched, scanner)
    assert by_hand.exists()
    assert fail2ban.client("unban", "--all").returncode == 0
    wait_until(lambda: not path.exists(), "all bans of fail2ban are lifted")
    assert by_hand.exists(), "a ban by hand is nobody's but the owner's"


def test_what_cannot_be_swept_keeps_nobody_from_being_banned(watched: Edge, fail2ban: Fail2ban) -> None:
    """As when somebody lifts a ban in the moment in which fail2ban looks for those that have ended."""
    odd = watched.state / "bans" / "scan" / "odd"
    odd.mkdir()
    os.utime(odd, (0, 0))
    try:
        scanner = watched.new_address()
        repeat(watched, scanner, "/wp-login.php", MAX_RETRY)
        await_ban(watched, "scan", scanner)
        assert_cut(watched, scanner)
    finally:
        odd.rmdir()


def test_all_files_are_looked_at_once_a_minute_alone(watched: Edge, fail2ban: Fail2ban) -> None:
    """With many bans the look takes longer than the next offender should have."""
    leftover = watched.ban_file("scan", "192.0.2.201")
    leftover.touch()
    os.utime(leftover, (0, 0))
    scanner = watched.new_address()
    repeat(watched, scanner, "/wp-login.php", MAX_RETRY)
    await_ban(watched, "scan", scanner)
    assert leftover.exists()
    leftover.unlink()


def test_a_missing_ban_folder_is_told(watched: Edge, fail2ban: Fail2ban) -> None:
    fail2ban.stop()
    folder = watched.state / "bans" / "scan"
    folder.rename(folder.with_name("elsewhere"))
    try:
        fail2ban.start()
        wait_until(
            lambda: f"The ban folder {folder} is missing" in fail2ban.log.read_text(), "fail2ban complains"
        )
        assert not folder.exists(), "a folder made in passing would hide the trouble"
        assert watched.ask("/share/abc").status == 503
    finally:
        folder.with_name("elsewhere").rename(folder)
