"""Who tries many keys is banned; ordinary behaviour never is, however often it ends in a 401, 403 or 404."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.remote.remote_script import SERVER_FILES
from tests.server.conftest import EdgeMaker
from tests.server.edge import Edge, banned, running_edge
from tests.server.fail2ban import Fail2ban, running_fail2ban
from tests.server.http2 import Http2Connection
from tests.server.visitor import ConnectionDroppedError
from tests.server.waiting import wait_until

pytestmark = pytest.mark.server

MAX_RETRY = 10  # as in the settings' default
ASSET = "0a1b2c3d-0000-4000-8000-"
OPERATIONS = SERVER_FILES / "immich-operations.json"


@pytest.fixture(scope="module")
def watched(caddy_program: Path) -> Iterator[Edge]:
    """Return an edge in front of an Immich that knows no link at all."""
    with running_edge(caddy_program) as edge:
        yield edge


@pytest.fixture(scope="module")
def fail2ban(watched: Edge) -> Iterator[Fail2ban]:
    """Return fail2ban with the default number of offences."""
    with running_fail2ban(watched, max_retry=MAX_RETRY) as server:
        yield server


@pytest.fixture(autouse=True)
def _forget(watched: Edge) -> None:
    watched.backend.answers.clear()
    watched.backend.bodies.clear()
    watched.backend.received.clear()


def settle(edge: Edge) -> None:
    """Return when fail2ban has read all that was logged so far, in every jail."""
    scanner, guesser, typist = (edge.new_address() for _ in range(3))
    edge.backend.answers["POST", "/api/shared-links/login"] = (401, {})
    edge.backend.answers["GET", "/api/timeline/buckets"] = (401, {})
    for number in range(MAX_RETRY):
        edge.ask("/wp-login.php", address=scanner)
        edge.ask(f"/api/timeline/buckets?key=settle{number}", address=guesser)
        edge.ask("/api/shared-links/login?key=settle", "POST", address=typist, body=b"{}")
    for jail, address in (("scan", scanner), ("keys", guesser), ("auth", typist)):
        wait_until(edge.ban_file(jail, address).exists, f"{address} is banned by {jail}")


def visit(edge: Edge, address: str, targets: list[str], method: str = "GET") -> set[int]:
    """Ask for all of these over one connection; return the statuses."""
    with edge.connect(address) as connection:
        return {connection.ask(target, method).status for target in targets}


# --- guessers


def guess_pages(edge: Edge, number: int) -> str:
    """A page of a link that does not exist."""
    target = f"/share/guess{number}"
    edge.backend.answers["GET", target] = (404, {})
    return target


def guess_slugs(edge: Edge, number: int) -> str:
    """The same by a slug."""
    target = f"/s/guess-{number}"
    edge.backend.answers["GET", target] = (404, {})
    return target


def guess_spellings(edge: Edge, number: int) -> str:
    """A page that Immich answers with 404 for every link: what its API says counts."""
    target = f"/s/guess%20{number}/"
    edge.backend.answers["GET", target] = (404, {})
    edge.backend.answers["GET", "/api/shared-links/me"] = (401, {})
    return target


def guess_in_the_api(edge: Edge, number: int) -> str:
    """A key that Immich does not know, where it says so first."""
    edge.backend.answers["GET", "/api/shared-links/me"] = (401, {})
    return f"/api/shared-links/me?key=guess{number}"


def guess_photos(edge: Edge, number: int) -> str:
    """A key that Immich does not know, asked for a photo by slug."""
    path = f"/api/assets/{ASSET}{number:012}/thumbnail"
    edge.backend.answers["GET", path] = (401, {})
    return f"{path}?size=preview&slug=guess{number}"


GUESSES = [guess_pages, guess_slugs, guess_spellings, guess_in_the_api, guess_photos]


@pytest.mark.parametrize("guess", GUESSES)
def test_who_tries_many_keys_is_banned(
    watched: Edge, fail2ban: Fail2ban, guess: Callable[[Edge, int], str]
) -> None:
    guesser = watched.new_address()
    with contextlib.suppress(ConnectionDroppedError):  # fail2ban may be quicker
        visit(watched, guesser, [guess(watched, number) for number in range(30)])
    wait_until(watched.ban_file("keys", guesser).exists, f"{guesser} is banned")
    with pytest.raises(ConnectionDroppedError):
        watched.ask("/share/abc", address=guesser)
    assert not re.search(r"guess(%20)?\d", watched.log_text()), "no key is ever written down"


@pytest.mark.parametrize("guess", GUESSES)
def test_one_key_counts_once(watched: Edge, guess: Callable[[Edge, int], str]) -> None:
    person, other = watched.new_address(), watched.new_address()
    target = guess(watched, 31)
    visit(watched, person, [target] * 3)
    visit(watched, other, [target])
    assert [entry["verdict"] for entry in watched.entries_of(person, 3)] == ["guess", "anon", "anon"]
    assert [entry["verdict"] for entry in watched.entries_of(other)] == ["guess"]


def test_what_immich_refuses_for_other_reasons_is_no_guess(watched: Edge) -> None:
    person = watched.new_address()
    photo = f"/share/abc/photos/{ASSET}0123456789ab"
    login, upload = "/api/shared-links/login", "/api/assets"
    watched.backend.answers |= {
        ("GET", photo): (404, {}),
        ("POST", login): (401, {}),
        ("POST", upload): (401, {}),
        ("GET", "/api/albums/x"): (404, {}),
        ("GET", "/api/shared-links/me"): (401, {}),
    }
    watched.backend.bodies["GET", "/api/shared-links/me"] = b'{"message":"Password required"}'
    visit(watched, person, [photo, f"/api/assets/{ASSET}0123456789ab/thumbnail?key=abc"])
    visit(watched, person, [f"/api/shared-links/me?key=protected{number}" for number in range(30)])
    visit(watched, person, [f"{login}?key=a"], "POST")
    *looks, wrong = watched.entries_of(person, 33)
    assert {entry["verdict"] for entry in looks} == {"anon"}
    assert wrong["verdict"] == "password"


SPELLINGS = (
    "/share/valid/",
    "/share/valid?at=0a1b2c3d-0000-4000-8000-0123456789ab",
    "/share/valid?fbclid=IwAR0&utm_source=chat",
    f"/share/valid/photos/{ASSET}0123456789ab",
    "/s/Anna%26Ben",
    "/s/Anna%26Ben/",
)


def test_a_link_that_exists_is_no_guess_in_whatever_spelling(watched: Edge) -> None:
    """Immich answers 404, and the page works; ten different ones from one address are a family's album."""
    person = watched.new_address()
    for spelling in SPELLINGS:
        watched.backend.answers["GET", spelling.partition("?")[0]] = (404, {})
    for password in (False, True):
        if password:
            watched.backend.answers["GET", "/api/shared-links/me"] = (401, {})
            watched.backend.bodies["GET", "/api/shared-links/me"] = b'{"message":"Password required"}'
        assert visit(watched, person, list(SPELLINGS)) == {404}
    verdicts = {entry["verdict"] for entry in watched.entries_of(person, 2 * len(SPELLINGS))}
    assert verdicts == {"anon"}
    asked = [
        each for each in watched.backend.received if each.target == "/api/shared-links/me?slug=Anna%26Ben"
    ]
    assert len(asked) == 4
    assert {tuple(each.headers["x-forwarded-for"]) for each in asked} == {(person,)}


