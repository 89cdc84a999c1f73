"""Whose server it is: one stack's, told by an id; every other one's runs change nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs.harness import SCRIPTS, Machine, Outcome, assert_sentence, available_shells

FINGERPRINT = "a" * 64
CHANGES = [
    ("settings", "install"),
    ("trust", "install"),
    ("certificate", "issue"),
    ("files", "install", "CONFIG"),
    ("module", "managed", "CONFIG", "8443", "-", "2283", "yes"),
    ("module", "yours", "8443", "-", "2283"),
    ("devices", "install"),
    ("devices", "clear"),
    ("funnel", "prove", "443", "8443", "600", "always", "-", "digest"),
    ("funnel", "close", "443", "8443"),
    ("adopt", "begin", "443", "8443"),
    ("adopt", "note"),
    ("state", "remove"),
]
WAYS_BACK = [
    ("files", "remove", "CONFIG"),
    ("module", "restore", "CONFIG"),
    ("module", "leave"),
    ("devices", "clear"),
    ("funnel", "close", "443", "8443"),
    ("state", "remove"),
]


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A server that the stack "ours" exposes."""
    machine = Machine(tmp_path, request.param)
    machine.write(machine.root / "etc/NIXOS", "")
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./immich-exposure ]; }\n")
    machine.write(machine.config / "immich-exposure/.immich-exposure", "ours\n")
    assert machine.begin("phone").status == 0
    machine.write(machine.state / f"devices/{FINGERPRINT}", "phone\n")
    machine.write(machine.state / "funnel", "443 8443\n")
    machine.write(machine.state / "lease", "confirmed\n")
    machine.remember(active="immich-edge")
    return machine


def run(machine: Machine, word: str, script: str, verb: str, *arguments: str) -> Outcome:
    places = (str(machine.config) if argument == "CONFIG" else argument for argument in arguments)
    return machine.run(script, word, verb, *places, payload={} if verb == "install" else None)


def everything(machine: Machine) -> dict[str, str]:
    """All files but the lock's, which any run makes."""
    files = machine.files(machine.root)
    return {name: text for name, text in files.items() if not name.endswith(".lock")}


@pytest.mark.parametrize("change", CHANGES, ids=" ".join)
def test_another_stack_changes_nothing(machine: Machine, change: tuple[str, ...]) -> None:
    before = everything(machine)
    machine.forget_commands()
    assert_sentence(
        run(machine, "--stack=theirs", *change),
        "exposed by the stack organization/immich/home and no longer by this one",
    )
    assert everything(machine) == before
    assert {line.split(" ")[0] for line in machine.commands()} <= {"id"}


@pytest.mark.parametrize("change", WAYS_BACK, ids=" ".join)
def test_the_way_back_of_another_stack_ends_and_changes_nothing(
    machine: Machine, change: tuple[str, ...]
) -> None:
    """One that was taken over, or came second, must be able to end."""
    before = everything(machine)
    machine.forget_commands()
    outcome = run(machine, "--leaving=theirs", *change)
    assert (outcome.status, outcome.stdout) == (0, "")
    assert "nothing of this stack is left on it, and nothing was changed" in outcome.stderr
    assert everything(machine) == before
    assert {line.split(" ")[0] for line in machine.commands()} <= {"id"}


def test_the_stack_itself_goes_on_and_the_server_asks_nobody(machine: Machine) -> None:
    assert run(machine, "--leaving=ours", "devices", "clear").status == 0
    assert not (machine.state / f"devices/{FINGERPRINT}").exists()
    machine.write(machine.state / f"devices/{FINGERPRINT}", "phone\n")
    assert machine.run("devices", "revoke", "phone").status == 0
    assert not (machine.state / f"devices/{FINGERPRINT}").exists()


def test_a_server_is_taken_over_only_where_that_is_said(machine: Machine) -> None:
    second = {"owner": "organization/immich/second", "stack": "theirs"}
    before = everything(machine)
    assert_sentence(
        machine.begin("laptop", **second),
        "already exposed by the stack organization/immich/home",
        "set takeOver: true",
    )
    assert everything(machine) == before
    assert machine.begin("laptop", take_over="yes", **second).status == 0
    assert (machine.state / "owner").read_text() == "theirs organization/immich/second\n"
    assert_sentence(
        run(machine, "--stack=ours", "devices", "install"),
        "exposed by the stack organization/immich/second",
    )
    assert machine.begin("laptop", **second).status == 0, "again, and it is its own"


def test_whose_it_is_is_noted_down_again_where_the_state_was_deleted(machine: Machine) -> None:
    shutil.rmtree(machine.state)
    assert run(machine, "--stack=ours", "state", "prepare", "organization/immich/home").status == 0
    assert (machine.state / "owner").read_text() == "ours organization/immich/home\n"
    assert_sentence(
        run(machine, "--stack=theirs", "state", "prepare", "organization/immich/second"),
        "exposed by the stack organization/immich/home",
    )
    assert run(machine, "--stack=ours", "state", "prepare", "organization/immich/renamed").status == 0
    assert (machine.state / "owner").read_text() == "ours organization/immich/home\n"


def test_of_two_that_begin_at_once_one_is_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path, available_shells()[0])
    text = tmp_path / "state.sh"
    text.write_text("".join((SCRIPTS / f"{name}.sh").read_text() for name in ("lib", "state")))
    began = {
        stack: subprocess.Popen(
            [*machine.shell, "-s", "--", f"--stack={stack}", "begin", f"organization/immich/{stack}", "no"],
            stdin=text.open(),
            stderr=subprocess.PIPE,
            env=machine.environment,
            text=True,
        )
        for stack in ("first", "second")
    }
    told = {stack: process.communicate(timeout=60)[1] for stack, process in began.items()}
    [won] = [stack for stack, process in began.items() if process.returncode == 0]
    [lost] = set(began) - {won}
    assert f"already exposed by the stack organization/immich/{won}" in told[lost]
    assert (machine.state / "owner").read_text() == f"{won} organization/immich/{won}\n"


def test_who_waited_for_the_lock_of_a_destroy_holds_the_new_one(machine: Machine) -> None:
    """Its last step takes the file away: two that hold two files would change the server at the same time."""
    lock = machine.root / "run/lock/immich-exposure.lock"
    lock.touch()
    machine.fake(
        "flock",
        f"""[ -e "$FAKES/waited" ] || {{ touch "$FAKES/waited"; rm {lock}; }}""",
    )
    assert run(machine, "--stack=ours", "devices", "clear").status == 0
    assert len(machine.commands("flock")) == 2
    assert lock.exists()


def test_a_folder_of_somebody_elses_has_no_owner(tmp_path: Path) -> None:
    machine = Machine(tmp_path, available_shells()[0])
    machine.write(machine.state / "owner", "theirs a/b/c\n")
    assert "was not made by this project" in machine.begin().error
    os.unlink(machine.state / "owner")
