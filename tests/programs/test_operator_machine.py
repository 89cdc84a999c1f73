"""The owner's commands on a machine that has Python, Pulumi, make and POSIX tools, and is nobody's root.

No apt-get, ip, nft, systemd-nspawn, fail2ban, nix or go: a Mac, NixOS or Fedora has some of them or none.
"""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.bare_machine import MISSING, BareMachine
from toolchain.paths import PROJECT

ON_A_STACK = ("up", "preview", "nightly-check", "destroy", "handover", "keystore", "who", "links")
OWNERS_TARGETS = (*ON_A_STACK, "module", "edge", "env")
NAMED = {"DEVICE": "phone", "DIR": "module", "FILE": "edge"}

# A CLI that writes down how it was called. Where the stack is said to be unknown, only `stack init` succeeds.
FAKE_PULUMI = """#!/bin/sh
[ "$1" = version ] && { echo v3.260.0; exit; }
echo "$*" >>"$HOME/calls"
[ "$1 $2" != "stack init" ] || exit 0
[ ! -e "$HOME/unknown" ] || { echo "no stack named home" >&2; exit 1; }
"""


@pytest.fixture
def machine() -> Iterator[BareMachine]:
    """A checkout of this project with one stack, `home`, and a Pulumi CLI."""
    bare = BareMachine()
    bare.program("pulumi", FAKE_PULUMI)
    bare.stack("home")
    yield bare
    bare.close()


def calls(machine: BareMachine) -> list[str]:
    log = machine.home / "calls"
    return log.read_text().splitlines() if log.exists() else []


def test_the_machine_is_as_bare_as_it_says(machine: BareMachine) -> None:
    shown = machine.run("sh", "-c", f"id -u; command -v {' '.join(MISSING)} bash")
    assert shown.stdout.strip() not in ("", "0") and "\n" not in shown.stdout.strip(), shown.stdout


def test_help_lists_every_target_as_it_is_typed(machine: BareMachine) -> None:
    shown = machine.make("help")
    assert shown.returncode == 0, shown.stderr
    assert 'eval "$(make -s env)"' in shown.stdout and "$$" not in shown.stdout
    owners, developers = shown.stdout.split("\n\n")[1:]
    listed = [[line.split()[1] for line in part.splitlines()[1:]] for part in (owners, developers)]
    assert sorted(OWNERS_TARGETS) == sorted(listed[0])
    assert "test" in listed[1]
    assert max(map(len, shown.stdout.splitlines())) < 120


@pytest.mark.parametrize("target", OWNERS_TARGETS)
def test_no_owners_target_prepares_the_lab(machine: BareMachine, target: str) -> None:
    shown = machine.make("-n", target, **NAMED)
    assert shown.returncode == 0, shown.stderr
    for word in ("apt", "toolchain setup", "-m lab", "requirements-dev", "bash"):
        assert word not in shown.stdout


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("up", "up --skip-config-validation --yes --stack home"),
        ("preview", "preview --diff --skip-config-validation --yes --stack home"),
        ("destroy", "destroy --yes --stack home"),
        (
            "nightly-check",
            "preview --refresh --expect-no-changes --skip-config-validation --yes --stack home",
        ),
    ],
)
def test_the_only_stack_needs_no_name(machine: BareMachine, target: str, command: str) -> None:
    shown = machine.make(target, ARGS="--yes")
    assert shown.returncode == 0, shown.stderr
    assert calls(machine)[-1] == command


@pytest.mark.parametrize("target", ["up", "preview", "destroy", "handover"])
def test_no_target_selects_a_stack_for_plain_pulumi(machine: BareMachine, target: str) -> None:
    machine.make(target, STACK="home", **NAMED)
    assert calls(machine)
    for call in calls(machine):
        assert "stack select" not in call
        assert "--stack home" in call


@pytest.mark.parametrize("target", ["up", "preview"])
def test_a_stack_that_the_backend_does_not_know_is_made_and_not_selected(
    machine: BareMachine, target: str
) -> None:
    (machine.home / "unknown").touch()
    machine.make(target)
    assert calls(machine)[1] == "stack init --no-select home"


@pytest.mark.parametrize("target", ["up", "preview"])
def test_help_makes_no_stack(machine: BareMachine, target: str) -> None:
    (machine.home / "unknown").touch()
    machine.make(target, ARGS="--help")
    assert [call.split()[0] for call in calls(machine)] == [target]


def test_destroy_makes_no_stack(machine: BareMachine) -> None:
    """It would say that all is deleted, of a stack that it has just made."""
    (machine.home / "unknown").touch()
    shown = machine.make("destroy")
    assert shown.returncode != 0 and "no stack named home" in shown.stderr
    assert calls(machine) == ["destroy --stack home"]


@pytest.mark.parametrize("target", ON_A_STACK)
def test_several_stacks_are_listed_and_none_is_taken(machine: BareMachine, target: str) -> None:
    machine.stack("cabin")
    shown = machine.make(target, **NAMED)
    assert shown.returncode != 0
    assert "There are several stacks. Name one with STACK=...: cabin home" in shown.stderr
    assert calls(machine) == []
    assert machine.make(target, STACK="lab2", **NAMED).returncode != 0
    assert calls(machine) == []


@pytest.mark.parametrize("target", ON_A_STACK)
def test_the_labs_stack_is_nobodys_home(machine: BareMachine, target: str) -> None:
    """A default that took it answered "deleted" while the exposure at home stayed open."""
    (machine.project / "stacks" / "Pulumi.home.yaml").unlink()
    shown = machine.make(target, **NAMED)
    assert shown.returncode != 0
    assert "There is no stack yet. Copy stacks/Pulumi.home.yaml.example" in shown.stderr
    assert calls(machine) == []


