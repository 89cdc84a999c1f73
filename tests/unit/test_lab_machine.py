"""The lab's parts that need no root: finding processes and mounts, the lock, ownership, people, keys."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

import lab.__main__ as command_line
from lab import (
    Lab,
    LabError,
    cgroups,
    keys,
    lock,
    mounts,
    network,
    ownership,
    processes,
    rootfs,
    server,
)
from lab.house import FOLDER, House, house, houses
from lab.places import Places

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]


def sleeper(environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A process of ours that has begun."""
    process = subprocess.Popen(SLEEP, stdout=subprocess.PIPE, env=os.environ | environment)
    assert process.stdout and process.stdout.readline()
    return process


# Processes


def test_marked_process_is_found_by_project_and_role_and_killed(tmp_path: Path) -> None:
    process = sleeper(processes.marks(Places(tmp_path), "server"))
    with process:
        assert [found.pid for found in processes.marked(Places(tmp_path))] == [process.pid]
        assert processes.marked(Places(tmp_path), "internet") == []
        assert processes.marked(Places(tmp_path / "other")) == []
        assert processes.kill(processes.marked(Places(tmp_path), "server")) == []
        assert process.wait() == -9
    assert processes.marked(Places(tmp_path)) == []


def test_project_whose_name_begins_alike_is_another(tmp_path: Path) -> None:
    process = sleeper(processes.marks(Places(tmp_path / "clone2"), "server"))
    with process:
        assert processes.marked(Places(tmp_path / "clone")) == []
        process.kill()


def test_zombie_does_not_count_as_running() -> None:
    with sleeper({}) as process:
        found = processes.find(process.pid)
        assert found and found.alive
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not found.alive


def test_later_process_with_the_same_number_is_not_killed(tmp_path: Path) -> None:
    with sleeper({}) as process:
        found = processes.find(process.pid)
        assert found
        assert processes.kill([processes.Process(found.pid, found.started - 1)]) == []
        assert process.poll() is None
        process.kill()


def test_namespace_that_is_not_there_holds_nobody() -> None:
    assert processes.in_namespace("immich-lab-no-such") == []


# Mounts and control groups


def test_mounts_are_read_from_the_kernel() -> None:
    assert mounts.is_mounted(Path("/proc"))
    assert Path("/proc") in mounts.under(Path("/"))
    assert not mounts.is_mounted(Path("/proc/self"))


def test_folder_whose_name_begins_alike_holds_no_mounts_of_ours() -> None:
    assert mounts.under(Path("/pro")) == []


def test_control_groups_are_of_our_own() -> None:
    assert all(group.name == cgroups.NAME for group in cgroups._groups())


# The lock and whose lab it is


def test_lock_is_refused_while_held_and_free_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "NAME", f"\0immich-lab-test-{os.getpid()}")
    with lock.machine_lock(), pytest.raises(LabError, match="still at work"), lock.machine_lock(within=0):
        pass
    with lock.machine_lock(within=0):
        pass


@pytest.fixture
def owner_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record of the test's own in place of the machine's."""
    file = tmp_path / "owner.json"
    monkeypatch.setattr(ownership, "OWNER_FILE", file)
    return file


@pytest.fixture
def empty_machine(owner_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing of a lab, whatever goes on around the test."""
    monkeypatch.setattr(network, "exists", lambda _: False)
    monkeypatch.setattr(ownership, "NETNS_FOLDER", owner_file.parent / "netns")
    monkeypatch.setattr(processes, "in_namespace", lambda _: [])
    monkeypatch.setattr(cgroups, "members", list)


FIRST, SECOND = Places(Path("/first")), Places(Path("/second"))
SOMEBODY = processes.Process(4711, 1)


