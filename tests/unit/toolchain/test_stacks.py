"""The keystore of a stack is found as the program finds it."""

from pathlib import Path

import pytest

from toolchain import stacks
from toolchain.errors import ToolchainError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "stacks").mkdir()
    return tmp_path


def write(project: Path, text: str) -> None:
    (project / "stacks" / "Pulumi.home.yaml").write_text(text)


@pytest.mark.parametrize("text", ["", "config:\n", "config:\n  immich-exposure:host: 192.168.1.20\n"])
@pytest.mark.parametrize("stack", ["home", "somebody/home"])
def test_the_default(project: Path, text: str, stack: str) -> None:
    write(project, text)
    assert stacks.keystore(stack, project) == project / "stacks/keystore/home"


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        ("keys", "{project}/keys"),
        ('"a folder"', "{project}/a folder"),
        ("/mnt/k", "/mnt/k"),
        ("~/k", "{home}/k"),
    ],
)
def test_the_configs_keystore(project: Path, value: str, folder: str) -> None:
    write(project, f"config:\n  immich-exposure:keystore: {value}  # where\n")
    assert str(stacks.keystore("home", project)) == folder.format(project=project, home=Path.home())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("config: [", "cannot be read"),
        (
            "config:\n  immich-exposure:keystore:\n    secure: v1:x\n",
            "must be the name of a folder in plain text",
        ),
    ],
)
def test_a_file_that_does_not_say_it(project: Path, text: str, sentence: str) -> None:
    write(project, text)
    with pytest.raises(ToolchainError, match=sentence):
        stacks.keystore("home", project)


def test_a_device_that_was_taken_over_has_no_bundle_but_one_of_the_stacks_own(project: Path) -> None:
    write(
        project,
        "config:\n  immich-exposure:devices: [{name: ben, platform: ios}, {name: eve, platform: ios}]\n"
        "  immich-exposure:adopt: {devices: [{name: anna}, {name: eve}, {certificate: x}]}\n",
    )
    with pytest.raises(ToolchainError, match="no bundle for anna, .*add anna to devices"):
        stacks.refuse_without_bundle("somebody/home", "anna", project)
    for device in ("ben", "eve", "nobody"):
        stacks.refuse_without_bundle("home", device, project)


@pytest.mark.parametrize("text", ["", "config:\n  immich-exposure:adopt: x\n  immich-exposure:devices: {}\n"])
def test_a_config_that_lists_no_devices_refuses_none(project: Path, text: str) -> None:
    write(project, text)
    stacks.refuse_without_bundle("home", "anna", project)


def test_a_stack_without_a_file(project: Path) -> None:
    with pytest.raises(ToolchainError, match=r"Pulumi.other.yaml cannot be read"):
        stacks.keystore("other", project)
