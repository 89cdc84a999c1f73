"""The lab's nixos-rebuild and switch-to-configuration: units, /etc, which flake. No systemd, no root."""

from __future__ import annotations

import grp
import json
import os
import platform
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.nixos import nixos_rebuild as rebuild
from lab.nixos import switch_to_configuration as switch


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the /etc of a machine of its own."""
    etc = tmp_path / "etc"
    etc.mkdir()
    monkeypatch.setattr(switch, "ETC", etc)
    monkeypatch.setattr(switch, "STATIC", etc / "static")
    monkeypatch.setattr(switch, "ORIGINALS", tmp_path / "originals")
    monkeypatch.setattr(switch, "PEOPLE", tmp_path / "people.json")
    return etc


def _generation(folder: Path, files: dict[str, str]) -> Path:
    (folder / "etc").mkdir(parents=True)
    for name, text in files.items():
        (folder / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "etc" / name).write_text(text)
    return folder


def _tree(etc: Path) -> dict[str, str]:
    """Every file that can be read below /etc, with its text; broken links would show as an error."""
    found = {}
    for folder, _, files in os.walk(etc):
        for name in files:
            found[str((Path(folder) / name).relative_to(etc))] = (Path(folder) / name).read_text()
    return found


def test_etc_follows_the_generation(machine: Path, tmp_path: Path) -> None:
    switch.lay_etc(_generation(tmp_path / "one", {"a/b/deep": "1", "kept": "1"}))
    assert _tree(machine) == {"a/b/deep": "1", "kept": "1"}
    switch.lay_etc(_generation(tmp_path / "two", {"kept": "2", "new": "2"}))
    assert _tree(machine) == {"kept": "2", "new": "2"}
    # The folders that only the first generation needed are gone as well.
    assert sorted(entry.name for entry in machine.iterdir()) == ["kept", "new", "static"]


def test_the_machines_own_file_comes_back(machine: Path, tmp_path: Path) -> None:
    (machine / "fail2ban").mkdir()
    (machine / "fail2ban/jail.local").write_text("the machine's")
    (machine / "fail2ban/other").write_text("untouched")
    switch.lay_etc(_generation(tmp_path / "one", {"fail2ban/jail.local": "the generation's"}))
    assert _tree(machine) == {"fail2ban/jail.local": "the generation's", "fail2ban/other": "untouched"}
    switch.lay_etc(_generation(tmp_path / "two", {}))
    assert _tree(machine) == {"fail2ban/jail.local": "the machine's", "fail2ban/other": "untouched"}


def test_a_layout_that_was_cut_off_is_taken_back(machine: Path, tmp_path: Path) -> None:
    home, other = _generation(tmp_path / "one", {"a": "1"}), _generation(tmp_path / "two", {"b/c/d": "2"})
    switch.lay_etc(home)
    switch._point(switch.STATIC, other / "etc")
    switch.lay_etc(home)
    assert _tree(machine) == {"a": "1"}


def test_laying_out_twice_changes_nothing(machine: Path, tmp_path: Path) -> None:
    (machine / "own").write_text("the machine's")
    generation = _generation(tmp_path / "one", {"own": "1"})
    switch.lay_etc(generation)
    switch.lay_etc(generation)
    assert _tree(machine) == {"own": "1"}
    assert (tmp_path / "originals/own").read_text() == "the machine's"


@pytest.fixture
def accounts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the names of the machine's users, each with a group of its own."""
    there = {"root"}
    programs: dict[str, Callable[[set[str], str], None]] = {
        "systemd-sysusers": _create_all,
        "/usr/sbin/userdel": set.discard,
    }

    def run(program: str, *words: str) -> int:
        if program in programs:
            programs[program](there, words[-1])
        return 0

    def entries() -> list[SimpleNamespace]:
        return [SimpleNamespace(pw_name=name, gr_name=name) for name in there]

    monkeypatch.setattr(switch, "_run", run)
    monkeypatch.setattr(pwd, "getpwall", entries)
    monkeypatch.setattr(grp, "getgrall", entries)
    return there


def _create_all(there: set[str], file: str) -> None:
    there.update(Path(file).read_text().split())


def _peopled(folder: Path, *names: str) -> Path:
    files = {"sysusers.d/00-nixos.conf": " ".join(names)}
    generation = _generation(folder, files)
    people = {"users": list(names), "groups": list(names)}
    (generation / "people.json").write_text(json.dumps(people))
    return generation