@pytest.mark.parametrize(
    ("module", "look"), [(processes, "marked"), (processes, "in_namespace"), (cgroups, "members")]
)
def test_other_clones_lab_runs_while_one_process_does(
    empty_machine: None, module: object, look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ownership.claim(FIRST)
    monkeypatch.setattr(module, look, lambda *_: [SOMEBODY])
    ownership.require_ours(FIRST)
    with pytest.raises(LabError, match=r"`python -m lab down` in /first, or from here with .*--force"):
        ownership.require_ours(SECOND)
    assert (ownership.foreign(SECOND), ownership.abandoned(SECOND)) == (FIRST, None)


def leave_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's end of a lab's link."""
    monkeypatch.setattr(network, "exists", lambda _: True)


def leave_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab's namespace by its name."""
    monkeypatch.setattr(ownership, "INTERNET_NAMESPACE", "/dev/null")


def leave_a_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first clone's server disk."""
    monkeypatch.setattr(mounts, "under", lambda folder: [folder] if folder == FIRST.disk else [])


@pytest.mark.parametrize("leave", [leave_a_link, leave_a_namespace, leave_a_mount])
def test_other_clones_lab_without_a_process_is_dead(
    empty_machine: None, leave: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ownership.claim(FIRST)
    leave(monkeypatch)
    ownership.require_ours(SECOND)
    assert (ownership.foreign(SECOND), ownership.abandoned(SECOND)) == (None, FIRST)
    assert ownership.abandoned(FIRST) is None, "one's own lab is not another clone's"


def test_stale_record_of_another_clone_does_not_hinder(empty_machine: None) -> None:
    ownership.claim(FIRST)
    ownership.require_ours(SECOND)
    assert ownership.abandoned(SECOND) is None


def test_half_written_record_counts_as_none(owner_file: Path) -> None:
    owner_file.write_text('{"project": ')
    assert ownership.read() is None


def test_second_claim_keeps_what_the_machine_was_like(
    owner_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mounted in (False, True):
        monkeypatch.setattr(mounts, "is_mounted", lambda _, mounted=mounted: mounted)
        ownership.claim(Places(Path("/first")))
    owner = ownership.read()
    assert owner and not owner.netns_folder_was_mounted


# The server's people, keys and command line


def test_people_of_the_host_stay_outside(tmp_path: Path) -> None:
    host_users = (
        "root:x:0:0::/root:/bin/sh\nsecretary:x:1000:1000::/home/s:/bin/sh\nnobody:x:65534:65534::/:/x\n"
    )
    (tmp_path / "etc/ssh").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "etc/passwd").write_text(host_users)
    (tmp_path / "etc/group").write_text("root:x:0:\nsecretary:x:1000:\ncaddy:x:239:\n")
    (tmp_path / "etc/shadow").write_text("root:*:1::::::\nsecretary:$6$hash:1::::::\n")
    if os.geteuid():
        pytest.skip("giving the home folder to its owner needs root")
    rootfs._people(tmp_path, House("a", "nothing"), "ssh-ed25519 AAAA")
    names = [line.split(":")[0] for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    assert names == ["root", "nobody", "admin"]
    assert (tmp_path / "etc/group").read_text() == "root:x:0:\nadmin:x:1000:\n"
    assert "hash" not in (tmp_path / "etc/shadow").read_text()


def test_houses_say_what_they_prove_and_come_with_a_configuration() -> None:
    assert houses()[0] == "chapter"
    for name in houses():
        home = house(name)
        assert len(home.proves) > 20
        assert list((home.folder / "root").rglob("*.nix")), f"{name} has no configuration"


def test_house_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(LabError, match="There is no house 'chaptre'; there are chapter, "):
        house("chaptre")


def test_house_with_a_key_that_means_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FOLDER.is_dir()
    monkeypatch.setattr("lab.house.FOLDER", tmp_path)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/house.toml").write_text('proves = "nothing"\nshel = "zsh"\n')
    with pytest.raises(LabError, match="keys that are not known: shel"):
        house("odd")


def test_laid_files_replace_links_of_the_host(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "etc").mkdir(parents=True)
    (target / "etc").mkdir(parents=True)
    (tmp_path / "host").write_text("the host's")
    (target / "etc/os-release").symlink_to(tmp_path / "host")
    (source / "etc/os-release").write_text("ours")
    (source / "etc/run").write_text("#!/bin/sh\n")
    (source / "etc/run").chmod(0o700)
    rootfs._lay_tree(source, target)
    assert (tmp_path / "host").read_text() == "the host's"
    assert (target / "etc/os-release").read_text() == "ours"
    assert stat.S_IMODE((target / "etc/run").stat().st_mode) == 0o755


def test_host_key_is_the_one_that_the_lab_stack_pins() -> None:
    stack = Places.of_this_clone().project / "stacks/Pulumi.lab.yaml"
    assert keys.public_text(keys.host_key()) in stack.read_text()


def test_operator_key_is_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "operator_key"
    public = keys.operator_public_text(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = load_ssh_private_key(path.read_bytes(), None)
    assert public.startswith("ssh-ed25519 ") and keys.operator_public_text(path) == public
    assert keys.public_text(loaded) == public  # type: ignore[arg-type]


def test_colons_in_the_projects_path_do_not_split_a_bind() -> None:
    command = server.command(Places(Path("/a:b")), Path("/a:b/bin"))
    assert r"--bind-ro=/a\:b/bin:/opt/lab" in command


# The command line


@pytest.mark.parametrize(
    "words", [["up"], ["down"], ["reboot"], ["status"], ["ssh", "--", "true"], ["visit", "/"]]
)
def test_only_root_may(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command_line.main(words) == 1
    assert "only root may; run the command again with sudo." in capsys.readouterr().err


def test_info_needs_no_root_and_has_what_a_check_needs() -> None:
    info = Lab(Places(Path("/project"))).info()
    assert info["ssh"].keys() == {"host", "port", "user", "private_key_file", "host_key"}
    assert {"domain", "ingress", "window", "roots_file", "stub_requests_file", "log_dir"} <= info.keys()


@pytest.mark.parametrize(
    ("given", "path"),
    [("/share/x", "/share/x"), ("share/x", "/share/x"), ("https://immich.lab-tailnet.ts.net/a?b", "/a?b")],
)
def test_visit_takes_a_path_or_a_url(given: str, path: str) -> None:
    assert command_line._path_of(given) == path
