"""The ban list written by the manual setup's fail2ban, converted to file names in our ban folder."""

from __future__ import annotations

import ipaddress

BAN_LIST = "/var/lib/caddy/banlist"
"""Its path on the server. It holds lines such as `remote_ip 203.0.113.9`, part of a Caddyfile."""


def bans_in(text: str) -> tuple[str, ...]:
    """Return the bans as file names: `203.0.113.9`, `2001:db8::9`, `2001:db8::_64`.

    Anything that cannot be a visitor's address is left out, and so is every range other than a /64 or a
    single address.
    """
    words = (word for line in text.splitlines() for word in line.partition("#")[0].split())
    names = (ban_name(word) for word in words)
    return tuple(sorted({name for name in names if name is not None}))


def ban_name(word: str) -> str | None:
    """Return the name of the file that bans an address or a /64, spelled as Caddy spells it (RFC 5952)."""
    try:
        network = ipaddress.ip_network(word, strict=False)
    except ValueError:
        return None
    address = network.network_address
    if address.is_loopback or address.is_unspecified or _is_no_visitors(address):
        return None
    if network.num_addresses == 1:
        return str(address)
    return f"{address}_64" if network.version == 6 and network.prefixlen == 64 else None


def _is_no_visitors(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether an IPv6 address is IPv4-mapped or has a zone: neither arrives through a funnel."""
    if isinstance(address, ipaddress.IPv4Address):
        return False
    return address.ipv4_mapped is not None or address.scope_id is not None
