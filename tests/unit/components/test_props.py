"""A dataclass becomes properties, passes through the engine, and is the same dataclass again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pulumi
import pytest
from google.protobuf import json_format, struct_pb2  # type: ignore[import-untyped]

from components.config.adopt import AdoptConfig, AdoptedDeviceConfig
from components.config.home import ModuleWay
from components.engine.props import from_props, props_of
from components.preflight.rules import Configured, Expected, ExpectedUploads
from components.remote.remote_script import Server
from pki import AuthorityProfile, DeviceProfile, KeyType, Platform, Renewal, Revocation

SERVER = Server("pi", 22, "admin", "ssh-ed25519 AAAA", None, stack_id="ours", repaired="never repaired")
CONFIGURED = Configured(
    config_dir="/etc/nixos",
    module=ModuleWay.YOURS,
    flake_dir=None,
    module_digest=None,
    immich_address=None,
    immich_port=2283,
    immich_managed=True,
    lan="close",
    proxy_port=8443,
    funnel_port=443,
    take_over=False,
    uploads=ExpectedUploads(None, 20, 10_000),
)
ADOPT = AdoptConfig(
    "server:/ca.crt",
    "ca.key",
    (
        AdoptedDeviceConfig("anna", "server:/anna.crt", None, None),
        AdoptedDeviceConfig("ben", None, "ab" * 32, datetime(2030, 1, 2, tzinfo=UTC)),
    ),
)


def through_the_engine(props: dict[str, Any]) -> dict[str, Any]:
    """Return the properties as a provider gets them: there every number is a float."""
    struct = struct_pb2.Struct()
    struct.update(props)
    returned: dict[str, Any] = json_format.MessageToDict(struct)
    return returned


@pytest.mark.parametrize(
    "value",
    [
        SERVER,
        CONFIGURED,
        ADOPT,
        AuthorityProfile(key_type=KeyType.RSA_4096),
        DeviceProfile("Anna's phone", platform=Platform.IOS),
        Renewal(30, 14),
        Revocation("ab" * 32, "phone", 1767000000, by_hand=True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_was_written_is_read_again(value: Any) -> None:
    props = {**through_the_engine(props_of(value)), "text": "of another"}
    read = from_props(type(value), props)
    assert read == value
    assert repr(read) == repr(value), "of the same types: 22, not 22.0"


def test_properties_are_named_as_in_pulumi_and_only_those_that_are_set() -> None:
    assert props_of(SERVER) == {
        "host": "pi",
        "port": 22,
        "user": "admin",
        "hostKey": "ssh-ed25519 AAAA",
        "stackId": "ours",
        "repaired": "never repaired",
    }
    assert props_of(ADOPT)["devices"][0] == {"name": "anna", "certificate": "server:/anna.crt"}  # type: ignore[index]


def test_an_output_stays_one() -> None:
    password: pulumi.Output[str] = pulumi.Output.secret("a secret")
    server = Server("pi", 22, "admin", "ssh-ed25519 AAAA", None, sudo_password=password)
    assert props_of(server)["sudoPassword"] is password


def test_what_must_be_set_and_is_not_is_an_error() -> None:
    with pytest.raises(KeyError, match="hostKey"):
        from_props(Server, {"host": "pi", "port": 22.0, "user": "admin"})
    with pytest.raises(KeyError, match="commonName"):
        from_props(AuthorityProfile, {"organization": "Home"})


def test_what_the_state_knows_comes_beside_what_the_config_expects() -> None:
    props = {**props_of(CONFIGURED), "stackId": "ours", "authorities": ["ab" * 32], "exposed": True}
    expected = from_props(Expected, props)
    assert (expected.stack_id, expected.authorities, expected.exposed) == ("ours", ("ab" * 32,), True)
    assert expected.uploads == CONFIGURED.uploads


@dataclass(frozen=True)
class Odd:
    """A dataclass with a number that may be missing."""

    days: int | None


@pytest.mark.parametrize(("props", "days"), [({}, None), ({"days": None}, None), ({"days": 3.0}, 3)])
def test_what_may_be_none(props: dict[str, Any], days: int | None) -> None:
    assert repr(from_props(Odd, props)) == f"Odd(days={days})"
