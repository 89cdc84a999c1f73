"""devices.sh: who may come in, who is out for good, certificates that end, and what the timer removes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.programs.harness import NODE, OPEN, Machine, Outcome, assert_sentence, available_shells
from tests.server.waiting import wait_until

NOW = 1_000_000
"""What the pretend server's clock says."""

NEW, OLD, OTHER = "a" * 64, "b" * 64, "c" * 64

Line = tuple[str, str, int]
"""A device's name, the fingerprint of its certificate, and when that ends."""

PHONE: Line = ("phone", NEW, NOW + 99000)
LAPTOP: Line = ("laptop", OTHER, NOW + 9000)


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server, once for each shell."""
    return Machine(tmp_path, request.param)


def devices(machine: Machine) -> dict[str, str]:
    return machine.files(machine.state / "devices")


def revoked(machine: Machine) -> set[str]:
    return set(machine.files(machine.state / "revoked"))


def install(machine: Machine, *lines: Line, revoked: str = "") -> Outcome:
    text = "".join(f"{fingerprint} {end} {name}\n" for name, fingerprint, end in lines)
    return machine.run("devices", "install", payload={"devices": text, "revoked": revoked})


def stay(machine: Machine, *names: str, authorities: str = "-") -> Outcome:
    return machine.run("devices", "--stack=ours", "stay", authorities, *names)


def begin(machine: Machine, *lines: Line) -> None:
    """Make an exposure of this stack, with these devices."""
    assert machine.begin().status == 0
    assert install(machine, *lines).status == 0
    machine.forget_commands()


def told(outcome: Outcome) -> dict[str, Any]:
    """The answer; the script succeeded."""
    assert outcome.status == 0, outcome.stderr
    answer: dict[str, Any] = json.loads(outcome.stdout)
    return answer


GONE = "{} is revoked: its certificate is never accepted again\n"


# The list


def test_the_devices_are_those_of_the_list(machine: Machine) -> None:
    outcome = install(machine, PHONE, LAPTOP)
    assert outcome.stderr == "Device phone is enrolled\nDevice laptop is enrolled\n"
    assert devices(machine) == {
        NEW: f"0644 phone\nuntil {NOW + 99000}\n",
        OTHER: f"0644 laptop\nuntil {NOW + 9000}\n",
    }
    assert {each["name"] for each in told(outcome)["devices"]} == {"phone", "laptop"}
    again = install(machine, PHONE, LAPTOP)
    assert again.stderr == "" and told(again)["refused"] == []
    asked = "systemctl is-active --quiet immich-bans"
    assert set(machine.commands("systemctl")) <= {asked}, "it must need no reload"


def test_two_hundred_devices_are_one_step(machine: Machine) -> None:
    many = [(f"device-{number}", f"{number:064x}", NOW + 9) for number in range(200)]
    assert len(told(install(machine, *many))["devices"]) == 200
    assert len(devices(machine)) == 200


def test_whoever_is_not_in_the_list_is_out_for_good(machine: Machine) -> None:
    """One that was put there by hand as well: nobody would ever look for it."""
    begin(machine, PHONE, LAPTOP)
    machine.write(machine.state / "devices" / OLD, "neighbour\n")
    outcome = install(machine, LAPTOP)
    assert sorted(outcome.stderr.splitlines()) == [
        GONE.format("neighbour").strip(),
        GONE.format("phone").strip(),
    ]
    assert set(devices(machine)) == {OTHER}
    assert {(each["name"], each["fingerprint"]) for each in told(outcome)["revoked"]} == {
        ("phone", NEW),
        ("neighbour", OLD),
    }


def test_the_certificate_of_before_counts_until_its_grace_ends(machine: Machine) -> None:
    begin(machine, ("phone", OLD, NOW + 9000), LAPTOP)
    install(machine, PHONE, ("phone", OLD, NOW + 10), LAPTOP)
    assert devices(machine) == {
        NEW: f"0644 phone\nuntil {NOW + 99000}\n",
        OLD: f"0644 phone\nuntil {NOW + 10}\n",
        OTHER: f"0644 laptop\nuntil {NOW + 9000}\n",
    }
    outcome = install(machine, PHONE, LAPTOP)
    assert outcome.stderr == "An older certificate of phone was replaced and is revoked\n"
    assert set(devices(machine)) == {NEW, OTHER}


def test_a_grace_that_is_over_lets_nobody_in(machine: Machine) -> None:
    begin(machine, ("phone", OLD, NOW + 9000))
    install(machine, PHONE, ("phone", OLD, NOW))
    assert set(devices(machine)) == {NEW}


def test_a_list_that_cannot_be_written_locks_nobody_out(machine: Machine) -> None:
    begin(machine, ("phone", OLD, NOW + 9000))
    # The disk is full: the new file cannot be written.
    machine.fake("cat", 'case $(readlink /proc/$$/fd/1) in */devices/*) exit 1 ;; esac; exec /bin/cat "$@"')
    assert_sentence(install(machine, PHONE), "could not be written", "make room")
    assert set(devices(machine)) == {OLD}


# Out, first of all


def test_whoever_is_not_named_is_out_at_once(machine: Machine) -> None:
    begin(machine, PHONE, ("phone", OLD, NOW + 10), LAPTOP)
    outcome = stay(machine, "laptop")
    assert outcome.stderr == GONE.format("phone")
    assert set(devices(machine)) == {OTHER} and revoked(machine) == {NEW, OLD}
    assert {each["name"] for each in told(outcome)["revoked"]} == {"phone"}
    assert stay(machine, "laptop", "phone-2").stderr == ""
    assert stay(machine).stderr == GONE.format("laptop")
    assert devices(machine) == {}


def test_it_waits_for_nobody(machine: Machine) -> None:
    """Another run may hold the lock for as long as a build takes."""
    begin(machine, PHONE)
    machine.fake("flock", "exit 1")
    assert stay(machine).status == 0
    assert devices(machine) == {} and machine.commands("flock") == []


def test_a_server_without_an_exposure_is_left_alone(machine: Machine) -> None:
    before = machine.files(machine.root)
    assert told(stay(machine, "phone")) == {"devices": [], "revoked": [], "refused": []}
    assert machine.files(machine.root) == before
    machine.write(machine.state / "devices" / NEW, "somebody else's\n")
    assert stay(machine).status == 0
    assert set(devices(machine)) == {NEW}


def test_anothers_devices_are_left_alone(machine: Machine) -> None:
    """Whether it may be taken over, preflight says, and that comes later."""
    begin(machine, PHONE)
    outcome = machine.run("devices", "--stack=another", "stay", "-", "laptop")
    assert outcome.stderr == "" and set(devices(machine)) == {NEW}


AUTHORITY = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"
FINGERPRINT_OF_IT = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def test_who_takes_over_must_have_the_authority(machine: Machine) -> None:
    """Whose state was lost is another stack to the server."""
    begin(machine, PHONE)
    machine.run("trust", "install", payload={"device-ca.crt": AUTHORITY})
    for authorities in ("-", "ab" * 32):
        machine.run("devices", "--stack=another", "stay", authorities)
        assert set(devices(machine)) == {NEW}
    machine.run("devices", "--stack=another", "stay", f"{'ab' * 32},{FINGERPRINT_OF_IT}")
    assert devices(machine) == {}


def test_a_full_disk_keeps_nobody_in(machine: Machine) -> None:
    """Nothing can be written, neither there nor in memory; a file can be removed."""
    begin(machine, PHONE, LAPTOP)
    machine.fake("mktemp", "exit 1")
    machine.fake("mv", "exit 1")
    outcome = stay(machine, "laptop")
    assert outcome.status == 0 and GONE.format("phone") in outcome.stderr
    assert "has no space left to record" in outcome.stderr
    assert set(devices(machine)) == {OTHER}


@pytest.mark.parametrize("by", ["the owner", "a run"])
def test_who_was_revoked_without_room_for_it_never_comes_back(machine: Machine, by: str) -> None:
    """It waits beside the devices; the next run has room, and the config may still name the device."""
    begin(machine, PHONE, LAPTOP)
    machine.fake("mv", 'case $* in *"/revoked/"*) exit 1 ;; esac; exec /bin/mv "$@"')
    revoked = machine.run("devices", "revoke", "phone") if by == "the owner" else stay(machine, "laptop")
    assert revoked.status == 0 and GONE.format("phone") in revoked.stderr
    assert "has no space" not in revoked.stderr
    assert {name for name in devices(machine) if not name.startswith(".")} == {OTHER}
    machine.unfake("mv")
    answer = install(machine, PHONE, LAPTOP)
    assert set(devices(machine)) == {OTHER}
    assert NEW in machine.files(machine.state / "revoked")
    assert ("by hand" in machine.files(machine.state / "revoked")[NEW]) is (by == "the owner")
    assert "phone stays revoked" in answer.stderr


def test_a_revocation_is_on_the_disk_before_long(machine: Machine) -> None:
    """The power may be cut as soon as the owner has read that the phone is out."""
    begin(machine, PHONE, LAPTOP)
    machine.fake("sync", "")
    machine.run("devices", "revoke", "phone")
    folders = f"{machine.state}/devices {machine.state}/revoked".replace(str(machine.root), "")
    wait_until(lambda: machine.commands("sync") == [f"sync {folders}"], "what was revoked is on the disk")


@pytest.mark.parametrize(
    ("saved", "connected"), [(True, True), (False, True), (True, False)], ids=["saved", "unsaved", "starting"]
)
def test_a_disk_that_cannot_be_written_to_shuts_everybody_out(
    machine: Machine, saved: bool, connected: bool
) -> None:
    """Where Tailscale can save that the funnel is closed, that outlives a reboot; else it is told.

    A tailscaled that has not reached its control server reports that it serves nothing, and later does.
    """
    begin(machine, PHONE, LAPTOP)
    machine.fake("mv", "exit 1")
    machine.fake("rm", 'case $* in */devices/*) exit 1 ;; esac; exec /bin/rm "$@"')
    machine.remember(active="immich-edge", **{"serve.json": OPEN if connected else "{}"})
    if not connected:
        machine.write(machine.state / "funnel", "443 8443\n")
        machine.remember(**{"status.json": NODE.replace("Running", "Starting")})
    machine.forget_commands()
    if saved:
        (machine.root / "var/lib/tailscale").mkdir()
    outcome = stay(machine, "laptop")
    if saved and connected:
        assert_sentence(outcome, "nobody gets in, also after a reboot", "mounted read-only?")
        assert json.loads((machine.fakes / "serve.json").read_text()) == {}
    else:
        assert_sentence(outcome, "nobody gets in until this server reboots", "policy file before the reboot")
    commands = [
        line for line in machine.commands("systemctl") if "is-active" not in line and "lease" not in line
    ]
    assert commands[0] == "systemctl stop immich-edge"
    assert not [line for line in commands if "start immich-edge" in line]
    assert (machine.root / "run/immich-exposure-edge-stopped").exists(), "or the guard would start it"


@pytest.mark.parametrize("how", ["up", "hand"])
def test_what_others_know_to_be_revoked_is_out_before_anything_is_written(machine: Machine, how: str) -> None:
    """The server was set back to a backup, and its disk is full."""
    begin(machine, PHONE, ("phone", OLD, NOW + 10))
    machine.fake("mktemp", 'case $* in */immich-exposure/*) exit 1 ;; esac; exec /usr/bin/mktemp "$@"')
    outcome = install(machine, PHONE, LAPTOP, revoked=f"{OLD} {NOW} {how} phone\n")
    assert_sentence(outcome, "make room on its disk")
    assert set(devices(machine)) == {NEW} and revoked(machine) == {OLD}
    said = (machine.state / "revoked" / OLD).read_text()
    assert ("by hand" in said) is (how == "hand")


# For good


@pytest.mark.parametrize("how", ["stay", "list", "hand", "told"])
def test_what_was_withdrawn_is_never_let_in_again(machine: Machine, how: str) -> None:
    begin(machine, PHONE, LAPTOP)
    told_before = ""
    if how == "stay":
        stay(machine, "laptop")
    elif how == "list":
        install(machine, LAPTOP)
    elif how == "hand":
        machine.run("devices", "revoke", "phone")
    else:
        told_before = f"{NEW} 86400 up phone\n"
    outcome = install(machine, PHONE, LAPTOP, revoked=told_before)
    assert "phone stays revoked: its certificate was revoked on " in outcome.stderr
    assert told(outcome)["refused"] == [NEW]
    assert set(devices(machine)) == {OTHER}
    assert install(machine, ("phone", OLD, NOW + 9), LAPTOP).status == 0, "another certificate may come in"
    assert set(devices(machine)) == {OLD, OTHER}


def test_what_the_operator_knows_is_noted_down(machine: Machine) -> None:
    """The server was set up anew; keystore and state still know."""
    outcome = install(machine, LAPTOP, revoked=f"{NEW} 86400 up phone\n{OLD} 172800 hand tablet\n")
    assert told(outcome)["revoked"] == [
        {"fingerprint": NEW, "name": "phone", "until": None, "since": 86400, "byHand": False},
        {"fingerprint": OLD, "name": "tablet", "until": None, "since": 172800, "byHand": True},
    ]


def test_a_run_that_withdraws_meanwhile_wins(machine: Machine) -> None:
    """It waits for no lock, so it may come between the look and the writing."""
    begin(machine, LAPTOP)
    put = f'/bin/mv "$@"; case $* in */devices/{NEW}) mkdir -p "$(dirname "$3")/../revoked"; '
    put += f': >"$(dirname "$3")/../revoked/{NEW}" ;; esac'
    machine.fake("mv", put)
    install(machine, PHONE, LAPTOP)
    assert set(devices(machine)) == {OTHER}


def test_destroy_takes_all_away_and_revokes_nobody(machine: Machine) -> None:
    begin(machine, PHONE, LAPTOP)
    stay(machine, "laptop")
    answer = json.loads(machine.run("devices", "clear").stdout)
    assert [each["fingerprint"] for each in answer["revoked"]] == [NEW]
    assert devices(machine) == {} and revoked(machine) == {NEW}
    assert install(machine, LAPTOP).status == 0
    assert set(devices(machine)) == {OTHER}
    assert machine.run("state", "remove").status == 0
    assert not machine.state.exists()


# By the owner's hand, on the server


def test_revoked_by_hand(machine: Machine) -> None:
    begin(machine, PHONE, ("phone", OLD, NOW + 10), LAPTOP)
    outcome = machine.run("devices", "revoke", "phone")
    assert (
        outcome.stderr.startswith(GONE.format("phone"))
        and 'write "revoked: true" beside phone' in outcome.stderr
    )
    assert set(devices(machine)) == {OTHER}
    answer = told(machine.run("devices", "clear"))
    assert [(each["name"], each["byHand"]) for each in answer["revoked"]] == [("phone", True)] * 2
    assert_sentence(
        machine.run("devices", "revoke", "phone"), "phone was already revoked, on ", "nothing is left"
    )


def test_to_revoke_an_unknown_name_is_told(machine: Machine) -> None:
    begin(machine, PHONE, LAPTOP)
    assert_sentence(
        machine.run("devices", "revoke", "fone"), "No device fone is enrolled", "name one of: laptop phone"
    )
    assert_sentence(machine.run("devices", "revoke"), "Name the device")
    assert_sentence(machine.run("devices", "revoke", "../x"), "A device's name")
    assert set(devices(machine)) == {NEW, OTHER}


def test_the_list_for_people(machine: Machine) -> None:
    assert machine.run("devices", "list") == Outcome(0, "", "No device is enrolled\n")
    begin(machine, PHONE, LAPTOP)
    machine.run("devices", "revoke", "phone")
    lines = machine.run("devices", "list").stdout.splitlines()
    assert lines[0].split() == ["laptop", "until", "1970-01-12", "c" * 16]
    assert lines[1].split()[:2] == ["phone", "revoked"] and "by hand" in lines[1]


# The end of a certificate


def test_what_has_ended_goes_by_itself(machine: Machine) -> None:
    begin(machine, ("phone", NEW, NOW + 1), ("phone", OLD, NOW + 1), ("laptop", OTHER, NOW + 60))
    assert machine.run("devices", "expire") == Outcome(0, "", "")
    assert len(devices(machine)) == 3
    machine.remember(clock=str(NOW + 1))
    ended = "A certificate of device phone has expired and is no longer accepted\n"
    assert machine.run("devices", "expire") == Outcome(0, "", ended * 2)
    assert set(devices(machine)) == {OTHER}
    assert machine.run("devices", "expire") == Outcome(0, "", "")
    same = install(machine, ("phone", NEW, NOW + 1), ("phone", OLD, NOW + 1), ("laptop", OTHER, NOW + 60))
    assert same.stderr == "" and set(devices(machine)) == {OTHER}
    asked = "systemctl is-active --quiet immich-bans"
    assert set(machine.commands("systemctl")) <= {asked}, "it must need no reload"


def test_a_clock_that_ran_ahead_shuts_nobody_out_for_good(machine: Machine) -> None:
    """A Raspberry Pi has no clock of its own, and no `up` would bring back what it did not change."""
    begin(machine, PHONE, ("phone", OLD, NOW + 10))
    for file in (machine.state / "devices").iterdir():
        os.utime(file, (NOW, NOW))
    before = devices(machine)
    machine.remember(clock=str(NOW + 10**9))
    machine.run("devices", "expire")
    assert devices(machine) == {}
    machine.remember(clock="0")
    assert machine.run("devices", "expire") == Outcome(0, "", "")
    assert devices(machine) == {}, "a clock that begins at 1970 must bring back nobody whose time is over"
    machine.remember(clock=str(NOW + 9))
    back = "A certificate of device phone is accepted again: the clock had been ahead\n"
    assert machine.run("devices", "expire") == Outcome(0, "", back * 2)
    assert devices(machine) == before


@pytest.mark.parametrize("how", ["stay", "hand", "list", "renew", "begin"])
def test_what_has_ended_never_comes_back_for_who_is_withdrawn(machine: Machine, how: str) -> None:
    begin(machine, ("phone", OLD, NOW + 10))
    os.utime(machine.state / "devices" / OLD, (NOW, NOW))
    machine.remember(clock=str(NOW + 11))
    machine.run("devices", "expire")
    machine.remember(clock=str(NOW))
    if how == "stay":
        stay(machine, "laptop")
    elif how == "hand":
        machine.run("devices", "revoke", "phone")
    elif how == "list":
        install(machine, LAPTOP)
    elif how == "renew":
        install(machine, PHONE)
    else:
        machine.begin("laptop")
    machine.run("devices", "expire")
    assert OLD not in devices(machine)


@pytest.mark.parametrize(
    "end", ["", "until\n", "until soon\n", "until -1\n", "until 1 2\n", "until 123456789012345\n"]
)
def test_what_says_no_readable_end_stays(machine: Machine, end: str) -> None:
    begin(machine, ("laptop", OTHER, NOW + 60))
    machine.write(machine.state / f"devices/{NEW}", f"phone\n{end}")
    assert machine.run("devices", "expire") == Outcome(0, "", "")
    assert set(devices(machine)) == {NEW, OTHER}


def test_expiring_without_any_device_is_fine(machine: Machine) -> None:
    assert machine.run("devices", "expire") == Outcome(0, "", "")


# What is refused


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"devices": f"{NEW} soon phone\n"},
        {"devices": f"{NEW} -1 phone\n"},
        {"devices": f"{NEW} {NOW}\n"},
        {"devices": f"{'A' * 64} {NOW} phone\n"},
        {"devices": f"../{'a' * 61} {NOW} phone\n"},
        {"devices": f"{'a' * 63} {NOW} phone\n"},
        {"devices": f"{NEW} {NOW} ../x\n"},
        {"devices": f"{NEW} {NOW} a b\n"},
        {"devices": f"{NEW} {NOW} -rf\n"},
        {"devices": f"{NEW} {NOW} {'x' * 65}\n"},
        {"devices": f"{NEW} {NOW} phone\n{NEW} {NOW} laptop\n"},
        {"devices": "", "revoked": f"{NEW} 1 maybe phone\n"},
        {"devices": "", "revoked": "x 1 up phone\n"},
        {"devices": "", "other": "x\n"},
    ],
)
def test_a_list_is_read_strictly(machine: Machine, payload: dict[str, str]) -> None:
    assert_sentence(machine.run("devices", "install", payload=payload))
    assert machine.files(machine.root / "var") == {}


def test_only_root_changes_anything(machine: Machine) -> None:
    machine.fake("id", "echo 1000")
    for verb in ("stay", "install", "clear", "revoke", "expire"):
        assert_sentence(machine.run("devices", verb), "must run as root")


def test_an_unknown_verb_is_told(machine: Machine) -> None:
    assert_sentence(machine.run("devices", "enrol"), "stay, install, clear, revoke, list and expire")


def test_who_begins_anew_lets_nobody_in_but_the_devices_of_the_config(machine: Machine) -> None:
    """The operator's state was lost, and a phone with it: nothing else would ever withdraw that."""
    begin(machine, ("phone", OLD, NOW + 9000), LAPTOP)
    told = "Device phone is not in the configuration and is no longer enrolled\n"
    assert machine.begin("laptop", "phone-2") == Outcome(0, "", told)
    assert set(devices(machine)) == {OTHER}
    assert machine.run("state", "prepare") == Outcome(0, "", "")
    assert set(devices(machine)) == {OTHER}
    machine.begin()
    assert devices(machine) == {}


