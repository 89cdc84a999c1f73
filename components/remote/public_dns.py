"""The address of a public name, as the internet sees it. Loaded on first use (`outside_probe`)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import dns.exception
import dns.resolver


def public_address(domain: str, resolvers: Sequence[str]) -> str:
    """Ask these resolvers, and return the first address.

    Raises ``OSError`` if they have none yet, or none that is public.
    """
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = list(resolvers)
    try:
        addresses = [str(record) for record in resolver.resolve(domain, "A", lifetime=10)]
    except dns.exception.DNSException as error:
        raise OSError(f"public DNS has no address for {domain} yet: {error}") from error
    public = [address for address in addresses if ipaddress.ip_address(address).is_global]
    if not public:
        raise OSError(f"public DNS gives {', '.join(addresses)} for {domain}, none of them public")
    return public[0]
