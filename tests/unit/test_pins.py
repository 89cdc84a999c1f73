"""What is installed and run from elsewhere is pinned: Python packages by hash, actions by commit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from toolchain.paths import PROJECT

WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.y*ml"))
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)")


def direct(name: str) -> dict[str, str]:
    """Return package and version of each line of a list that people write."""
    lines = (PROJECT / name).read_text().splitlines()
    pins = [PIN.match(line) for line in lines if line and not line.startswith(("#", "-"))]
    assert all(pins), "every package has one version"
    return {pin[1].lower(): pin[2] for pin in pins if pin}


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Return version and number of hashes by package of a list that pip reads."""
    text = re.sub(r"^ *#.*\n", "", (PROJECT / name).read_text(), flags=re.MULTILINE)
    entries = text.replace("\\\n", " ").splitlines()
    pins = [PIN.match(entry) for entry in entries]
    assert all(pins), "nothing else stands in it, no option and no index"
    return {
        pin[1].lower(): (pin[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}(?= |$)", entry)))
        for pin, entry in zip(pins, entries, strict=True)
        if pin
    }


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_every_package_has_one_version_and_its_hashes(name: str) -> None:
    pins = locked(f"{name}.txt")
    assert {package: pins[package][0] for package in direct(f"{name}.in")} == direct(f"{name}.in")
    assert all(hashes for _, hashes in pins.values())
    assert len(pins) > len(direct(f"{name}.in"))


def test_developers_have_what_owners_have() -> None:
    assert locked("requirements.txt").items() <= locked("requirements-dev.txt").items()


@pytest.mark.parametrize("package", ["cryptography", "grpcio", "protobuf", "pyyaml", "cffi", "debugpy"])
def test_what_is_compiled_has_a_file_for_more_than_one_platform(package: str) -> None:
    assert locked("requirements.txt")[package][1] > 5


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_and_keep_no_credentials(workflow: Path) -> None:
    text = workflow.read_text()
    used = re.findall(r"uses: *(\S+)(.*)", text)
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) for name, _ in used), used
    assert all(re.fullmatch(r" # v[\d.]+", version) for _, version in used), "the version stands beside it"
    checkouts = re.findall(r"uses: actions/checkout@\S+.*\n((?: {8,}.*\n)*)", text)
    assert checkouts and all("persist-credentials: false" in with_what for with_what in checkouts)
