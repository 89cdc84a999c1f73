"""Fair verdicts: what innocent people's programs ask never leads to a ban, what an offender asks always does.

The two files in requests/ are the wall. Immich answers here as it was seen to: the page of a link comes with
404 for every target that is not the link itself, and works; its API knows the links.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.server.edge import Edge, running_edge
from tests.server.fail2ban import Fail2ban, running_fail2ban
from tests.server.http2 import Http2Connection, request_headers
from tests.server.visitor import DOMAIN, Connection, ConnectionDroppedError
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

FILES = Path(__file__).parent / "requests"
MAX_RETRY = 10  # as in the settings' default
KEY = "aBc_dEf-123"
AT_ONCE = 4
OFFENCES = {"scan", "guess", "password"}


@dataclass(frozen=True)
class Request:
    """One line of a file; the target may hold any letter, and is sent as UTF-8."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def raw(self, number: int) -> bytes:
        """Return it for HTTP/1.1; `number` makes one guess another than the next."""
        lines = [f"{self.method} {self.numbered(number)} HTTP/1.1", f"Host: {DOMAIN}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += ["Content-Length: 2"] if self.method == "POST" else []
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + (b"{}" if self.method == "POST" else b"")

    def numbered(self, number: int) -> str:
        """Return the target of this time."""
        return self.target.replace("{n}", str(number))


def read(name: str) -> dict[str, list[Request]]:
    """Return the requests of a file by the heading that they stand under."""
    found: dict[str, list[Request]] = {}
    heading = ""
    for line in (FILES / name).read_text().splitlines():
        if line.startswith("# "):
            heading = line[2:]
        elif line:
            asked, *headers = line.split(" | ")
            method, target = asked.split(" ", 1) if asked[0].isupper() else ("GET", asked)
            pairs = (each.partition(": ") for each in headers)
            fields = tuple((name, value) for name, _, value in pairs)
            found.setdefault(heading, []).append(Request(method, target, fields))
    return found


INNOCENT, GUILTY = read("innocent.txt"), read("offences.txt")
BY_NAME = next(each for each in INNOCENT if each.startswith("Links by name"))
SLUGS = {"holiday"} | {
    urllib.parse.unquote(each.target.split("/")[2])
    for each in INNOCENT[BY_NAME]
    if "/photos/" not in each.target
}


def immich(method: str, target: str) -> tuple[int, bytes] | None:
    """What Immich answers: for a page by the whole target, for its API by key or slug."""
    path, _, query = target.partition("?")
    for folder, known in (("/share/", {KEY}), ("/s/", SLUGS)):
        if target.startswith(folder):
            return (200 if target.removeprefix(folder) in known else 404), b"<!doctype html>"
    values = urllib.parse.parse_qs(query)
    if path == "/api/shared-links/login":
        return 401, b'{"message":"Invalid password"}'
    for name, known in (("key", {KEY}), ("slug", SLUGS)):
        if name in values and values[name][0] not in known:
            return 401, f'{{"message":"Invalid share {name}"}}'.encode()
    return None


@pytest.fixture(scope="module")
def watched(caddy_program: Path) -> Iterator[Edge]:
    """Return an edge before such an Immich."""
    with running_edge(caddy_program) as edge:
        edge.backend.decide = immich
        yield edge


@pytest.fixture(scope="module")
def fail2ban(watched: Edge) -> Iterator[Fail2ban]:
    """Return fail2ban with the default number of offences."""
    with running_fail2ban(watched, max_retry=MAX_RETRY) as server:
        yield server


def ask(edge: Edge, address: str, requests: Sequence[bytes]) -> int:
    """Send requests from an address, over a new connection when the edge has enough of one.

    Return how many are in the log: what is no HTTP for Go never gets to the edge (400).
    """
    connection: Connection | None = None
    counted = 0
    for raw in requests:
        with contextlib.suppress(ConnectionDroppedError):
            if connection is None:
                connection = edge.connect(address)
            answer = connection.send(raw)
            counted += answer.status != 400
            if answer.headers.get("connection") != "close" and answer.status not in (101, 400):
                continue
        if connection is not None:
            connection.tls.close()
        connection = None
    if connection is not None:
        connection.tls.close()
    return counted


def verdicts_of(edge: Edge, expected: dict[str, int]) -> dict[str, list[str]]:
    """Wait for so many lines of each address; return their verdicts."""
    found: dict[str, list[str]] = {}

    def there() -> bool:
        found.clear()
        for entry in edge.log_entries():
            found.setdefault(entry["request"]["client_ip"], []).append(entry.get("verdict", ""))
        return all(len(found.get(address, [])) >= count for address, count in expected.items())

    wait_until(there, "every request is in the log")
    return found


def test_the_wall_is_high_enough() -> None:
    assert sum(map(len, INNOCENT.values())) >= 300
    assert sum(map(len, GUILTY.values())) >= 100


def test_nothing_innocent_is_an_offence(watched: Edge) -> None:
    """Each from an address of its own, twice; an expired link is the one guess that a person makes, once."""
    asked = {watched.new_address(): each for requests in INNOCENT.values() for each in requests}
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        counts = dict(
            zip(
                asked,
                pool.map(lambda item: ask(watched, item[0], [item[1].raw(1)] * 2), asked.items()),
                strict=True,
            )
        )
    verdicts = verdicts_of(watched, counts)
    wrong = {
        f"{asked[address].method} {asked[address].target}": verdicts[address]
        for address in asked
        if OFFENCES & set(verdicts.get(address, [])) and asked[address].target != "/share/eXp1red"
    }
    assert wrong == {}


def test_a_link_opens_in_every_spelling(watched: Edge) -> None:
    """What a browser sends for a link by name reaches Immich, and so does what trackers make of a link."""
    refused = []
    for heading in (BY_NAME, "What trackers, mail and chat programs add"):
        for each in INNOCENT[heading]:
            with watched.connect(watched.new_address()) as connection:
                if connection.send(each.raw(1)).status not in (200, 404):
                    refused.append(each.target)
    assert [each for each in refused if not re.search(CLOSED, each)] == []


CLOSED = r"^/s/[^/]*%(?![0-9A-Fa-f]{2})|%25[0-9A-Fa-f]{2}|^/s/a/b"
"""A raw percent is no HTTP, an escaped escape could be a step elsewhere, and two segments are no link of
Immich's: they are refused quietly."""


@pytest.mark.parametrize(
    "glue", [",", ".", ";", ")", "!", "%22", "%3E", "%E2%80%A6", "&fbclid=x", ",?utm_source=x"]
)
def test_a_key_opens_whatever_is_glued_to_its_end(watched: Edge, glue: str) -> None:
    """Chat and mail programs take the end of the sentence for a part of the link."""
    sent_on = watched.ask(f"/share/{KEY}{glue}")
    assert (sent_on.status, sent_on.headers["location"]) == (302, f"/share/{KEY}")
    assert watched.ask(sent_on.headers["location"]).status == 200


def test_everything_innocent_from_one_house_leads_to_no_ban(watched: Edge, fail2ban: Fail2ban) -> None:
    """Over HTTP/2, as browsers ask; the expired link is the only one that counts."""
    house = "192.0.2.77"
    connection: Http2Connection | None = None
    for each in (each for requests in INNOCENT.values() for each in requests):
        fields = [
            (name.lower(), value) for name, value in each.headers if name not in ("Connection", "Upgrade")
        ]
        target = each.target.encode().decode("latin-1")
        with contextlib.suppress(ConnectionDroppedError):
            if connection is None:
                connection = Http2Connection(watched.connect(house, protocols=("h2",)))
            connection.send(
                request_headers(target, each.method, extra=fields), b"" if each.method == "POST" else None
            )
            continue
        connection = None
    offender = watched.new_address()
    ask(watched, offender, [GUILTY["What scanners look for"][0].raw(1)] * MAX_RETRY)
    wait_until(watched.ban_file("scan", offender).exists, "fail2ban has read everything")
    assert not [path for path in (watched.state / "bans").glob("*/*") if path.name == house]


def test_every_offence_leads_to_a_ban(watched: Edge, fail2ban: Fail2ban) -> None:
    asked = {watched.new_address(): each for requests in GUILTY.values() for each in requests}

    def offend(address: str) -> None:
        ask(watched, address, [asked[address].raw(number) for number in range(MAX_RETRY)])

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(offend, asked))

    def free() -> list[str]:
        banned = {path.name for path in (watched.state / "bans").glob("*/*")}
        return [each.target for address, each in asked.items() if address not in banned]

    with contextlib.suppress(Exception):
        wait_until(lambda: not free(), "all of them are banned")
    assert free() == []


def test_a_page_elsewhere_opens_made_up_links_and_bans_nobody(watched: Edge, fail2ban: Fail2ban) -> None:
    """A script can open ten of them in a second; so few are looked up that no guesser gains by it."""
    house = watched.new_address()
    led = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    statuses = [
        watched.ask(f"/share/made-up{number}", address=house, headers=led).status
        for number in range(3 * MAX_RETRY)
    ]
    assert statuses == [404] * MAX_RETRY + [403] * 2 * MAX_RETRY
    assert watched.ask(f"/share/{KEY}", address=house).status == 200
    offender = watched.new_address()
    ask(watched, offender, [GUILTY["What scanners look for"][0].raw(1)] * MAX_RETRY)
    wait_until(watched.ban_file("scan", offender).exists, "fail2ban has read everything")
    assert not list((watched.state / "bans").glob(f"*/{house}"))


@pytest.mark.parametrize(
    "agent", ["Mozilla/4.0 (compatible; ms-office; MSOffice 16)", "WhatsApp/2.23.18.78 A"]
)
def test_programs_that_look_at_a_link_first_see_its_page(watched: Edge, agent: str) -> None:
    assert watched.ask(f"/share/{KEY}", headers=[("User-Agent", agent)]).status == 200
