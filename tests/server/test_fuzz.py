"""A bounded random run against the edge; a failure names its seed. For longer ones see fuzz.py."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.server import fuzz
from tests.server.conftest import EdgeMaker
from tests.server.path_backends import Normalising

pytestmark = pytest.mark.server

SEED_VARIABLE = "IMMICH_EXPOSURE_FUZZ_SEED"
ALWAYS = 20_260_404
COUNT = 1200


def test_what_arrives_is_in_the_table(make_edge: EdgeMaker) -> None:
    """One round is always the same; the other is new each time, unless the environment names its seed."""
    backend = Normalising()
    edge = make_edge(settings={"IMMICH": f"127.0.0.1:{backend.port}"})
    try:
        for seed in (ALWAYS, int(os.environ.get(SEED_VARIABLE) or secrets.randbelow(2**32))):
            result = fuzz.play(edge, backend, seed, COUNT)
            assert result.failures == (), f"{SEED_VARIABLE}={seed}"
            assert result.arrived > COUNT / 20, "too little arrives to try the table"
    finally:
        backend.stop()


def test_a_seed_gives_the_same_requests() -> None:
    first, second, other = fuzz.requests(1), fuzz.requests(1), fuzz.requests(2)
    made = [next(first) for _ in range(100)]
    assert made == [next(second) for _ in range(100)]
    assert made != [next(other) for _ in range(100)]
