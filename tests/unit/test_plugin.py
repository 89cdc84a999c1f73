"""The component for programs in other languages: its schema, and how its plugin hands steps over."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pulumi
import pytest
import yaml
from google.protobuf import struct_pb2  # type: ignore[import-untyped]
from pulumi import dynamic
from pulumi.errors import InputPropertiesError

from components.config.stack_config import SECRETS
from components.engine import step
from components.package import args as package_args
from components.package import component as package
from components.package import plugin
from toolchain.paths import PROJECT

GOLDEN = Path(__file__).with_name("plugin_schema.json")
COMPONENT = "immich-exposure:index:ImmichExposure"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plugin.Exposures("0.1.0").schema or "")
    return found


def test_the_schema_is_as_it_was_agreed(schema: dict[str, Any]) -> None:
    """Whoever changes what other languages see changes this file, too: `python -m tests.unit.test_plugin`."""
    assert schema == json.loads(GOLDEN.read_text())


def test_every_argument_is_described(schema: dict[str, Any]) -> None:
    component = schema["resources"][COMPONENT]
    described = [component["inputProperties"], component["properties"]]
    described += [kind["properties"] for kind in schema["types"].values()]
    assert all(each.get("description") for properties in described for each in properties.values())


def test_a_default_that_is_described_is_that_of_a_stack_file(schema: dict[str, Any]) -> None:
    """An empty default of Pulumi.yaml means that the program chooses; those are not compared."""
    stack = yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())["config"]
    defaults = {key: each["default"] for key, each in stack.items()}
    inputs = schema["resources"][COMPONENT]["inputProperties"]
    found = {
        key: match.group(1).strip("`")
        for key, each in inputs.items()
        if (
            match := re.search(
                r"(\S+) (?:by default|\(the default\)|\(a 403, the default\))", each["description"]
            )
        )
    }
    assert len(found) > 15
    for key, said in found.items():
        assert defaults[key] == "" or said == str(defaults[key]).lower(), key


def test_secrets_are_secret_and_all_else_is_plain(schema: dict[str, Any]) -> None:
    component = schema["resources"][COMPONENT]
    inputs = component["inputProperties"]
    assert {key for key, each in inputs.items() if each.get("secret")} == set(SECRETS)
    assert {key for key, each in inputs.items() if each.get("plain")} == set(inputs) - set(SECRETS)
    secret = {key for key, each in component["properties"].items() if each.get("secret")}
    assert secret == {"bundlePasswords", "frameSecrets"}
    assert component["requiredInputs"] == ["host", "hostKey", "keystorePassphrase"]


@pytest.mark.parametrize("group", ["immich", "ca", "features", "rateLimits", "bans"])
def test_a_group_has_the_keys_of_a_stack_file(group: str, schema: dict[str, Any]) -> None:
    of_a_stack_file = yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())["config"][group]["default"]
    reference = schema["resources"][COMPONENT]["inputProperties"][group]["$ref"]
    extra = {"immich": {"address"}, "ca": {"renewBeforeDays"}}.get(group, set())
    kind = schema["types"][reference.removeprefix("#/types/")]
    assert set(kind["properties"]) == set(of_a_stack_file) | extra


@pytest.mark.parametrize(
    ("group", "values"),
    [
        (package_args.Device, {"name": "a", "platform": "ios", "commonName": "A", "organization": "O"}),
        (package_args.Notify, {"kind": "ntfy", "address": "https://ntfy.example/topic"}),
        (package_args.Authority, {"commonName": "A", "renewBeforeDays": 0}),
        (package_args.Immich, {"address": "127.0.0.2", "port": 2283, "managed": False}),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_the_types_are_those_that_the_settings_take(group: Any, values: dict[str, object]) -> None:
    assert set(values) <= set(group.__annotations__)
    key = {"Device": "devices", "Notify": "notify", "Authority": "ca", "Immich": "immich"}[group.__name__]
    value: object = [values] if key == "devices" else values
    with patch("pulumi.get_stack", return_value="unit"):
        package.config_of("home", {**arguments(), key: value})


# What an exposure in another language is told


def arguments(**changes: Any) -> dict[str, Any]:
    secret: pulumi.Output[str] = pulumi.Output.secret("correct horse battery staple")
    return {"host": "192.168.1.20", "hostKey": HOST_KEY, "keystorePassphrase": secret, **changes}


@pytest.fixture(autouse=True)
def program() -> Iterator[None]:
    with patch.object(package, "_seen", {}):
        yield


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"leaseHours": "72"}, "leaseHours = '72': must be a whole number"),
        ({"leaseHours": 7.5}, "leaseHours = 7.5: must be a whole number"),
        ({"devices": {"name": "a"}}, "devices = {'name': 'a'}: must be a list"),
        ({"upload": True}, "upload is not a known key: did you mean 'uploads'?"),
        ({"hostKey": None}, "hostKey is not set: the server's key must be pinned"),
        ({"keystorePassphrase": "a plain one, for all to read"}, "must be a secret output"),
    ],
)
def test_a_wrong_argument_is_a_sentence_and_no_traceback(changes: dict[str, Any], words: str) -> None:
    exposures = plugin.Exposures("0.1.0")
    with (
        patch("pulumi.get_stack", return_value="unit"),
        pytest.raises(InputPropertiesError) as caught,
    ):
        exposures.construct("home", COMPONENT, arguments(**changes))
    assert words in caught.value.message and "for all to read" not in caught.value.message


def test_two_exposures_of_one_server_are_a_sentence() -> None:
    exposures = plugin.Exposures("0.1.0")
    with patch("pulumi.get_stack", return_value="unit"):
        package._refuse_twice("home", package.config_of("home", arguments()))
        with pytest.raises(InputPropertiesError, match="again and home both have the server 192.168.1.20"):
            exposures.construct("again", COMPONENT, arguments())


def test_whole_numbers_arrive_as_such() -> None:
    """Every number is a fraction on the way, and the SDK leaves it one."""
    found = plugin.whole({"sshPort": 22.0, "bans": {"maxRetry": 3.0}, "devices": [{"name": "a"}], "on": True})
    assert repr(found) == "{'sshPort': 22, 'bans': {'maxRetry': 3}, 'devices': [{'name': 'a'}], 'on': True}"
    assert plugin.whole(7.5) == 7.5


# Secrets on their way to a dynamic resource and back


def secret(value: object) -> dict[str, object]:
    return {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "value": value}


def struct(value: dict[str, object]) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(value)
    return made


def test_marks_come_off_at_any_depth() -> None:
    given = struct({"a": secret("x"), "b": {"c": [secret({"d": secret("y")})]}, "e": "z"})
    plugin.bare(given)
    assert given == struct({"a": "x", "b": {"c": [{"d": "y"}]}, "e": "z"})


def test_what_was_secret_stays_so() -> None:
    given = struct({"a": secret("x"), "b": {"c": [secret("y")], "d": "z"}, "e": "plain", "gone": secret("w")})
    answer = struct({"a": "other", "b": {"c": ["y"], "d": "z"}, "e": "plain", "new": 1})
    plugin.as_secret(answer, given)
    assert answer == struct(
        {"a": secret("other"), "b": {"c": secret(["y"]), "d": "z"}, "e": "plain", "new": 1}
    )


# Who serves a step


def test_every_resource_of_ours_is_a_step() -> None:
    """One that is not would be asked of the consumer's own Python, which knows nothing of it."""
    of_ours = [
        kind for kind in dynamic.Resource.__subclasses__() if kind.__module__.startswith("components.")
    ]
    assert of_ours == [step.Step]


MAKES_A_THING = """
import pulumi
from pulumi.dynamic import ResourceProvider
from components.engine import step

class Thing(step.Step, module="immich", name="Thing"):
    pass

class Recorder(pulumi.runtime.Mocks):
    def new_resource(self, args):
        print(args.typ)
        return "id", {}
    def call(self, args):
        return {}, None

step._package = PACKAGE
pulumi.runtime.set_mocks(Recorder())

@pulumi.runtime.test
def make():
    return Thing(ResourceProvider(), "thing", {}).urn

make()
"""
"""A program of its own: Pulumi's runtime keeps what other tests of this process have left."""


@pytest.mark.parametrize(
    ("package_name", "token"),
    [(None, "pulumi-python:dynamic/immich:Thing"), ("immich-exposure", "immich-exposure:step:Thing")],
)
def test_a_step_bears_the_name_of_whoever_serves_it(package_name: str | None, token: str) -> None:
    program = MAKES_A_THING.replace("PACKAGE", repr(package_name))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == (f"{token}\n", 0), done.stderr


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(json.loads(plugin.Exposures("0.1.0").schema or ""), indent=1) + "\n")
