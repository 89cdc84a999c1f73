"""How much key derivation a file requires before it opens, read from its plain outer layer.

An encrypted key or bundle itself says how many rounds its key derivation takes: up to two thousand million,
which take many minutes. A minimal DER parser (X.690) that knows only lengths checks that before anything is
derived.
"""

from collections.abc import Iterator


class EndlessError(ValueError):
    """Opening it would take minutes, or all memory."""


ROUNDS_LIMIT = 10_000_000
"""Ours have 600,000. This limit takes a few seconds on a small computer; nobody has a reason for more."""

_INTEGER, _OCTETS, _OBJECT = 0x02, 0x04, 0x06
_CONSTRUCTED = 0x20
_EXPLICIT = 0xA0
# The object identifier id-data (RFC 5652), without tag and length.
_DATA = bytes.fromhex("2a864886f70d010701")
_DEPTH = 24
# A larger integer is not a count: OpenSSL accepts only those that fit into a C long.
_COUNT_BYTES = 8
# DER of id-scrypt (RFC 7914), whose parameters also determine how much memory it takes.
_SCRYPT = bytes.fromhex("06092b06010401da47040b")


def refuse_endless(der: bytes) -> None:
    """Check an encrypted key (RFC 5958) or a bundle (RFC 7292) in DER.

    Raises:
        EndlessError: it asks for more than `ROUNDS_LIMIT` rounds, or is encrypted by scrypt.
        ValueError: it is not DER.
    """
    if _SCRYPT in der:
        raise EndlessError("it is encrypted by scrypt")
    if any(count > ROUNDS_LIMIT for count in _counts(der)):
        raise EndlessError(f"it asks for more than {ROUNDS_LIMIT} rounds")


def _counts(der: bytes) -> Iterator[int]:
    """Every number that is small enough to be a count, also inside the octets of a bundle's data.

    All other octets are random: salts, hashes, ciphertext. Some of them happen to look like DER.
    """
    waiting = [(der, 0)]
    while waiting:
        content, depth = waiting.pop()
        if depth > _DEPTH:
            raise ValueError("it is nested too deeply")
        elements = list(_elements(content))
        for tag, value in [*elements, *_data(elements)]:
            if tag == _OCTETS | _CONSTRUCTED:
                raise ValueError("its octets come in pieces")  # BER, which could hide a number
            if tag & _CONSTRUCTED:
                waiting.append((value, depth + 1))
            elif tag == _INTEGER and len(value) <= _COUNT_BYTES:
                yield int.from_bytes(value, "big", signed=True)


def _data(elements: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The content of a ContentInfo (RFC 5652) of type data, if these are its elements."""
    if elements[:1] != [(_OBJECT, _DATA)]:
        return
    for explicit in (value for tag, value in elements if tag == _EXPLICIT):
        for octets in (value for tag, value in _elements(explicit) if tag == _OCTETS):
            yield from _elements(octets)


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(content):
        tag, start, end = _head(content, at)
        if end > len(content):
            raise ValueError("it is cut short")
        yield tag, content[start:end]
        at = end


def _head(content: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the element at an offset, and where its value begins and ends."""
    if len(content) < at + 2:
        raise ValueError("it is cut short")
    tag, length = content[at], content[at + 1]
    start = at + 2
    if length >= 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4:
            raise ValueError("it has no length, or an impossible one")
        length, start = int.from_bytes(content[start : start + size], "big"), start + size
    return tag, start, start + length
