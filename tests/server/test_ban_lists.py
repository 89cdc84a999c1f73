"""Countries, networks and CrowdSec's decisions: who is on a list is cut off, and nobody else."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.server.certificates import Identity
from tests.server.crowdsec import CrowdSec
from tests.server.edge import Edge, is_cut
from tests.server.exposure_command import command
from tests.server.mmdb import write_database, write_endless_database
from tests.server.visitor import DOMAIN, ConnectionDroppedError
from tests.server.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.server

KEY = "a-key-that-only-crowdsec-knows"
CHINA, CHINA_6 = "203.0.113.77", "2001:db8:86:ffff::1"
GERMANY, GERMANY_6 = "198.51.77.1", "2001:db8:49::1"
NOWHERE, NEXT_48 = "192.0.2.77", "2001:db8:87::1"
COUNTRIES = {
    "203.0.113.0/24": "CN",
    "2001:db8:86::/48": "CN",
    "198.51.77.0/24": "DE",
    "2001:db8:49::/48": "DE",
    "192.168.7.0/24": "CN",
    "192.0.2.64/26": "AP",
}


class Lists:
    """The writers as their units run them, over an edge's folder."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.folder = edge.state / "bans/lists"
        self.reports = edge.state / "lists"
        self.settings = edge.state / "settings/lists.conf"
        self.database = edge.folder / "countries.mmdb"
        self.networks = edge.folder / "networks.txt"
        for place in (self.folder, self.reports, self.settings.parent):
            place.mkdir(exist_ok=True)
            place.chmod(0o755)

    def _command(self, verb: str) -> list[str]:
        places = {"settings": self.settings, "folder": self.folder, "reports": self.reports}
        options = [f"--{name}={place}" for name, place in places.items()]
        return [str(self.edge._program), verb, *options]

    def write(self, *lines: str) -> None:
        """Have the lists made of these sources, or of those that stand."""
        if lines:
            self.settings.write_text("".join(f"{line}\n" for line in lines))
        done = subprocess.run(
            self._command("ban-lists-write"), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr

    def china(self) -> None:
        """Ban a country."""
        self.write("countries CN", f"database {self.database}", "database-days 45")

    def report(self, name: str) -> str:
        """Return what became of a list."""
        path = self.reports / name
        return path.read_text().splitlines()[0] if path.exists() else ""

    def follow(self, api: CrowdSec, key: str = KEY) -> subprocess.Popen[str]:
        """Start what reads CrowdSec."""
        self.settings.write_text(f"crowdsec {api.address}\n")
        reader = subprocess.Popen(
            self._command("ban-lists-follow"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert reader.stdin is not None
        reader.stdin.write(f"{key}\n")
        reader.stdin.close()
        return reader


@pytest.fixture
def lists(edge: Edge) -> Iterator[Lists]:
    """Return the writers of the shared edge, whose lists go when the test ends."""
    made = Lists(edge)
    write_database(made.database, COUNTRIES)
    yield made
    for path in made.folder.iterdir():
        path.unlink()
    for path in made.reports.iterdir():
        path.unlink()
    wait_until(lambda: not is_cut(edge, CHINA), "no list is in force")


def cut_ones(edge: Edge, *addresses: str) -> set[str]:
    return {address for address in addresses if is_cut(edge, address)}


EVERYBODY = (CHINA, CHINA_6, f"::ffff:{CHINA}", GERMANY, GERMANY_6, NOWHERE, NEXT_48, "192.168.7.7")


def test_who_is_in_a_listed_country_is_cut_off_and_nobody_else(
    edge: Edge, phone: Identity, lists: Lists
) -> None:
    with edge.connect(CHINA) as connection:
        # A link that Immich has opened for this visitor spares from fail2ban's bans, not from a list.
        assert connection.ask("/share/abc").status == 200
        assert connection.ask("/api/shared-links/me?key=abc").status == 200
        lists.china()
        wait_until(lambda: is_cut(edge, CHINA), "China is cut off")
        with pytest.raises(ConnectionDroppedError):
            connection.ask("/api/shared-links/me?key=abc")
    assert cut_ones(edge, *EVERYBODY) == {CHINA, CHINA_6, f"::ffff:{CHINA}"}
    assert edge.ask("/api/users/me", address=CHINA, identity=phone).status == 200

    lists.write("only-countries CN", f"database {lists.database}", "database-days 45")
    wait_until(lambda: is_cut(edge, GERMANY), "everybody else is cut off")
    assert cut_ones(edge, *EVERYBODY) == {GERMANY, GERMANY_6}


def test_another_edge_has_the_lists_from_its_first_request_on(edge: Edge, lists: Lists) -> None:
    lists.china()
    edge.restart()
    assert cut_ones(edge, CHINA, GERMANY) == {CHINA}


@pytest.mark.parametrize("fault", ["missing", "stale", "damaged", "endless", "none"])
def test_a_database_that_cannot_be_used_changes_nothing_and_is_named(
    edge: Edge, lists: Lists, fault: str
) -> None:
    lists.china()
    wait_until(lambda: is_cut(edge, CHINA), "China is cut off")
    said = {
        "missing": "is not on the server",
        "stale": "is 50 days old",
        "damaged": "is damaged, or is not a country database",
        "endless": "is damaged",
        "none": "",
    }[fault]
    if fault == "missing":
        lists.database.unlink()
    elif fault == "stale":
        write_database(lists.database, {"198.51.77.0/24": "CN"}, built=time.time() - 50 * 86400)
    elif fault == "damaged":
        lists.database.write_bytes(lists.database.read_bytes()[:200])
    elif fault == "endless":
        write_endless_database(lists.database)
    else:
        write_database(lists.database, {"198.51.77.0/24": "CN"})
    lists.write()
    if fault == "none":
        wait_until(lambda: is_cut(edge, GERMANY), "a newer database counts")
        assert lists.report("countries").startswith("good 1 ")
        return
    edge.ask("/share/abc")
    assert cut_ones(edge, *EVERYBODY) == {CHINA, CHINA_6, f"::ffff:{CHINA}"}
    report = lists.report("countries")
    assert report.startswith("kept 2 ") and said in report, report


def test_networks_of_the_owner(edge: Edge, lists: Lists) -> None:
    lists.networks.write_text("# by hand\n203.0.113.77\n2001:db8:86::/48 ; a customer\n192.168.0.0/16\n")
    lists.write(f"networks {lists.networks}")
    wait_until(lambda: is_cut(edge, CHINA), "the network is cut off")
    assert cut_ones(edge, *EVERYBODY, "203.0.113.78") == {CHINA, CHINA_6, f"::ffff:{CHINA}"}
    assert "line 4, 192.168.0.0/16, is a network at home" in lists.report("networks")
    lists.networks.write_text("198.51.77.0/24\n10.0.0.0/33\n")
    lists.write()
    assert lists.report("networks").startswith("kept 2 ")
    assert cut_ones(edge, *EVERYBODY) == {CHINA, CHINA_6, f"::ffff:{CHINA}"}
    lists.networks.write_text("198.51.77.0/24\n")
    lists.write()
    wait_until(lambda: not is_cut(edge, CHINA), "what is on the list no more is let in")
    assert is_cut(edge, GERMANY)


@pytest.mark.parametrize("what", ["nothing", "half of it", "a pipe", "a link", "a folder", "bytes"])
def test_what_is_no_list_changes_nothing_and_keeps_nobody_waiting(
    edge: Edge, lists: Lists, what: str
) -> None:
    lists.china()
    wait_until(lambda: is_cut(edge, CHINA), "China is cut off")
    place = lists.folder / "countries"
    whole = place.read_bytes()
    other = lists.folder / ".other"
    if what == "nothing":
        other.write_bytes(b"")
    elif what == "half of it":
        other.write_bytes(whole[: len(whole) // 2])
    elif what == "a pipe":
        os.mkfifo(other)
    elif what == "a link":
        other.symlink_to("/etc/passwd")
    elif what == "bytes":
        other.write_bytes(os.urandom(100_000))
    if what == "a folder":
        (lists.folder / "folder").mkdir()
    else:
        other.rename(place)
    beside = lists.folder / "beside"
    beside.write_text(f"{GERMANY} by another program\nend 1\n")
    wait_until(lambda: is_cut(edge, GERMANY), "another program's list counts")
    assert cut_ones(edge, *EVERYBODY) == {CHINA, CHINA_6, f"::ffff:{CHINA}", GERMANY}
    if what == "a folder":
        (lists.folder / "folder").rmdir()
    assert "a list of bans changes nothing" in edge.journal.read_text()


def test_crowdsecs_decisions(edge: Edge, lists: Lists) -> None:
    api = CrowdSec(KEY)
    api.start()
    api.add(CHINA)
    api.add("2001:db8:86::/48", scope="Range")
    api.add("192.168.7.7")
    api.add(NOWHERE, kind="captcha")
    reader = lists.follow(api)
    try:
        wait_until(lambda: is_cut(edge, CHINA), "what is decided is cut off")
        assert cut_ones(edge, *EVERYBODY) == {CHINA, CHINA_6, f"::ffff:{CHINA}"}
        assert "192.168.7.7/32, is a network at home" in lists.report("crowdsec")
        assert "crowdsecurity/http-probing" in (lists.folder / "crowdsec").read_text()
    finally:
        reader.kill()
        reader.wait()
    assert is_cut(edge, CHINA), "what reads CrowdSec may be away"
    api.delete(CHINA)
    api.add(GERMANY)
    # Another run asks for everything.
    reader = lists.follow(api)
    try:
        wait_until(lambda: is_cut(edge, GERMANY), "what was decided meanwhile is cut off")
        assert cut_ones(edge, *EVERYBODY) == {GERMANY, CHINA_6}
    finally:
        reader.terminate()
        assert reader.wait() == 0
        api.stop()
    assert api.key not in (lists.folder / "crowdsec").read_text() + lists.report("crowdsec")


def has_state(lists: Lists, state: str) -> bool:
    return lists.report("crowdsec").startswith(f"{state} 1 ")


def test_a_key_that_crowdsec_refuses_changes_nothing_and_is_named(edge: Edge, lists: Lists) -> None:
    api = CrowdSec(KEY)
    api.start()
    api.add(CHINA)
    for key, state in ((KEY, "good"), ("another-key", "kept")):
        reader = lists.follow(api, key)
        try:
            wait_until(partial(has_state, lists, state), f"the list is {state}")
            wait_until(lambda: is_cut(edge, CHINA), "what was decided stays")
        finally:
            reader.terminate()
            reader.wait()
        assert is_cut(edge, CHINA)
    assert "refuses the key (403)" in lists.report("crowdsec")
    api.stop()


# The command on the server


@pytest.fixture
def server(edge: Edge, lists: Lists) -> Iterator[Lists]:
    """Return the lists of a server on which the command finds the edge, and whose units run."""
    programs = edge.folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "systemctl").write_text(
        f'#!/bin/sh\ncase "$*" in show*ExecStart*) echo "{{ path={edge._program} ; }}" ;; esac\n'
    )
    (programs / "fail2ban-client").write_text("#!/bin/sh\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    (edge.state / "settings/edge.env").write_text(f"IMMICH_EXPOSURE_PROXY_PORT={edge.port}\n")
    (edge.state / "domain.env").write_text(f"IMMICH_EXPOSURE_DOMAIN={DOMAIN}\n")
    yield lists
    (edge.state / "settings/edge.env").unlink()
    (edge.state / "domain.env").unlink()
    lists.settings.unlink(missing_ok=True)


def said_by(edge: Edge, *arguments: str) -> str:
    """Return all that the command says."""
    done = command(edge, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="the command is root's alone")
def test_the_command_says_who_is_on_a_list_and_what_lets_them_in(edge: Edge, server: Lists) -> None:
    assert f"{CHINA} is not banned\nThe edge answers a visitor from {CHINA}\n" == said_by(edge, "bans", CHINA)
    server.networks.write_text(f"{GERMANY_6}\n")
    server.write(
        "countries CN", f"database {server.database}", "database-days 45", f"networks {server.networks}"
    )
    wait_until(lambda: is_cut(edge, CHINA), "China is cut off")
    said = said_by(edge, "bans")
    assert "countries  2 networks banned: CN, by " in said and "\n         2 CN\n" in said
    assert f"1networkbanned:{server.networks}" in "".join(said.split())
    for address, line in ((CHINA, "countries (203.0.113.0/24, CN)"), (GERMANY_6, "networks (")):
        said = said_by(edge, "bans", address)
        assert f"{address} is banned: {line}" in said, said
        assert f"The edge hangs up on a visitor from {address}\n" in said
    assert "The edge answers a visitor" in said_by(edge, "bans", GERMANY)

    said_by(edge, "ban", CHINA)
    said = said_by(edge, "unban", CHINA)
    assert f"{CHINA} stays banned by the list countries (203.0.113.0/24, CN); to let it in, change" in said
    assert f"remove {GERMANY_6}/128 from {server.networks}" in said_by(edge, "unban", GERMANY_6)
    assert "except by lists (countries, networks)" in said_by(edge, "unban", "all")
    assert is_cut(edge, CHINA) and not edge.ban_file("manual", CHINA).exists()
