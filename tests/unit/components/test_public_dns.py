"""Where a public name leads: what public resolvers say, and no address of the home network."""

from __future__ import annotations

import subprocess
import sys

import dns.exception
import dns.resolver
import pytest

from components.remote import public_dns
from components.remote.outside_probe import PUBLIC_RESOLVERS, OutsideProbe

DOMAIN = "immich.example.ts.net"


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[list[str]]:
    """Let every resolver answer so; return whom each question went to."""
    asked: list[list[str]] = []

    def resolve(resolver: dns.resolver.Resolver, name: str, kind: str, lifetime: float) -> list[str]:
        assert (name, kind) == (DOMAIN, "A") and lifetime > 0
        asked.append([str(server) for server in resolver.nameservers])
        if not addresses:
            raise dns.exception.Timeout()  # type: ignore[no-untyped-call]
        return list(addresses)

    monkeypatch.setattr(dns.resolver.Resolver, "resolve", resolve)
    return asked


def test_the_check_goes_where_public_resolvers_send_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, "100.101.102.103", "203.0.113.7", "8.8.4.4")
    assert OutsideProbe(DOMAIN, 443, None, None)._address() == ("8.8.4.4", 443)
    assert asked == [list(PUBLIC_RESOLVERS)]
    assert OutsideProbe(DOMAIN, 443, ("127.0.0.1", 9), None)._address() == ("127.0.0.1", 9)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("addresses", "words"),
    [((), "no address for immich.example.ts.net yet"), (("100.101.102.103",), "none of them public")],
)
def test_an_address_inside_the_tailnet_is_none(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...], words: str
) -> None:
    resolving(monkeypatch, *addresses)
    with pytest.raises(OSError, match=words):
        public_dns.public_address(DOMAIN, PUBLIC_RESOLVERS)


def test_what_asks_resolvers_is_loaded_by_who_asks_them() -> None:
    """It is a tenth of what every run loads."""
    look = "import sys, components.remote.outside_probe; sys.exit(any(name == 'dns' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0