def test_a_stack_of_an_organization(machine: BareMachine) -> None:
    assert machine.make("preview", STACK="family/home").returncode == 0
    assert calls(machine)[0] == "stack --show-name --stack family/home"


def test_without_pulumi_the_remedy_is_named(machine: BareMachine) -> None:
    (machine.tools / "pulumi").unlink()
    shown = machine.make("preview")
    assert shown.returncode != 0
    assert "pulumi: not found" not in shown.stderr
    assert "There is no Pulumi CLI" in shown.stderr and "https://www.pulumi.com/docs/install/" in shown.stderr


def test_the_environment_of_plain_pulumi(machine: BareMachine) -> None:
    shown = machine.run("sh", "-c", 'eval "$(make -s env)" && command -v pulumi')
    assert shown.stdout.strip() == str(machine.tools / "pulumi"), shown.stderr


def test_keystore_reads_where_the_config_says(machine: BareMachine) -> None:
    machine.stack("home", "  immich-exposure:keystore: keys # beside\n")
    shown = machine.make("keystore", ARGS="list")
    assert f"{machine.project}/keys" in shown.stdout + shown.stderr
    assert machine.make("keystore").stderr == shown.stderr, "no verb: the list"
    assert calls(machine) == []


@pytest.mark.parametrize("target", ["who", "links"])
def test_a_report_of_the_server_is_fetched_and_shown(machine: BareMachine, target: str) -> None:
    key = machine.home / "id_ed25519"
    made = machine.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    assert made.returncode == 0, made.stderr
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    machine.stack(
        "home",
        f"  immich-exposure:hostKey: {public}\n  immich-exposure:sshPrivateKeyFile: {key}\n"
        "  immich-exposure:keystorePassphrase:\n    secure: v1:abc:def\n",
    )
    machine.program("ssh", '#!/bin/sh\necho "$*" >>"$HOME/ssh"; cat >/dev/null; echo "Holiday  3 opens"\n')
    shown = machine.make(target)
    assert (shown.returncode, shown.stdout) == (0, "Holiday  3 opens\n"), shown.stderr
    assert (machine.home / "ssh").read_text().count(f"{target}") == 1
    assert not calls(machine), "Pulumi is asked for nothing"


def test_handover_of_an_adopted_device_ends_before_anything_is_asked(machine: BareMachine) -> None:
    machine.stack("home", "  immich-exposure:adopt: {devices: [{name: anna, certificate: anna.crt}]}\n")
    shown = machine.make("handover", DEVICE="anna")
    assert shown.returncode != 0
    assert "There is no bundle for anna, which was taken over" in shown.stderr
    assert "passphrase" not in shown.stderr
    assert calls(machine) == []


def test_handover_without_a_readable_passphrase_says_which_is_wanted(machine: BareMachine) -> None:
    machine.program(
        "pulumi", FAKE_PULUMI.replace('[ "$1 $2" !=', 'echo "passphrase must be set" >&2; exit 1; [')
    )
    shown = machine.make("handover", DEVICE="phone")
    assert shown.returncode != 0
    assert (
        "export PULUMI_CONFIG_PASSPHRASE with the one you gave pulumi stack init, not the keystore's"
        in shown.stderr
    )


def test_the_module_lands_in_the_folder(machine: BareMachine) -> None:
    shown = machine.make("module", DIR="../repository/immich-exposure")
    assert shown.returncode == 0, shown.stderr
    written = machine.project.parent / "repository" / "immich-exposure"
    for name in (
        "default.nix",
        "nix/default.nix",
        "nix/package.nix",
        "Caddyfile",
        "caddy/go.sum",
        "versions.json",
    ):
        assert (written / name).is_file(), name
    assert not [path for path in written.rglob("*_test.go")]


def test_the_makefile_asks_for_nothing_that_make_3_81_or_a_posix_shell_lacks() -> None:
    """macOS has GNU make 3.81. A mechanical look, since that make is not at hand everywhere."""
    text = (PROJECT / "Makefile").read_text()
    for newer in (".ONESHELL", ".SHELLFLAGS", "!=", "$(file ", "undefine ", "pipefail", "/bin/bash", "[["):
        assert newer not in text, newer
    assert not [line for line in text.splitlines() if line.startswith("define ") and line.endswith("=")]


@pytest.mark.skipif(shutil.which("bash") is None, reason="only a second opinion")
def test_the_recipes_do_not_depend_on_the_shell(machine: BareMachine) -> None:
    """As /bin/sh is bash on Fedora and NixOS, and dash on Debian."""
    bash = shutil.which("bash")
    assert bash is not None
    (machine.tools / "sh").unlink()
    os.symlink(bash, machine.tools / "sh")
    assert machine.make("preview").returncode == 0
    assert calls(machine)[1:] == ["preview --diff --skip-config-validation --stack home"]


def test_a_make_variable_with_a_space_stays_one_word(machine: BareMachine) -> None:
    machine.stack("home", '  immich-exposure:keystore: "my keys"\n')
    shown = machine.make("keystore", ARGS="list")
    assert f"{machine.project}/my keys" in shown.stdout + shown.stderr


def test_without_go_the_edge_is_left_to_the_server_in_one_sentence(machine: BareMachine) -> None:
    shown = machine.make("edge", FILE="edge")
    assert shown.returncode != 0
    assert "there is no `go` on PATH" in shown.stderr and "leave the build to the server" in shown.stderr
    assert "Traceback" not in shown.stderr
