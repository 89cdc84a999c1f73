"""Budgets: a flood meets 429, other visitors and all devices go on."""

from __future__ import annotations

import json

import pytest

from tests.server.conftest import EdgeMaker
from tests.server.edge import Edge, Limits

pytestmark = pytest.mark.server

LOGIN = "/api/shared-links/login?key=abc"


@pytest.fixture
def tight(make_edge: EdgeMaker) -> Edge:
    """Return an edge with room for 20 requests and 3 passwords a minute."""
    return make_edge(
        limits=Limits(requests=20, requests_window="60s", password_attempts=3, password_window="60s")
    )


def statuses(edge: Edge, target: str, count: int, address: str, method: str = "GET") -> list[int]:
    """Ask the same so many times over one connection."""
    with edge.connect(address) as connection:
        return [connection.ask(target, method, body=b"").status for _ in range(count)]


def test_a_flood_meets_429_alone(tight: Edge) -> None:
    phone = tight.device("phone")
    flooder = tight.new_address()
    assert statuses(tight, "/share/abc", 25, flooder) == [200] * 20 + [429] * 5
    answer = tight.ask("/api/users/me", address=flooder)
    assert (answer.status, json.loads(answer.body)["status"]) == (429, 429)
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-robots-tag"] == "noindex, nofollow"
    assert tight.ask("/share/abc").status == 200
    with tight.connect(flooder, phone) as connection:
        assert [connection.ask("/api/users/me").status for _ in range(60)] == [200] * 60


def test_refusals_cost_budget_too(tight: Edge) -> None:
    assert statuses(tight, "/wp-login.php", 22, tight.new_address()) == [403] * 20 + [429] * 2


def test_a_network_of_ipv6_has_one_budget(tight: Edge) -> None:
    for host in range(20):
        assert tight.ask("/share/abc", address=f"2001:db8:7:7::{host + 1:x}").status == 200
    assert tight.ask("/share/abc", address="2001:db8:7:7:ffff::99").status == 429
    assert tight.ask("/share/abc", address="2001:db8:7:8::1").status == 200


def test_forwarded_addresses_do_not_make_budgets(tight: Edge) -> None:
    flooder = tight.new_address()
    seen = {
        tight.ask("/share/abc", address=flooder, headers=[("X-Forwarded-For", f"192.0.2.{n}")]).status
        for n in range(21)
    }
    assert 429 in seen


def test_passwords_of_links_have_a_smaller_budget(tight: Edge) -> None:
    guesser = tight.new_address()
    assert statuses(tight, LOGIN, 5, guesser, "POST") == [200] * 3 + [429] * 2
    assert statuses(tight, "/api/Shared-Links/Login?key=abc", 1, guesser, "POST") == [429]
    assert tight.ask("/share/abc", address=guesser).status == 200


def test_logins_of_a_device_have_a_small_budget_of_their_own(tight: Edge) -> None:
    phone, laptop = tight.device("phone"), tight.device("laptop")
    address = tight.new_address()
    with tight.connect(address, phone) as connection:
        tries = [connection.ask("/api/auth/login", "POST", body=b"{}").status for _ in range(5)]
        assert tries == [200] * 3 + [429] * 2
        assert connection.ask("/api/users/me").status == 200
    assert tight.ask("/api/auth/login", "POST", identity=laptop, address=address).status == 200
