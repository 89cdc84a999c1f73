"""Writes small databases of countries in MaxMind's form (maxmind.github.io/MaxMind-DB)."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from pathlib import Path

_MARK = b"\xab\xcd\xefMaxMind.com"
_GAP = 16
"""Bytes between the tree and the data."""


def write_database(path: Path, countries: Mapping[str, str], *, built: float | None = None) -> None:
    """Write which network (IPv4 or IPv6) is in which country; ``built`` is in seconds since 1970."""
    nodes: list[list[int | str | None]] = [[None, None]]
    for text, code in countries.items():
        _insert(nodes, _bits(text), code)
    _write(path, nodes, time.time() if built is None else built)


def write_endless_database(path: Path) -> None:
    """Write a tree whose branches meet at each of 128 nodes: 2^128 networks in a kilobyte."""
    nodes: list[list[int | str | None]] = [[at + 1, at + 1] for at in range(127)]
    _write(path, [*nodes, ["DE", None]], time.time())


def _write(path: Path, nodes: list[list[int | str | None]], built: float) -> None:
    codes = sorted({side for node in nodes for side in node if isinstance(side, str)})
    records = [_map({"country": _map({"iso_code": _text(code)})}) for code in codes]
    places = {code: sum(map(len, records[:at])) for at, code in enumerate(codes)}

    def record(value: int | str | None) -> bytes:
        if value is None:
            return len(nodes).to_bytes(3)
        number = value if isinstance(value, int) else len(nodes) + _GAP + places[value]
        return number.to_bytes(3)

    tree = b"".join(record(side) for node in nodes for side in node)
    metadata = _map(
        {
            "node_count": _number(6, len(nodes)),
            "record_size": _number(5, 24),
            "ip_version": _number(5, 6),
            "database_type": _text("DBIP-Country-Lite"),
            "binary_format_major_version": _number(5, 2),
            "binary_format_minor_version": _number(5, 0),
            "build_epoch": _number(9, int(built)),
        }
    )
    path.write_bytes(tree + bytes(_GAP) + b"".join(records) + _MARK + metadata)


def _bits(text: str) -> str:
    network = ipaddress.ip_network(text)
    bits = f"{int(network.network_address):0{network.max_prefixlen}b}"[: network.prefixlen]
    # IPv4 lies in the first 96 bits of nothing.
    return bits if network.version == 6 else "0" * 96 + bits


def _insert(nodes: list[list[int | str | None]], bits: str, code: str) -> None:
    at = 0
    for bit in map(int, bits[:-1]):
        following = nodes[at][bit]
        if not isinstance(following, int):
            nodes.append([following, following])
            nodes[at][bit] = following = len(nodes) - 1
        at = following
    nodes[at][int(bits[-1])] = code


def _control(kind: int, size: int) -> bytes:
    assert size < 29
    return bytes([kind << 5 | size]) if kind < 8 else bytes([size, kind - 7])


def _text(text: str) -> bytes:
    return _control(2, len(text)) + text.encode()


def _number(kind: int, value: int) -> bytes:
    digits = value.to_bytes((value.bit_length() + 7) // 8)
    return _control(kind, len(digits)) + digits


def _map(entries: Mapping[str, bytes]) -> bytes:
    return _control(7, len(entries)) + b"".join(_text(key) + value for key, value in entries.items())
