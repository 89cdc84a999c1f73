"""The package for other people's programs: what the wheel holds, and what its component takes."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pulumi
import pytest
import yaml

from components.config.stack_config import SECRETS, ConfigError, ExposureConfig
from components.package import args as package_args
from components.package import component as package
from components.remote.module_files import module_digest
from tests.unit.loops import own_loop
from toolchain import wheel_backend
from toolchain.paths import PROJECT

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ"


@pytest.fixture(autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of the test's own, as the unit tier has it."""
    with own_loop() as loop:
        yield loop


@pytest.fixture(autouse=True)
def program() -> Iterator[None]:
    """A program of its own."""
    with (
        patch("pulumi.get_stack", return_value="unit"),
        patch.object(package, "_seen", {}),
    ):
        yield


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return folder / wheel_backend.build_wheel(str(folder))


def test_the_wheel_has_one_name_at_its_top(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert tops == {"immich_exposure", "immich_exposure-0.1.0.dist-info"}


def test_no_import_of_it_leads_to_the_top_level(wheel: Path) -> None:
    """A dynamic provider is found again by its module's name: "No module named 'components'"."""
    names = "|".join(wheel_backend.PACKAGES)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".py") and "/server/" not in name:
                text = archive.read(name).decode()
                assert not re.search(rf"^\s*(?:from|import) (?:{names})\b", text, re.MULTILINE), name


def test_it_is_the_same_bytes_each_time(wheel: Path, tmp_path: Path) -> None:
    again = tmp_path / wheel_backend.build_wheel(str(tmp_path))
    assert again.read_bytes() == wheel.read_bytes()


def test_it_works_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """The same module for the server, and nothing that is looked for in this tree."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    text = (
        "import immich_exposure, immich_exposure.components.remote.module_files as files\n"
        "print(immich_exposure.__file__, files.module_digest())"
    )
    command = [sys.executable, "-c", text]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(tmp_path / "immich_exposure/__init__.py"), module_digest()], (
        done.stderr
    )


def test_what_it_needs_is_what_the_program_is_pinned_to() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (PROJECT / "requirements.in").read_text(), re.MULTILINE))
    least = dict(re.findall(r"([\w-]+)>=([\d.]+)", "\n".join(project["dependencies"])))
    assert least and all(pins[name] == version for name, version in least.items())


def test_the_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = tmp_path / wheel_backend.build_sdist(str(tmp_path))
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", tmp_path], check=True)
    source = tmp_path / "immich_exposure-0.1.0"
    text = "import wheel_backend, sys; wheel_backend.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", text, tmp_path], cwd=source / "toolchain", check=True)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


# The component's arguments


def args(**changes: Any) -> Any:
    given = {
        "host": "192.168.1.20",
        "hostKey": HOST_KEY,
        "keystorePassphrase": pulumi.Output.secret("correct horse battery staple"),
        **changes,
    }
    return {key: value for key, value in given.items() if value is not None}


def problems(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        package.config_of("home", args(**changes))
    return "\n".join(caught.value.problems)


def test_the_arguments_are_the_keys_of_a_stack_file() -> None:
    keys = set(yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())["config"])
    assert set(package_args.ImmichExposureArgs.__annotations__) == keys
    assert package_args.ImmichExposureArgs.__required_keys__ == {"host", "hostKey", "keystorePassphrase"}


def test_plain_settings_make_a_configuration() -> None:
    config = package.config_of("home", args(uploads=True, leaseHours=5))
    assert isinstance(config, ExposureConfig)
    assert config.uploads and config.lease_hours == 5 and config.keystore == "keystore/unit/home"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hostKey": None}, "hostKey is not set: the server's key must be pinned"),
        ({"uploads": "yes"}, "uploads = 'yes': must be true or false"),
        ({"devices": {"name": "a"}}, "devices = {'name': 'a'}: must be a list"),
        ({"upload": True}, "upload is not a known key: did you mean 'uploads'?"),
        ({"keystorePassphrase": None}, "keystorePassphrase is not set"),
        ({"keystorePassphrase": "a plain one, for all to read"}, "must be a secret output"),
    ],
)
def test_a_wrong_argument_is_told_in_a_sentence(changes: dict[str, Any], words: str) -> None:
    assert words in problems(**changes)


def test_no_plain_secret_is_shown() -> None:
    for key in SECRETS:
        told = problems(**{key: "a plain one, for all to read"})
        assert key in told and "for all to read" not in told


def test_what_is_known_too_late_is_refused() -> None:
    late = pulumi.Output.from_input("x")
    assert "lan must be a plain value" in problems(lan=late)
    assert "devices must be a plain value" in problems(devices=[{"name": late, "platform": "ios"}])


@pytest.mark.parametrize("given", [None, ["host"], "host"])
def test_what_is_no_mapping_is_told_in_a_sentence(given: Any) -> None:
    with pytest.raises(ConfigError, match="the arguments of home must be a mapping"):
        package.config_of("home", given)


def test_a_tuple_is_a_sequence() -> None:
    """As the types say."""
    config = package.config_of("home", args(devices=({"name": "phone", "platform": "ios"},)))
    assert [device.name for device in config.devices] == ["phone"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("keystorePassphrase", "short", "at least 12 characters"),
        ("keystorePassphrase", "password1234", "is easily guessed"),
        ("keystorePassphrase", 123456789012, "must be text"),
        ("keystorePassphrase", None, "must be text"),
        ("sudoPassword", "geheim\nreboot", "must be one line"),
        ("immichApiKey", "geheim geheim", "must be the key that Immich shows once"),
    ],
)
def test_a_wrong_secret_is_refused_once_it_is_known(key: str, value: Any, words: str) -> None:
    config = package.config_of("home", args(**{key: pulumi.Output.secret(value)}))
    name = re.sub(r"([A-Z])", r"_\1", key).lower()
    with pytest.raises(ConfigError, match=words) as caught:
        asyncio.get_event_loop().run_until_complete(getattr(config, name).future())
    assert "geheim" not in str(caught.value)


def test_two_exposures_of_one_server_are_refused() -> None:
    def expose(name: str, **changes: Any) -> None:
        package._refuse_twice(name, package.config_of(name, args(**changes)))

    expose("home")
    expose("cabin", host="192.168.2.20")
    with pytest.raises(ConfigError, match="twice and home both have the server 192.168.1.20, port 22"):
        expose("twice")
    with pytest.raises(ConfigError, match="other and home both have the keystore keystore/unit/home"):
        expose("other", host="192.168.3.20", keystore="keystore/unit/home")


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ({"host": "Home.lan"}, {"host": "home.lan."}, "server"),
        ({"host": "fe80::1"}, {"host": "FE80:0::1"}, "server"),
        ({"host": "a", "keystore": "k"}, {"host": "b", "keystore": "./x/../k"}, "keystore"),
    ],
)
def test_another_spelling_is_no_other_server(one: dict[str, Any], other: dict[str, Any], what: str) -> None:
    package._refuse_twice("home", package.config_of("home", args(**one)))
    with pytest.raises(ConfigError, match=f"again and home both have the {what}"):
        package._refuse_twice("again", package.config_of("again", args(**other)))