# Frames, which show a secret in place of a certificate


def install_frame(machine: Machine, *lines: str, revoked: str = "") -> Outcome:
    return machine.run(
        "devices", "install", payload={"devices": "".join(f"{line}\n" for line in lines), "revoked": revoked}
    )


def test_a_frame_is_in_the_same_list(machine: Machine) -> None:
    lines = (f"{NEW} frame kitchen", f"{OTHER} {NOW + 9000} laptop")
    outcome = install_frame(machine, *lines)
    assert outcome.stderr == (
        "Frame kitchen is enrolled: it may read photos and albums\nDevice laptop is enrolled\n"
    )
    assert devices(machine)[NEW] == "0644 kitchen\nframe\n"
    assert told(outcome)["devices"][0] == {**told(outcome)["devices"][0], "name": "kitchen", "until": None}
    assert install_frame(machine, *lines).stderr == ""
    listed = machine.run("devices", "list").stdout
    assert "kitchen              frame, until revoked     aaaaaaaaaaaaaaaa" in listed


def test_a_frame_that_becomes_a_device_is_none_any_more(machine: Machine) -> None:
    install_frame(machine, f"{NEW} frame kitchen")
    outcome = install_frame(machine, f"{OTHER} {NOW + 9000} kitchen")
    assert "An older secret of kitchen was replaced and is revoked" in outcome.stderr
    assert set(devices(machine)) == {OTHER} and revoked(machine) == {NEW}


