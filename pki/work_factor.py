"""How long a file would make this machine count before it opens, told from its clear outer layer.

An encrypted key or bundle says itself how many rounds its key derivation takes, up to two thousand million,
which are many minutes. It is looked at before anything is derived, by a reader of DER (X.690) that knows no
more than lengths.
"""

from collections.abc import Iterator


class EndlessError(ValueError):
    """Opening it would take minutes, or all of the memory."""


ROUNDS_LIMIT = 10_000_000
"""Ours have 600,000; a few seconds on a small computer are the most that anybody has a reason to ask for."""

_INTEGER, _OCTETS, _OBJECT = 0x02, 0x04, 0x06
_CONSTRUCTED = 0x20
_EXPLICIT = 0xA0
# The identifier id-data (RFC 5652), without tag and length.
_DATA = bytes.fromhex("2a864886f70d010701")
_DEPTH = 24
# An integer of more bytes is no count: OpenSSL takes none that does not fit into a C long.
_COUNT_BYTES = 8
# DER of id-scrypt (RFC 7914), whose parameters say how much memory is taken as well.
_SCRYPT = bytes.fromhex("06092b06010401da47040b")


def refuse_endless(der: bytes) -> None:
    """Look at an encrypted key (RFC 5958) or a bundle (RFC 7292) in DER.

    Raises:
        EndlessError: it asks for more than `ROUNDS_LIMIT` rounds, or is encrypted by scrypt.
        ValueError: it is no DER.
    """
    if _SCRYPT in der:
        raise EndlessError("it is encrypted by scrypt")
    if any(count > ROUNDS_LIMIT for count in _counts(der)):
        raise EndlessError(f"it asks for more than {ROUNDS_LIMIT} rounds")


def _counts(der: bytes) -> Iterator[int]:
    """Every number that is small enough to be a count, also inside of the octets that are a bundle's data.

    All other octets are random: salts, hashes, ciphertext. Now and then one begins as DER does.
    """
    waiting = [(der, 0)]
    while waiting:
        content, depth = waiting.pop()
        if depth > _DEPTH:
            raise ValueError("it is nested too deep")
        elements = list(_elements(content))
        for tag, value in [*elements, *_data(elements)]:
            if tag == _OCTETS | _CONSTRUCTED:
                raise ValueError("its octets come in pieces")  # BER, in which a number could hide
            if tag & _CONSTRUCTED:
                waiting.append((value, depth + 1))
            elif tag == _INTEGER and len(value) <= _COUNT_BYTES:
                yield int.from_bytes(value, "big", signed=True)


def _data(elements: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """What is in the octets of a ContentInfo (RFC 5652) of type data, if these are its elements."""
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
    """Tag of the element at a place, and where its value begins and ends."""
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