def test_what_a_mail_program_glues_to_a_link_is_no_guess(watched: Edge) -> None:
    person = watched.new_address()
    known = "/api/shared-links/me"
    for glued in ("holiday,", "holiday!", "holiday)", "holiday'"):
        watched.backend.answers["GET", f"/s/{glued}"] = (404, {})
        assert visit(watched, person, [f"/s/{glued}"]) <= {404, 403}
    watched.backend.answers["GET", known] = (401, {})
    watched.backend.answers["GET", "/s/h0liday!"] = (404, {})
    guesser = watched.new_address()
    visit(watched, guesser, ["/s/h0liday!"])
    assert {entry["verdict"] for entry in watched.entries_of(person, 4)} <= {"anon", "quiet"}
    assert [entry["verdict"] for entry in watched.entries_of(guesser)] == ["guess"]


@pytest.mark.parametrize("hang_up", [True, False])
def test_who_reads_no_more_than_the_status_has_guessed(watched: Edge, hang_up: bool) -> None:
    """The status says it all, and a page is long enough for the edge to be still writing it."""
    guesser = watched.new_address()
    target = guess_pages(watched, 32 + hang_up)
    watched.backend.bodies["GET", target] = b"<html>" + b"x" * 20_000
    with (
        watched.connect(guesser, protocols=("h2",)) as connection,
        Http2Connection(connection, window=0) as http2,
    ):
        assert http2.glance(target, hang_up=hang_up) == 404
        assert [entry.get("verdict") for entry in watched.entries_of(guesser)] == ["guess"]


