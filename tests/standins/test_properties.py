"""Values survive the way to the engine and back with their secrecy."""

import pytest
from google.protobuf import struct_pb2  # type: ignore[import-untyped]

from toolchain.standins.properties import (
    ASSET_SIGNATURE,
    OUTPUT_SIGNATURE,
    SIGNATURE,
    UNKNOWN,
    Properties,
    Property,
    Secret,
    decode,
    encode,
    holds_secret,
    holds_unknown,
    reveal,
)

EVERYTHING: Properties = {
    "null": None,
    "yes": True,
    "number": 2.5,
    "text": "ü",
    "list": [1.0, Secret(["a", Secret("b")])],
    "asset": {SIGNATURE: ASSET_SIGNATURE, "text": "content", "hash": "h"},
    "later": UNKNOWN,
    "object": {"deep": {"key": Secret(None)}},
}


def test_encode_and_decode_are_inverse() -> None:
    assert decode(encode(EVERYTHING)) == EVERYTHING


def test_a_secret_is_the_engines_signed_object() -> None:
    encoded = encode({"key": Secret("x")}).fields["key"].struct_value
    assert (
        encoded.fields["4dabf18193072939515e22adb298388d"].string_value == "1b47061264138c4ac30d75fd1eb44270"
    )


@pytest.mark.parametrize(
    ("output", "value"),
    [({"value": "x", "secret": True}, Secret("x")), ({"value": "x"}, "x"), ({}, UNKNOWN)],
)
def test_output_values_are_unwrapped(output: Properties, value: Property) -> None:
    struct = struct_pb2.Struct()
    struct.fields["it"].struct_value.CopyFrom(encode({SIGNATURE: OUTPUT_SIGNATURE, **output}))
    assert decode(struct) == {"it": value}


def test_secrets_and_unknowns_are_seen_at_every_depth() -> None:
    assert holds_secret(EVERYTHING["object"]) and holds_secret(EVERYTHING["list"])
    assert not holds_secret(EVERYTHING["asset"])
    assert holds_unknown([{"a": Secret(UNKNOWN)}]) and not holds_unknown([{"a": Secret("b")}])


def test_reveal_takes_every_mark_off() -> None:
    assert reveal(EVERYTHING["list"]) == [1.0, ["a", "b"]]


def test_a_secret_does_not_print_itself() -> None:
    assert "hunter2" not in repr({"password": Secret("hunter2")})
