"""The policy pack under the real engine: a stack that keeps the rules, one that does not, another program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.lab.operator import Operator, PulumiFailedError
from toolchain.paths import PROJECT

pytest.importorskip("pulumi_policy", reason="`make setup` installs it")
pytestmark = pytest.mark.server

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ"
NOBODY = {
    "ssh": {"host": "127.0.0.1", "host_key": HOST_KEY, "port": 9, "user": "admin", "private_key_file": ""},
    "window": {"host": "127.0.0.1", "port": 9},
    "roots_file": "",
}
"""A server that is not there: a preview does not need it."""

PACK = ("--policy-pack", str(PROJECT / "policy"))

FOREIGN = """
import pulumi
from pulumi_command import remote

exposure = pulumi.ComponentResource("immich-exposure:index:ImmichExposure", "theirs", {})
beside = pulumi.ResourceOptions(parent=exposure)
pulumi.ComponentResource("immich-exposure:index:Funnel", "theirs-funnel", {}, beside)
remote.Command("open", connection=remote.ConnectionArgs(host="127.0.0.1"), create="true", opts=beside)
key = "-----BEGIN PRIVATE " + "KEY-----"
pulumi.ComponentResource("theirs:index:Thing", "thing", {"notes": pulumi.Output.secret(key)})
"""


def operator(folder: Path, stack: str, settings: Mapping[str, Any], project: Path = PROJECT) -> Operator:
    made = Operator(folder, NOBODY, stack=stack, project=project, more={"check": {}, **settings})
    made.init()
    return made


def verdicts(shown: str) -> dict[str, str]:
    """Return the level of each policy that was violated, by its name."""
    return {name: level for level, name in re.findall(r"- \[(\w+)\] +([\w-]+) ", shown)}


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """A program that uses the names of the package and leaves out what makes it safe."""
    project = tmp_path / "foreign"
    (project / "stacks").mkdir(parents=True)
    virtualenv = PROJECT / ".venv"
    (project / "Pulumi.yaml").write_text(
        f"name: immich-exposure\nruntime: {{name: python, options: {{virtualenv: {virtualenv}}}}}\n"
        "stackConfigDir: stacks\n"
    )
    (project / "__main__.py").write_text(FOREIGN)
    yield project


def test_a_stack_that_keeps_the_rules_passes(tmp_path: Path) -> None:
    shown = operator(tmp_path, "policy-kept", {}).preview(*PACK)
    assert "immich-exposure@v" in shown and verdicts(shown) == {}


def test_whose_pack_it_is_sets_its_levels_and_the_stack_file_does_not(tmp_path: Path) -> None:
    settings = {
        "guard": False,
        "uploads": True,
        "policy": {"watched": "disabled", "previews-end": "disabled"},
    }
    levels = tmp_path / "levels.json"
    levels.write_text('{"watched": "mandatory"}')
    with pytest.raises(PulumiFailedError) as caught:
        operator(tmp_path, "policy-preview", settings).preview(*PACK, "--policy-pack-config", str(levels))
    assert verdicts(str(caught.value)) == {
        "previews-end": "mandatory",
        "watched": "mandatory",
        "uploads-have-budgets": "advisory",
    }
    assert "set leaseHours or exposeUntil" in str(caught.value)


def test_a_foreign_program_that_leaves_out_what_makes_it_safe_is_refused(
    tmp_path: Path, foreign: Path
) -> None:
    with pytest.raises(PulumiFailedError) as caught:
        operator(tmp_path, "policy-foreign", {}, foreign).preview(*PACK)
    assert verdicts(str(caught.value)) == dict.fromkeys(
        (
            "commands-are-pinned",
            "exposures-say-what-they-are",
            "no-funnel-without-the-check",
            "no-private-keys",
        ),
        "mandatory",
    )