def test_a_frame_of_no_name_that_stays_is_out_first(machine: Machine) -> None:
    assert machine.begin().status == 0
    install_frame(machine, f"{NEW} frame kitchen", f"{OTHER} {NOW + 9000} laptop")
    outcome = stay(machine, "laptop")
    assert "kitchen is revoked: its secret is never accepted again\n" in outcome.stderr
    assert set(devices(machine)) == {OTHER} and revoked(machine) == {NEW}
    again = install_frame(machine, f"{NEW} frame kitchen", f"{OTHER} {NOW + 9000} laptop")
    assert "kitchen stays revoked: its secret was revoked on" in again.stderr
    assert told(again)["refused"] == [NEW]


def test_a_device_whose_name_a_frame_has_now_is_out_first_and_the_other_way_round(machine: Machine) -> None:
    assert machine.begin().status == 0
    install_frame(machine, f"{NEW} frame kitchen", f"{OTHER} {NOW + 9000} laptop")
    assert stay(machine, "laptop", "frame=kitchen").stderr == "" and set(devices(machine)) == {NEW, OTHER}
    outcome = stay(machine, "frame=laptop", "kitchen")
    assert "laptop is revoked: its certificate is never accepted again\n" in outcome.stderr
    assert "kitchen is revoked: its secret is never accepted again\n" in outcome.stderr
    assert devices(machine) == {} and revoked(machine) == {NEW, OTHER}


def test_a_frame_is_revoked_by_hand_and_never_ends_by_itself(machine: Machine) -> None:
    assert machine.begin().status == 0
    install_frame(machine, f"{NEW} frame kitchen")
    assert machine.run("devices", "expire").status == 0 and set(devices(machine)) == {NEW}
    outcome = machine.run("devices", "revoke", "kitchen")
    assert outcome.status == 0 and "kitchen is revoked: its secret is never accepted" in outcome.stderr
    assert devices(machine) == {}
    assert "by hand" in machine.files(machine.state / "revoked")[NEW]
