"""`immich-exposure bans | ban | unban` on the server, with real Caddy and real fail2ban."""

from __future__ import annotations

import ipaddress
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ban_names import ban_names
from tests.server.edge import Edge, is_cut, running_edge
from tests.server.exposure_command import command
from tests.server.fail2ban import Fail2ban, running_fail2ban
from tests.server.waiting import wait_until

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(os.geteuid() != 0, reason="the command is root's alone"),
]

MAX_RETRY = 3


@pytest.fixture(scope="module")
def watched(caddy_program: Path) -> Iterator[Edge]:
    """Return an edge for the tests of this file."""
    with running_edge(caddy_program) as edge:
        yield edge


@pytest.fixture(scope="module")
def fail2ban(watched: Edge) -> Iterator[Fail2ban]:
    """Return fail2ban, which bans at the third offence, and put it where the command finds it."""
    with running_fail2ban(watched, max_retry=MAX_RETRY) as server:
        programs = watched.folder / "programs"
        programs.mkdir()
        client = " ".join(server._command("fail2ban-client"))
        (programs / "fail2ban-client").write_text(f'#!/bin/sh\nexec {client} "$@"\n')
        (programs / "systemctl").write_text("#!/bin/sh\nexit 0\n")
        for program in programs.iterdir():
            program.chmod(0o755)
        yield server


@pytest.mark.parametrize(
    ("arguments", "banned", "free"),
    [
        (("203.0.113.9",), "203.0.113.9", "203.0.113.10"),
        (("2001:DB8:0:0:1:0:0:1",), "2001:db8::1:0:0:1", "2001:db8::1:0:0:2"),
        (("2001:db8:8::9/64",), "2001:db8:8:0:ffff::1", "2001:db8:8:1::9"),
        (("2001:db8:9::9", "/64"), "2001:db8:9::1", "2001:db8:9:1::9"),
    ],
)
def test_a_ban_by_hand_holds_until_it_is_lifted(
    watched: Edge, fail2ban: Fail2ban, arguments: tuple[str, ...], banned: str, free: str
) -> None:
    assert command(watched, "ban", *arguments).returncode == 0
    assert is_cut(watched, banned) and not is_cut(watched, free)
    watched.restart()
    fail2ban.stop()
    fail2ban.start()
    assert is_cut(watched, banned)
    done = command(watched, "unban", *arguments)
    assert (done.returncode, done.stdout) == (0, "")
    assert not is_cut(watched, banned)


def scan(edge: Edge, address: str) -> Path:
    """Have fail2ban ban an address; return the ban's file."""
    for _ in range(MAX_RETRY):
        edge.ask("/wp-login.php", address=address)
    name = address
    if ":" in address:
        name = f"{ipaddress.IPv6Network((address, 64), strict=False).network_address}_64"
    file = edge.ban_file("scan", name)
    wait_until(file.exists, f"{address} is banned")
    return file


@pytest.mark.parametrize("address", ["198.51.99.7", "2001:db8:99::7"])
def test_a_ban_of_fail2ban_is_lifted_for_good(watched: Edge, fail2ban: Fail2ban, address: str) -> None:
    file = scan(watched, address)
    listed = command(watched, "bans").stdout
    assert f"scan    {file.name.replace('_', '/')} " in listed and "until " in listed
    assert command(watched, "unban", address).returncode == 0
    assert not file.exists() and not is_cut(watched, address)
    assert file.name.replace("_", "/") not in fail2ban.client("get", "immich-scan", "banip").stdout
    scan(watched, address)
    other = watched.new_address()
    command(watched, "ban", other)
    assert command(watched, "unban", "all").returncode == 0
    assert not list((watched.state / "bans").glob("*/*"))
    assert fail2ban.client("get", "immich-scan", "banip").stdout.strip() == ""
    assert command(watched, "bans").stdout == ""


@pytest.mark.parametrize(
    "address",
    [
        "", "all", "x", "..", "../../devices/x", "/etc/passwd", "203.0.113.9/24", "203.0.113.9/64",
        "203.0.113.256", "203.0.113", "203.0.113.9.1", "203.0.113.09", "127.0.0.1", "0.0.0.0", "::", "::1",
        "0:0:0:0:0:0:0:1", "::ffff:203.0.113.9", "::ffff:cb00:7109", "2001:db8::1/48", "2001:db8:::1",
        "2001::db8::1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7::8", "12345::1", "g::1",
        ":1:2:3:4:5:6:7", "1:2:3:4:5:6:7:", "2001:db8::1%eth0", "2001:db8::1 ", "203.0.113.9\n203.0.113.10",
        "$(id)", "*", "-rf", "203.0.113.9;id",
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["ban", "unban"])
def test_nothing_but_an_address_gets_through(
    watched: Edge, fail2ban: Fail2ban, verb: str, address: str
) -> None:
    if (verb, address) == ("unban", "all"):
        pytest.skip("that is how to lift every ban")
    before = sorted(watched.state.rglob("*"))
    done = command(watched, verb, address)
    assert done.returncode == 1
    assert done.stderr.startswith(("error: ", "error: Name the address")) and done.stdout == ""
    assert sorted(watched.state.rglob("*")) == before


@pytest.mark.parametrize(("written", "name"), [row for row in ban_names() if row[1] is not None])
def test_fail2ban_names_the_file_as_the_edge_does(
    watched: Edge, fail2ban: Fail2ban, written: str, name: str
) -> None:
    assert fail2ban.client("set", "immich-scan", "banip", written).returncode == 0
    file = watched.ban_file("scan", name)
    wait_until(file.exists, f"{written} is banned")
    assert fail2ban.client("set", "immich-scan", "unbanip", name.replace("_", "/")).returncode == 0
    wait_until(lambda: not file.exists(), f"{name} is not banned any more")


def test_addresses_are_spelled_as_caddy_spells_them(watched: Edge, fail2ban: Fail2ban) -> None:
    """Caddy's spelling is RFC 5952, as Python's is."""
    dice = random.Random(5952)
    for _ in range(40):
        groups = [dice.choice([0, 0, 0, 1, 0xDB8, 0xFFFF]) for _ in range(7)]
        address = ipaddress.IPv6Address(":".join(f"{group:x}" for group in [0x2001, *groups]))
        spelling = dice.choice([address.exploded.upper(), address.compressed])
        suffix = dice.choice(["", "/64"])
        assert command(watched, "ban", spelling + suffix).returncode == 0
        network = ipaddress.IPv6Network((int(address) >> 64 << 64, 64)).network_address
        name = f"{network}_64" if suffix else str(address)
        file = watched.ban_file("manual", name)
        assert file.exists(), f"{spelling}{suffix} is not {name}"
        file.unlink()
