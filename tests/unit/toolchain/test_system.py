"""Packages are asked for only when a program is missing, and only where apt can bring them."""

import os
from pathlib import Path

import pytest

from toolchain import system
from toolchain.errors import ToolchainError
from toolchain.system import Need

NEED = Need("frobnicate", "frobnicator", "frobnication")

# An apt-get whose package brings `frobnicate`, once the lists have been fetched.
FAKE_APT = """#!/bin/sh
echo "apt-get $*" >>"$FAKE_LOG"
case "$1" in
update) touch "$FAKE_TOOLS/fetched" ;;
install)
    [ -e "$FAKE_TOOLS/fetched" ] || exit 100
    case "$*" in *frobnicator*) cp "$0" "$FAKE_TOOLS/frobnicate" ;; esac
    ;;
esac
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of our own with a fake apt-get; no administrator's folders, policy-rc.d somewhere harmless."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "apt-get").write_text(FAKE_APT)
    (folder / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE_TOOLS", str(folder))
    monkeypatch.setattr(system, "_ADMIN_FOLDERS", ())
    monkeypatch.setattr(
        system, "_INSTALL", system._INSTALL.replace("/usr/sbin/policy-rc.d", str(tmp_path / "policy"))
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return folder


def test_what_is_there_asks_for_nothing(tools: Path, tmp_path: Path) -> None:
    system.ensure([Need("sh", "dash", "scripts")])
    assert not (tmp_path / "log").exists()


def test_what_is_missing_is_installed_and_lists_are_fetched(tools: Path, tmp_path: Path) -> None:
    system.ensure([NEED])
    verbs = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert verbs == ["install", "update", "install"]
    assert system.find("frobnicate") == tools / "frobnicate"


def test_daemons_are_kept_from_starting_only_while_installing(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = FAKE_APT.replace('case "$1"', f'cp {tmp_path}/policy {tmp_path}/policy.seen\ncase "$1"', 1)
    (tools / "apt-get").write_text(seen)
    system.ensure([NEED])
    assert "exit 101" in (tmp_path / "policy.seen").read_text()
    assert not (tmp_path / "policy").exists()


def test_a_policy_of_the_machines_own_stays(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "policy").write_text("theirs")
    system.ensure([NEED])
    assert (tmp_path / "policy").read_text() == "theirs"


def test_a_package_that_does_not_bring_the_program_is_an_error(tools: Path) -> None:
    with pytest.raises(ToolchainError, match="apt-get could not install other"):
        system.ensure([Need("other", "othertools", "others")])


def test_elsewhere_the_programs_are_named(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tools / "apt-get").unlink()
    usable = tools.parent / "few"
    usable.mkdir()
    monkeypatch.setenv("PATH", str(usable))
    with pytest.raises(ToolchainError, match=r"frobnicate \(frobnication\)\. .*package manager"):
        system.ensure([NEED])


def test_without_root_the_command_is_named(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tools / "sudo").write_text("#!/bin/sh\nexit 1\n")
    (tools / "sudo").chmod(0o755)
    with pytest.raises(ToolchainError, match="sudo apt-get install frobnicator"):
        system.ensure([NEED])
    (tools / "sudo").write_text("#!/bin/sh\nexit 0\n")
    assert system.as_root([NEED]) == ["sudo", "-n"]
