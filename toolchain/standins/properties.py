"""Property values as the engine sends them: structs with signed objects for secrets, assets and unknowns.

The signatures are the engine's (`sdk/go/common/resource/sig`). Decoded values are plain Python: dict, list,
str, float, bool, None, with `Secret` around what is secret and `UNKNOWN` for what a preview cannot know
yet. Assets and archives stay dicts with their signature, so that they go back to the engine unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf import struct_pb2  # type: ignore[import-untyped]

SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET_SIGNATURE = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - a protocol constant
OUTPUT_SIGNATURE = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
ASSET_SIGNATURE = "c44067f5952c0a294b673a41bacd8c17"
ARCHIVE_SIGNATURE = "0def7320c3a5731c473e5ecbe6d01bc7"
UNKNOWN_TEXT = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


class Unknown:
    """A value that is only known once the resource it comes from exists."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that must be encrypted in the state and masked on the screen."""

    value: "Property"

    def __repr__(self) -> str:
        return "Secret(...)"


Property = None | bool | float | str | Unknown | Secret | list["Property"] | dict[str, "Property"]
Properties = dict[str, Property]


def decode(properties: struct_pb2.Struct) -> Properties:
    """The properties of a request as Python values."""
    return {key: _decode_value(value) for key, value in properties.fields.items()}


def encode(properties: Mapping[str, Property]) -> struct_pb2.Struct:
    """Python values as the properties of a response."""
    return struct_pb2.Struct(fields={key: _encode_value(value) for key, value in properties.items()})


def reveal(value: Property) -> Property:
    """The value without any secret marks, at every depth."""
    if isinstance(value, Secret):
        return reveal(value.value)
    if isinstance(value, dict):
        return {key: reveal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [reveal(item) for item in value]
    return value


def holds_secret(value: Property) -> bool:
    """Whether the value is secret or holds a secret at any depth."""
    if isinstance(value, Secret):
        return True
    if isinstance(value, dict):
        return any(holds_secret(item) for item in value.values())
    return isinstance(value, list) and any(holds_secret(item) for item in value)


def holds_unknown(value: Property) -> bool:
    """Whether the value is unknown or holds something unknown at any depth."""
    if isinstance(value, Secret):
        return holds_unknown(value.value)
    if isinstance(value, dict):
        return any(holds_unknown(item) for item in value.values())
    if isinstance(value, list):
        return any(holds_unknown(item) for item in value)
    return isinstance(value, Unknown)


def _decode_value(value: struct_pb2.Value) -> Property:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _decode_object(value.struct_value)
    if kind == "list_value":
        return [_decode_value(item) for item in value.list_value.values]
    if kind == "string_value":
        return UNKNOWN if value.string_value == UNKNOWN_TEXT else value.string_value
    if kind == "number_value":
        return float(value.number_value)
    if kind == "bool_value":
        return bool(value.bool_value)
    return None


def _decode_object(struct: struct_pb2.Struct) -> Property:
    signature = struct.fields[SIGNATURE].string_value if SIGNATURE in struct.fields else ""
    if signature == SECRET_SIGNATURE:
        return Secret(_decode_value(struct.fields["value"]))
    if signature == OUTPUT_SIGNATURE:
        inner = _decode_value(struct.fields["value"]) if "value" in struct.fields else UNKNOWN
        return Secret(inner) if "secret" in struct.fields and struct.fields["secret"].bool_value else inner
    return decode(struct)


def _encode_value(value: Property) -> struct_pb2.Value:
    if isinstance(value, Secret):
        return _encode_value({SIGNATURE: SECRET_SIGNATURE, "value": value.value})
    if isinstance(value, Unknown):
        return struct_pb2.Value(string_value=UNKNOWN_TEXT)
    if isinstance(value, dict):
        return struct_pb2.Value(struct_value=encode(value))
    if isinstance(value, list):
        return struct_pb2.Value(
            list_value=struct_pb2.ListValue(values=[_encode_value(item) for item in value])
        )
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, int | float):
        return struct_pb2.Value(number_value=value)
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