def test_people_follow_the_generation(accounts: set[str], tmp_path: Path) -> None:
    for number, names in enumerate([("immich",), ("immich", "edge"), ("immich",)]):
        generation = _peopled(tmp_path / str(number), *names)
        switch.lay_etc(generation)
        switch._people(generation)
        assert accounts == {"root", *names}


def test_a_boot_after_a_power_cut_knows_whom_the_other_generation_created(
    accounts: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(Exception): ...

    def cut(_people: object) -> None:
        raise PowerCut

    home, exposed = _peopled(tmp_path / "home", "immich"), _peopled(tmp_path / "exposed", "immich", "edge")
    switch.lay_etc(home)
    switch._people(home)
    switch.lay_etc(exposed)
    record = switch._record
    monkeypatch.setattr(
        switch, "_record", lambda people: cut(people) if "edge" in accounts else record(people)
    )
    with pytest.raises(PowerCut):
        switch._people(exposed)
    assert "edge" in accounts
    monkeypatch.setattr(switch, "_record", record)
    switch.lay_etc(home)
    switch._people(home)
    assert accounts == {"root", "immich"}


@pytest.mark.parametrize(
    ("old", "new", "action"),
    [
        (["ExecStart=/a"], ["ExecStart=/a"], "none"),
        (["Description=a", "ExecStart=/a"], ["Description=b", "ExecStart=/a"], "none"),
        (["ExecStart=/a"], ["ExecStart=/b"], "restart"),
        (["X-Restart-Triggers=1"], ["X-Restart-Triggers=2"], "restart"),
        (["X-Reload-Triggers=1"], ["X-Reload-Triggers=2"], "reload"),
        (["X-Reload-Triggers=1", "User=a"], ["X-Reload-Triggers=2", "User=b"], "restart"),
    ],
)
def test_a_change_asks_for_no_more_than_it_needs(old: list[str], new: list[str], action: str) -> None:
    assert switch.compare(old, new) == action


def test_drop_ins_belong_to_the_unit(tmp_path: Path) -> None:
    units = {"x.service": "[Service]\nType=notify\n", "x.service.d/overrides.conf": "[Service]\nUser=x\n"}
    generation = _generation(
        tmp_path / "one", {f"systemd/system/{name}": text for name, text in units.items()}
    )
    assert switch.read_unit(generation, "x.service") == ["[Service]", "Type=notify", "[Service]", "User=x"]
    assert switch.read_unit(generation, "y.service") == []


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("a@b.service", "a@.service"),
        ("a@[--]:2283.socket", "a@.socket"),
        # NixOS looks for a template "a@.c.socket", which is not there.
        ("a@b.c.socket", "a@.c.socket"),
        ("a@b\\x2ec.socket", "a@.socket"),
        ("a@.service", "a@.service"),
        ("a.service", "a.service"),
    ],
)
def test_an_instance_belongs_to_its_template(name: str, template: str) -> None:
    assert switch.template_of(name) == template


def test_an_instance_is_what_its_template_says(tmp_path: Path) -> None:
    units = {"x@.socket": "[Socket]\nListenStream=%I\n", "x@own.socket": "[Socket]\nListenStream=1\n"}
    generation = _generation(tmp_path / "one", {f"systemd/system/{name}": units[name] for name in units})
    assert switch.read_unit(generation, "x@80.socket") == ["[Socket]", "ListenStream=%I"]
    assert switch.read_unit(generation, "x@own.socket") == ["[Socket]", "ListenStream=1"]


def test_a_masked_unit_has_no_lines(tmp_path: Path) -> None:
    generation = _generation(tmp_path / "one", {"systemd/system/y.service": ""})
    (generation / "etc/systemd/system/x.service").symlink_to("/dev/null")
    assert switch.read_unit(generation, "x.service") == []


def test_a_flake_of_the_machine_wins_over_a_named_configuration(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "flake.nix").touch()
    flake = tmp_path / "flake.nix"
    assert rebuild.find_flake(None, flake) is None
    flake.symlink_to(checkout / "flake.nix")
    host = platform.node()
    attribute = "config.system.build.toplevel"
    assert rebuild.find_flake(None, flake) == f'{checkout}#nixosConfigurations."{host}".{attribute}'
    assert rebuild.find_flake(False, flake) is None
    assert rebuild.find_flake("path:/x#pi", flake) == f'path:/x#nixosConfigurations."pi".{attribute}'