@pytest.mark.parametrize(
    ("says", "verdict"),
    [("Invalid share key", "guess"), ("Invalid share slug", "guess"), ("Unauthorized", "anon")],
)
def test_an_upload_tells_who_guesses_as_well(make_edge: EdgeMaker, says: str, verdict: str) -> None:
    edge = make_edge(uploads="on")
    guesser = edge.new_address()
    edge.backend.answers |= dict.fromkeys(
        [("POST", "/api/assets"), ("GET", "/api/shared-links/me")], (401, {})
    )
    edge.backend.bodies["POST", "/api/assets"] = json.dumps({"message": says}).encode()
    visit(edge, guesser, ["/api/assets?slug=guess"], "POST")
    assert [entry["verdict"] for entry in edge.entries_of(guesser)] == [verdict]


# --- people


def test_ordinary_behaviour_is_never_banned(watched: Edge, fail2ban: Fail2ban) -> None:
    answers = watched.backend.answers
    deep_link = f"/share/abc/photos/{ASSET}0123456789ab"
    grid = [f"/api/assets/{ASSET}{number:012}/thumbnail" for number in range(60)]
    answers[("GET", deep_link)] = answers[("GET", "/share/expired")] = (404, {})
    answers |= {("GET", tile): (404, {}) for tile in grid}
    answers["GET", "/api/shared-links/me"] = (401, {})
    expired = ["/share/expired", "/api/shared-links/me?key=expired"]
    people = {
        "reloads a deep link": ([deep_link] * 40, {404}),
        "sees a grid without thumbnails": ([f"{tile}?key=abc" for tile in grid], {404}),
        "views a link with a password": (["/share/abc", "/api/shared-links/me?key=abc"] * 40, {200, 401}),
        "opens an expired link": (expired * 40, {401, 404}),
        "scrolls fast": ([f"/api/assets/{ASSET}{n:012}/thumbnail?key=a" for n in range(1000, 3000)], {200}),
    }
    addresses = {what: watched.new_address() for what in people}
    for what, (targets, statuses) in people.items():
        assert visit(watched, addresses[what], targets) == statuses, what
    settle(watched)
    assert banned(watched).isdisjoint(addresses.values())


def test_what_immich_has_is_never_a_scan(watched: Edge, fail2ban: Fail2ban) -> None:
    """Immich's own pages and apps ask for more than a visitor may have: a quiet refusal."""
    operations = json.loads(OPERATIONS.read_text())
    asked = {(each["method"], "/api" + each["path"]) for version in operations.values() for each in version}
    assert len(asked) > 200
    owner = watched.new_address()
    with watched.connect(owner) as connection:
        for method, path in sorted(asked):
            target = re.sub(r"\{\w+\}", f"{ASSET}0123456789ab", path)
            connection.ask(target, method, body=b"" if method in {"POST", "PUT", "PATCH"} else None)
    verdicts = {entry["verdict"] for entry in watched.entries_of(owner, len(asked))}
    assert verdicts <= {"quiet", "anon"}
    settle(watched)
    assert owner not in banned(watched)
