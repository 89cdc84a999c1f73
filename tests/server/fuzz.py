"""Random requests at the edge: whatever reaches Immich must be in the table.

    python -m tests.server.fuzz --seconds 300            for so long, with a new seed each round
    python -m tests.server.fuzz --seed 1234 --count 2000 the same round again

A round makes targets out of pieces of open and private ones, and hides private ones behind open ones; half of
them stay close to what a link's page really asks, so that the table is tried at its edges.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import toolchain
from components.surface.table import immich_operations
from tests.server.conftest import program_for_everybody
from tests.server.corpus import ASSET, GLOBS, KEY, OVERRIDES, PLACEHOLDERS, STEPS_UP
from tests.server.edge import Edge
from tests.server.path_backends import Normalising
from tests.server.surface_property import STOLEN, TABLE, is_the_edges_own, objections
from tests.server.visitor import Connection, ConnectionDroppedError

REQUESTS_PER_CONNECTION = 40
ROUND = 2000
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")

_STEPS = [step for steps in STEPS_UP.values() for step in steps]
_QUERY_PIECES = (
    f"key={KEY}",
    "slug=summer",
    "key=",
    "key",
    "key[]=x",
    "Key=x",
    "k%65y=x",
    "size=preview",
    "c=a%2Fb",
    f"apiKey={STOLEN}",
    f"sessionKey={STOLEN}",
    f"password={STOLEN}",
    "x=]=y",
    "%00=1",
    "",
)
_ODDITIES = tuple("/.;\\?#%&=+~!$'()*,:@[]{}|^`\"<> \t\x00\x01\x7f\x80\xff") + (
    "%2f",
    "%2e",
    "%5c",
    "%00",
    "%25",
    "%252e",
    "%0d%0a",
    "%c0%af",
    "%e2%80%ae",
    "%u002e",
    *PLACEHOLDERS,
    *GLOBS,
)


@dataclass(frozen=True)
class Request:
    """One random request."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]


def requests(seed: int) -> Iterator[Request]:
    """Yield random requests without end; the same seed gives the same ones."""
    chance = random.Random(seed)
    rows = [(_filled(row.path, chance), row.methods) for row in TABLE.rows]
    private = sorted(
        {_filled(f"/api{each.path}", chance) for version in immich_operations().values() for each in version}
    )
    while True:
        path, methods = chance.choice(rows)
        method = chance.choice(methods) if chance.random() < 0.8 else chance.choice(METHODS)
        if chance.random() < 0.4:
            other = chance.choice(private)
            up = "".join(chance.choice(_STEPS) for _ in range(chance.randint(1, 4)))
            path = chance.choice((f"{path}/{up}{other[1:]}", f"{other}/{up}{path[1:]}", other, path + other))
        for _ in range(chance.choice((0, 0, 0, 1, 1, 3))):
            path = _mutated(path, chance)
        pieces = [chance.choice(_QUERY_PIECES) for _ in range(chance.choice((0, 0, 1, 2, 3)))]
        query = "&".join(chance.sample([f"key={KEY}", *pieces], chance.randint(0, len(pieces) + 1)))
        if chance.random() < 0.3:
            query = _mutated(query, chance)
        headers = tuple(chance.sample(OVERRIDES, chance.choice((0, 0, 1, 3))))
        target = re.sub(r"[\r\n]", "", f"{path}?{query}" if query or chance.random() < 0.1 else path)
        yield Request(method, target, headers)


def _filled(path: str, chance: random.Random) -> str:
    parts = {"slash": "", "key": KEY, "theme": "light", "variantIndex": "0", "icon": "-32", "slug": "x"}
    parts |= {"bundle": "entry/start.js", "filename": "segment_1.m4s"}
    return re.sub(r"\{(\w+)\}", lambda match: parts.get(match[1], ASSET), path)


def _mutated(text: str, chance: random.Random) -> str:
    place = chance.randint(0, len(text))
    match chance.randint(0, 4):
        case 0:
            return text[:place] + chance.choice(_ODDITIES) + text[place:]
        case 1:
            return text[:place] + text[place + 1 :]
        case 2:
            return text[:place] + re.sub("[A-Za-z]+", lambda match: match[0].swapcase(), text[place:])
        case 3 if text[place:]:
            return f"{text[:place]}%{ord(text[place]):02x}{text[place + 1 :]}"
        case _:
            again = chance.randint(0, len(text))
            return text[:place] + text[min(again, place) :]


@dataclass(frozen=True)
class Result:
    """How many requests were sent and how many arrived, and what should not have arrived."""

    sent: int
    arrived: int
    failures: tuple[str, ...]


def _sent(connection: Connection, batch: Sequence[Request]) -> int:
    """Send requests until the edge has enough of the connection; return how many went out."""
    for number, request in enumerate(batch, 1):
        body = b"{}" if request.method in ("POST", "PUT", "PATCH") else None
        try:
            answer = connection.ask(request.target, request.method, headers=request.headers, body=body)
        except ConnectionDroppedError:
            return number
        if answer.status == 101 or answer.headers.get("connection") == "close":
            return number
    return len(batch)


def play(edge: Edge, backend: Normalising, seed: int, count: int) -> Result:
    """Send one round and judge what arrived."""
    source = itertools.islice(requests(seed), count)
    while batch := list(itertools.islice(source, REQUESTS_PER_CONNECTION)):
        while batch:
            with edge.connect(edge.new_address()) as connection:
                batch = batch[_sent(connection, batch) :]
    hits = [hit for hit in backend.drain() if not is_the_edges_own(hit)]
    failures = (
        f"{hit.method} {hit.target}: {'; '.join(found)}" for hit in hits if (found := objections(hit))
    )
    return Result(count, len(hits), tuple(failures))


def main() -> int:
    """Play rounds until the time is over or one fails; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.server.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.0, help="go on for so long (default: one round)")
    parser.add_argument("--seed", type=int, help="the seed of the first round")
    parser.add_argument("--count", type=int, default=ROUND, help="requests in a round")
    given = parser.parse_args()
    end, seed, sent, arrived = time.monotonic() + given.seconds, given.seed, 0, 0
    with program_for_everybody(toolchain.program("caddy")) as program:
        backend = Normalising()
        edge = Edge(program, settings={"IMMICH": f"127.0.0.1:{backend.port}"})
        try:
            edge.start()
            while True:
                used = secrets.randbelow(2**32) if seed is None else seed
                seed = None
                result = play(edge, backend, used, given.count)
                sent, arrived = sent + result.sent, arrived + result.arrived
                if result.failures:
                    print(f"seed {used}:", *result.failures, sep="\n  ", file=sys.stderr)
                    return 1
                if time.monotonic() >= end:
                    print(f"{sent} random requests, {arrived} arrived, all of them in the table")
                    return 0
        finally:
            edge.stop()
            backend.stop()


if __name__ == "__main__":
    sys.exit(main())
