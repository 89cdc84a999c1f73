"""The funnel and its lease: funnel.sh, state.sh and exposure.sh."""

import base64
import json
import os
import platform
import re
import shutil
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.remote.remote_script import script_text
from tests.programs import tailscale
from tests.programs.harness import (
    BODIES,
    CONFIRM_FUNNEL,
    DOMAIN,
    FUNNEL_STATE,
    OPEN_FUNNEL,
    RUNNING,
    SCRIPTS,
    UNITS,
    Machine,
    Outcome,
    assert_sentence,
    available_shells,
    result,
    serve,
    serving,
)

pytestmark = pytest.mark.server

OPEN: dict[str, Any] = {
    "TCP": {"443": {"TCPForward": "127.0.0.1:8443", "ProxyProtocol": 1}},
    "AllowFunnel": {f"{DOMAIN}:443": True},
}
# As an earlier version of ours opened it, or the owner by hand: it may lead to whoever listens on [::1].
BY_NAME: dict[str, Any] = {
    "TCP": {"443": {"TCPForward": "localhost:8443", "ProxyProtocol": 1}},
    "AllowFunnel": OPEN["AllowFunnel"],
}
# What other tools serve on the node: all of it must outlive us.
OTHERS: dict[str, Any] = {
    "TCP": {"10000": {"HTTPS": True}, "5432": {"TCPForward": "localhost:5432"}},
    "Web": {f"{DOMAIN}:10000": {"Handlers": {"/": {"Proxy": "http://localhost:3000"}}}},
    "AllowFunnel": {f"{DOMAIN}:10000": True},
}
BOTH: dict[str, Any] = {
    "TCP": {**OTHERS["TCP"], **OPEN["TCP"]},
    "Web": OTHERS["Web"],
    "AllowFunnel": {**OTHERS["AllowFunnel"], **OPEN["AllowFunnel"]},
}
COMMAND = "tailscale funnel --bg --yes --proxy-protocol 1 --tcp 443 tcp://127.0.0.1:8443"
ARM = (
    "systemd-run --quiet --collect --unit=immich-exposure-lease-end --on-active={} "
    "--timer-property=AccuracySec=100ms systemctl start immich-exposure-lease.service"
)
START_EDGE = "systemctl start immich-edge"
NOW = 1000000
AGE = 4999  # of the first boot, whose process 1 is a second younger than the machine
BOOT = "00000001-aaaa"
ANSWERS = """\
no /config/ 200 {}
no /api/server/ping 200 {"res":"pong"}
no /api/server/config 200 {"loginPageMessage":"", "isInitialized": true}"""
MODULE = '{"digest":"abc","lan":"close","managed":true,"immich":"127.0.0.1:2283","home":"0.0.0.0"}'


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A server with a connected Tailscale and the module's timer, and a Nix that works no more."""
    machine = Machine(tmp_path, request.param)
    machine.fake("nix-instantiate", "echo no Nix here >&2; exit 1")
    tailscale.install(machine.fakes)
    machine.remember(active="immich-exposure-lease.timer", answers=ANSWERS, module=MODULE)
    machine.prepare()
    return machine


def funnel(machine: Machine, verb: str, *arguments: object) -> Outcome:
    ports = () if verb in ("enforce", "reopen") else (443, 8443)
    return machine.run("funnel", verb, *map(str, (*ports, *arguments)))


def opened(machine: Machine, *ports: int) -> Outcome:
    """Open the funnel, which nobody has proven yet."""
    return machine.run_text(OPEN_FUNNEL, *map(str, ports or (443, 8443)), "300")


def confirmed(machine: Machine, term: object) -> Outcome:
    """Confirm what is open, for as long as ``term`` says."""
    return machine.run_text(CONFIRM_FUNNEL, str(term))


def state(machine: Machine) -> Outcome:
    return machine.run_text(FUNNEL_STATE, "443", "8443")


def proven(machine: Machine, term: str = "always") -> None:
    """Open the funnel and prove it, for as long as ``term`` says."""
    result(opened(machine))
    result(confirmed(machine, term))
    machine.forget_commands()


def trial(machine: Machine) -> object:
    """Put it on a short lease, as a run does that is about to change something; return what became of it."""
    return result(funnel(machine, "trial", 300, "no", "digest"))["funnel"]


def enforced(machine: Machine) -> dict[str, Any]:
    """What is served after the minute's look."""
    outcome = funnel(machine, "enforce")
    assert outcome.status == 0, outcome.stderr
    return serving(machine)


def status(machine: Machine, **changes: Any) -> None:
    (machine.fakes / "status.json").write_text(json.dumps({**tailscale.STATUS, **changes}))


def granted(*names: str) -> dict[str, Any]:
    return {"Self": {"CapMap": dict.fromkeys(names)}}


def lease(machine: Machine) -> str | None:
    place = machine.state / "lease"
    return place.read_text() if place.exists() else None


def changes(machine: Machine) -> list[str]:
    """The commands that changed something."""
    asked = ("tailscale status", "tailscale funnel status", "systemctl is-active", "systemctl cat")
    return [
        line
        for line in machine.commands("tailscale", "systemctl", "systemd-run")
        if not line.startswith(asked)
    ]


def test_open_is_raw_tcp_with_a_lease_written_before(machine: Machine) -> None:
    machine.fake("flock", 'cp "$FAKES/serve.json" "$FAKES/serve-at-lock"')
    assert result(opened(machine)) == {"openedAt": NOW, "url": f"https://{DOMAIN}/"}
    assert serving(machine) == OPEN
    assert lease(machine) == f"trial 300 {BOOT} {AGE}\n"
    assert changes(machine) == [
        "systemctl stop immich-exposure-lease-end.timer",
        ARM.format(300),
        START_EDGE,
        COMMAND,
    ]


def test_open_again_only_renews_the_lease(machine: Machine) -> None:
    proven(machine)
    machine.remember(active="immich-exposure-lease.timer\nimmich-edge")
    machine.elapse(1000)
    result(opened(machine))
    assert serving(machine) == OPEN
    assert lease(machine) == f"trial 300 {BOOT} {AGE + 1000}\n"
    assert changes(machine) == ["systemctl stop immich-exposure-lease-end.timer", ARM.format(300)]


def test_an_edge_that_hangs_is_restarted_before_the_funnel_opens(machine: Machine) -> None:
    answers = ANSWERS.replace("no /config/ 200 {}", "no /config/ 000")
    machine.remember(active="immich-exposure-lease.timer\nimmich-edge", answers=answers)
    result(opened(machine))
    done = machine.commands("systemctl", "tailscale")
    assert done.index("systemctl restart immich-edge") < done.index(COMMAND)


def test_open_beside_other_tools(machine: Machine) -> None:
    serve(machine, OTHERS)
    result(opened(machine))
    assert serving(machine) == BOTH


@pytest.mark.parametrize(
    "altered",
    [
        BY_NAME,
        {"TCP": {"443": {"TCPForward": "127.0.0.1:8443"}}, "AllowFunnel": {f"{DOMAIN}:443": True}},
        {"TCP": {"443": {"TCPForward": "127.0.0.1:8443", "ProxyProtocol": 2}}},
        {"AllowFunnel": {f"{DOMAIN}:443": True}},
        {
            "TCP": {"443": {"TCPForward": "127.0.0.1:8443", "ProxyProtocol": 1, "TerminateTLS": DOMAIN}},
            "AllowFunnel": {f"{DOMAIN}:443": True},
        },
        # Straight at Immich.
        {"TCP": {"443": {"TCPForward": "localhost:2283"}}, "AllowFunnel": {f"{DOMAIN}:443": True}},
    ],
)
def test_open_mends_what_was_altered_by_hand(machine: Machine, altered: dict[str, Any]) -> None:
    serve(machine, altered)
    assert result(state(machine))["state"] == "altered"
    result(opened(machine))
    assert serving(machine) == OPEN


@pytest.mark.parametrize(
    "taken",
    [
        {"TCP": {"443": {"TCPForward": "localhost:22"}}},
        {"TCP": {"443": {"HTTPS": True}}, "Web": {f"{DOMAIN}:443": {"Handlers": {"/": {"Text": "x"}}}}},
        {"Foreground": {"abc": {"TCP": {"443": {"TCPForward": "localhost:22"}}}}},
        # To Immich, but not from the internet.
        {"TCP": {"443": {"TCPForward": "localhost:2283"}}},
    ],
)
def test_another_tools_entry_on_the_port_is_never_touched(machine: Machine, taken: dict[str, Any]) -> None:
    serve(machine, taken)
    assert_sentence(opened(machine), "Port 443 of this node already serves something else", "funnelPort")
    assert funnel(machine, "close").status == 0
    assert funnel(machine, "enforce").status == 0
    assert result(state(machine))["state"] == "foreign"
    assert serving(machine) == taken
    assert lease(machine) is None


@pytest.mark.parametrize(
    ("mood", "said"),
    [("asking", "To enable, visit:"), ("waiting", "Tailscale did not open the funnel (); fix that")],
)
def test_a_funnel_that_did_not_open_is_closed_again(machine: Machine, mood: str, said: str) -> None:
    (machine.fakes / "mood").write_text(mood)
    machine.fake("timeout", 'shift; exec /usr/bin/timeout 3 "$@"')
    assert_sentence(opened(machine), "Tailscale did not open the funnel", said)
    assert serving(machine) == {}
    assert lease(machine) is None
    assert not (machine.state / "funnel").exists()
    assert "systemctl stop immich-exposure-lease-end.timer" in changes(machine)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (
            {"BackendState": "Stopped"},
            'not connected on this server (state Stopped); run "sudo tailscale up"',
        ),
        ({"BackendState": "NeedsLogin", "CertDomains": None}, "state NeedsLogin"),
        (
            {"CertDomains": None},
            "enable MagicDNS and HTTPS Certificates at https://login.tailscale.com/admin/dns",
        ),
        (granted("funnel"), "HTTPS certificates are not enabled"),
        (granted("https"), "no funnel attribute; add"),
        ({"Self": None}, "HTTPS certificates are not enabled"),
        (granted("https", "funnel"), "does not allow a funnel on port 443; set funnelPort"),
        (
            granted("https", "funnel", "https://tailscale.com/cap/funnel-ports?ports=8443,10000"),
            "does not allow",
        ),
        (
            granted("https", "funnel", "https://tailscale.com/cap/funnel-ports?ports=1443,444-500"),
            "does not allow",
        ),
    ],
)
def test_open_asks_first_what_is_granted(machine: Machine, state: dict[str, Any], reason: str) -> None:
    status(machine, **state)
    assert_sentence(opened(machine), reason)
    assert changes(machine) == []
    assert lease(machine) is None


@pytest.mark.parametrize("ports", ["443", "80,443", "443-500", "80-443,8443", "1-65535"])
def test_granted_ports_may_be_ranges(machine: Machine, ports: str) -> None:
    status(machine, **granted("https", "funnel", f"https://tailscale.com/cap/funnel-ports?ports={ports}"))
    result(opened(machine))


def test_open_needs_the_timer_that_would_close_it(machine: Machine) -> None:
    machine.remember(active="")
    assert_sentence(opened(machine), "immich-exposure-lease.timer is not running", "apply the NixOS")
    assert changes(machine) == []


def test_open_that_cannot_arm_its_timer_stays_closed(machine: Machine) -> None:
    machine.fake("systemd-run", "echo no bus >&2; exit 1")
    assert_sentence(opened(machine), "could not be set (no bus)")
    assert serving(machine) == {}
    assert lease(machine) is None


def test_other_ports_close_the_old_funnel_first(machine: Machine) -> None:
    opened(machine)
    result(opened(machine, 10000, 9443))
    assert serving(machine) == {
        "TCP": {"10000": {"TCPForward": "127.0.0.1:9443", "ProxyProtocol": 1}},
        "AllowFunnel": {f"{DOMAIN}:10000": True},
    }


def test_enforce_leaves_alone_what_was_never_ours(machine: Machine) -> None:
    """A funnel that was opened by hand, on a server whose configuration has the module and no exposure."""
    serve(machine, OPEN)
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    machine.write(machine.state / "funnel", "443 8443\n")
    (machine.state / ".immich-exposure").unlink()
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    assert serving(machine) == OPEN


@pytest.mark.parametrize("record", ["", "\n"])
def test_a_record_that_says_nothing_means_the_ordinary_ports(machine: Machine, record: str) -> None:
    serve(machine, OPEN)
    machine.write(machine.state / "funnel", record)
    funnel(machine, "enforce")
    assert serving(machine) == {}


@pytest.mark.parametrize("verb", ["close", "enforce"])
def test_closing_knows_the_ports_of_an_earlier_run(machine: Machine, verb: str) -> None:
    result(opened(machine, 10000, 9443))
    machine.elapse(300)
    assert funnel(machine, verb).status == 0
    assert serving(machine) == {}


@pytest.mark.parametrize("mine", [OPEN, BY_NAME, {"AllowFunnel": OPEN["AllowFunnel"]}])
def test_close_alone_resets(machine: Machine, mine: dict[str, Any]) -> None:
    serve(machine, mine)
    assert funnel(machine, "close") == Outcome(0, "", "Closing the funnel on port 443\n")
    assert serving(machine) == {}
    assert changes(machine) == ["systemctl stop immich-exposure-lease-end.timer", "tailscale funnel reset"]
    machine.forget_commands()
    assert funnel(machine, "close") == Outcome(0, "", "")
    assert changes(machine) == ["systemctl stop immich-exposure-lease-end.timer"]


@pytest.mark.parametrize(("why", "how"), [("run", "restart"), ("destroy", "stop")])
def test_closing_cuts_who_is_connected_once(machine: Machine, why: str, how: str) -> None:
    """After a destroy nobody needs the edge again."""
    machine.remember(active="immich-edge\nimmich-exposure-lease.timer")
    serve(machine, OPEN)
    assert funnel(machine, "close", why).status == 0
    assert changes(machine)[-2:] == ["tailscale funnel reset", f"systemctl {how} immich-edge"]
    machine.forget_commands()
    assert funnel(machine, "close", why).status == 0
    assert not [change for change in changes(machine) if "immich-edge" in change]


@pytest.mark.parametrize(
    "mine", [BOTH, {**BOTH, "TCP": {**OTHERS["TCP"], **BY_NAME["TCP"]}}, {**BOTH, "TCP": OTHERS["TCP"]}]
)
def test_close_beside_other_tools_takes_only_ours(machine: Machine, mine: dict[str, Any]) -> None:
    serve(machine, mine)
    assert funnel(machine, "close").status == 0
    assert serving(machine) == OTHERS
    assert "tailscale funnel reset" not in changes(machine)
    assert funnel(machine, "close") == Outcome(0, "", "")


@pytest.mark.parametrize(
    "extra",
    [
        {"Services": {"svc:x": {}}},
        {"Foreground": {"s": {"TCP": {"80": {}}}}},
        {"AllowFunnel": {f"{DOMAIN}:10000": True}},
    ],
)
def test_all_that_others_have_survives(machine: Machine, extra: dict[str, Any]) -> None:
    flags = {**OPEN["AllowFunnel"], **extra.get("AllowFunnel", {})}
    serve(machine, {**OPEN, **extra, "AllowFunnel": flags})
    assert funnel(machine, "close").status == 0
    assert serving(machine) == extra


def test_close_needs_no_granted_attribute(machine: Machine) -> None:
    serve(machine, BOTH)
    status(machine, CertDomains=None, **granted())
    funnel(machine, "close")
    assert "443" not in serving(machine)["TCP"]


def test_close_that_does_not_work_is_an_error_and_leaves_no_lease(machine: Machine) -> None:
    opened(machine)
    (machine.fakes / "mood").write_text("asking")
    assert_sentence(
        funnel(machine, "close"),
        "still configured (Funnel is not enabled",
        'with "sudo tailscale funnel reset"',
    )
    assert lease(machine) is None, "so that the minute's timer keeps trying"


def test_a_tailscale_that_does_not_answer_is_told_later_and_the_edge_rests(machine: Machine) -> None:
    result(opened(machine))
    machine.remember(active="immich-edge\nimmich-exposure-lease.timer")
    (machine.fakes / "mood").write_text("down")
    machine.forget_commands()
    outcome = funnel(machine, "close")
    assert (outcome.status, outcome.error) == (0, ""), outcome.stderr
    assert "removed as soon as it answers" in outcome.stderr
    assert "systemctl stop immich-edge" in changes(machine)
    assert lease(machine) is None
    machine.remember(active="immich-exposure-lease.timer")
    (machine.fakes / "mood").write_text("well")
    assert enforced(machine) == {}
    assert not (machine.state / "funnel").exists()


def test_a_stopped_tailscale_is_told_later_what_it_shares(machine: Machine) -> None:
    """It lets its whole configuration be reset, but no part of it be changed."""
    serve(machine, OTHERS)
    result(opened(machine))
    status(machine, BackendState="Stopped")
    machine.forget_commands()
    outcome = funnel(machine, "close")
    assert (outcome.status, outcome.error) == (0, ""), outcome.stderr
    assert "not connected (state Stopped)" in outcome.stderr
    assert (machine.state / "funnel").exists() and serving(machine) == BOTH
    status(machine)
    assert enforced(machine) == OTHERS


def test_close_does_not_wait_for_a_rebuild(machine: Machine) -> None:
    opened(machine)
    machine.fake("flock", "exit 1")
    outcome = funnel(machine, "close")
    assert outcome.status == 0
    assert "closing without waiting" in outcome.stderr
    assert machine.commands("flock") == ["flock -w 15 9"]
    assert serving(machine) == {}


def fill_run(machine: Machine) -> None:
    """No file fits into /run any more, and no folder into /dev/shm."""
    machine.fake("head", 'case $(readlink /proc/$$/fd/1) in */run/*) exit 1 ;; esac; exec /usr/bin/head "$@"')
    machine.write(machine.root / "run/lock", "no folder can be made here\n")


def make_state_read_only(machine: Machine) -> None:
    machine.fake(
        "rm", 'case "$*" in */var/lib/*) echo "Read-only file system" >&2; exit 1 ;; esac; exec /bin/rm "$@"'
    )


@pytest.mark.parametrize("damage", [fill_run, make_state_read_only])
@pytest.mark.parametrize("command", [("funnel", "close", "443", "8443"), ("exposure", "close")])
def test_it_closes_on_a_full_or_dying_disk(
    machine: Machine, command: tuple[str, ...], damage: Callable[[Machine], None]
) -> None:
    opened(machine)
    (machine.root / "run/lock/immich-exposure.lock").unlink()
    (machine.root / "run/lock").rmdir()
    damage(machine)
    outcome = machine.run(*command)
    assert (outcome.status, serving(machine)) == (0, {}), outcome.stderr


def test_a_lease_ends_while_run_is_full(machine: Machine) -> None:
    opened(machine)
    (machine.root / "run/lock/immich-exposure.lock").unlink()
    (machine.root / "run/lock").rmdir()
    fill_run(machine)
    machine.elapse(301)
    outcome = funnel(machine, "enforce")
    assert (outcome.status, serving(machine)) == (0, {}), outcome.stderr
    assert "cannot be opened; closing anyway" in outcome.stderr
    assert_sentence(opened(machine), "immich-exposure.lock cannot be opened; make room")


def conversation(machine: Machine, word: str, meanwhile: Callable[[], object] | None = None) -> Outcome:
    """Run `prove` as the operator does, who says ``word`` once the funnel is open, or ends without one."""
    text = script_text("funnel")
    arguments = ("prove", "443", "8443", "300", "always", str(machine.config), "digest")
    with subprocess.Popen(
        [*machine.shell, "-s", "--", *arguments],
        env=machine.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(text)
        process.stdin.flush()
        opened = process.stdout.readline()
        assert json.loads(opened) == {"openedAt": NOW, "url": f"https://{DOMAIN}/"}
        if meanwhile is not None:
            meanwhile()
        process.stdin.write(word)
        process.stdin.close()
        rest, errors = process.stdout.read(), process.stderr.read()
    return Outcome(process.returncode, rest, errors)


def test_prove_opens_and_keeps_open_what_the_operator_has_proven(machine: Machine) -> None:
    def is_on_a_short_lease() -> None:
        assert serving(machine) == OPEN and str(lease(machine)).startswith("trial 300 ")

    done = conversation(machine, "proven\n", is_on_a_short_lease)
    assert result(done) == {"lease": "confirmed", "left": None}
    assert (serving(machine), lease(machine)) == (OPEN, "confirmed\n")
    assert "proven-for digest\n" in (machine.state / "standing").read_text()
    assert machine.commands("immich-exposure") == ["immich-exposure module"] * 2, "before and after"


@pytest.mark.parametrize("word", ["", "proven too late", "unproven\n"], ids=["none", "another", "a third"])
def test_prove_closes_at_once_what_the_operator_has_not(machine: Machine, word: str) -> None:
    """Their machine has died, or what they saw from outside is not safe."""
    done = conversation(machine, word)
    assert done.status == 1 and "The exposure was not proven, so the funnel is closed" in done.stderr
    assert (serving(machine), lease(machine)) == ({}, None)
    assert not (machine.state / "standing").exists() and not (machine.state / "proven").exists()


def test_what_the_owner_has_closed_meanwhile_is_not_confirmed(machine: Machine) -> None:
    done = conversation(machine, "proven\n", lambda: machine.write(machine.state / "closed-by-hand", ""))
    assert done.status == 1 and 'closed on the server by "immich-exposure close"' in done.stderr
    assert (serving(machine), lease(machine)) == ({}, None)


@pytest.mark.parametrize("changed", ["settings/edge.env", "device-ca.crt", "domain.env", "the module"])
def test_what_another_run_changes_meanwhile_is_not_confirmed(machine: Machine, changed: str) -> None:
    """One with a copy of the Pulumi state, or the owner's own rebuild: another edge was proven."""

    def change() -> None:
        if changed == "the module":
            machine.remember(module=MODULE.replace("abc", "def"))
        else:
            machine.write(machine.state / changed, "another\n")

    done = conversation(machine, "proven\n", change)
    assert done.status == 1 and "was changed while it was being proven" in done.stderr
    assert (serving(machine), lease(machine)) == ({}, None)
    assert not (machine.state / "standing").exists() and not (machine.state / "proven").exists()


def test_nobody_else_waits_for_the_proof(machine: Machine) -> None:
    """The owner's own command to close, say."""

    def lock() -> None:
        subprocess.run(
            ["flock", "-w", "30", machine.root / "run/lock/immich-exposure.lock", "true"], check=True
        )

    assert result(conversation(machine, "proven\n", lock)) == {"lease": "confirmed", "left": None}


def test_confirm_keeps_it_open(machine: Machine) -> None:
    opened(machine)
    machine.forget_commands()
    assert result(confirmed(machine, "always")) == {"lease": "confirmed", "left": None}
    assert lease(machine) == "confirmed\n"
    assert changes(machine) == ["systemctl stop immich-exposure-lease-end.timer"]
    machine.elapse(10**8)
    machine.remember(clock=str(NOW * 100))
    assert enforced(machine) == OPEN


def test_hours_are_counted_from_the_opening(machine: Machine) -> None:
    opened(machine)
    machine.forget_commands()
    assert result(confirmed(machine, "+3600")) == {"lease": "confirmed", "left": 3600}
    assert changes(machine) == ["systemctl stop immich-exposure-lease-end.timer", ARM.format(3600)]
    machine.elapse(3599)
    assert enforced(machine) == OPEN
    machine.elapse(1)
    assert enforced(machine) == {}


def test_a_change_does_not_begin_the_hours_anew(machine: Machine) -> None:
    proven(machine, "+3600")
    machine.elapse(2000)
    assert trial(machine) == "trial"
    result(opened(machine))
    assert result(confirmed(machine, "+3600")) == {"lease": "confirmed", "left": 1600}
    result(opened(machine))
    assert result(confirmed(machine, "+7200"))["left"] == 7200, "other hours are"
    machine.elapse(7200)
    assert enforced(machine) == {}
    result(opened(machine))
    assert result(confirmed(machine, "+7200"))["left"] == 7200, "and those that were over"
    result(opened(machine))
    assert result(confirmed(machine, "always"))["left"] is None


def test_confirm_until_a_moment(machine: Machine) -> None:
    opened(machine)
    machine.forget_commands()
    assert result(confirmed(machine, NOW + 3600)) == {"lease": "confirmed", "left": 3600}
    assert changes(machine) == ["systemctl stop immich-exposure-lease-end.timer", ARM.format(3600)]
    machine.remember(clock=str(NOW + 3599))
    assert enforced(machine) == OPEN
    machine.remember(clock=str(NOW + 3600))
    assert enforced(machine) == {}


@pytest.mark.parametrize("config", [{}, {"TCP": {"443": {"TCPForward": "localhost:8443"}}}, OTHERS])
def test_confirm_of_what_is_not_open_fails(machine: Machine, config: dict[str, Any]) -> None:
    opened(machine)
    serve(machine, config)
    assert_sentence(confirmed(machine, "always"), "no longer open", "open it again")
    assert lease(machine) == f"trial 300 {BOOT} {AGE}\n"


def test_confirm_comes_too_late(machine: Machine) -> None:
    opened(machine)
    assert_sentence(confirmed(machine, NOW), "a time that has passed; set exposeUntil to a later one")
    machine.elapse(300)
    assert_sentence(confirmed(machine, "always"), "no longer open", "open it again")


TERMS = {
    "always": "always\n",
    "hours": f"hours 9 9 {BOOT} {AGE}\n",
    "date": f"date {NOW + 9} {NOW} 9 {BOOT} {AGE}\n",
}


LEASES: list[tuple[str | None, str | None, str]] = [
    (f"trial 1 {BOOT} {AGE}\n", None, "trial 1"),
    (f"trial 0 {BOOT} {AGE}\n", None, "none 0"),
    (f"trial 9 {BOOT} {AGE - 9}\n", None, "none 0"),
    (f"trial 9 {BOOT}\n", None, "none 0"),
    (f"trial 9 {BOOT} x\n", None, "none 0"),
    (f"trial $(touch x) {BOOT} {AGE}\n", None, "none 0"),
    (f"trial 99999999999 {BOOT} {AGE}\n", None, "none 0"),
    (f"trial 9 {BOOT} {AGE} 9\n", None, "none 0"),
    ("confirmed\n", TERMS["always"], "confirmed always"),
    ("confirmed\n", TERMS["hours"], "confirmed 9"),
    ("confirmed\n", TERMS["date"], "confirmed 9"),
    ("confirmed\n", None, "none 0"),
    ("confirmed\n", "\n", "none 0"),
    ("confirmed\n", "always so\n", "none 0"),
    ("confirmed\n", f"hours 9 9 {BOOT} {AGE - 9}\n", "none 0"),
    ("confirmed\n", f"date {NOW} {NOW - 9} 9 {BOOT} {AGE}\n", "none 0"),
    ("confirmed\n", f"date x {NOW} 9 {BOOT} {AGE}\n", "none 0"),
    ("confirmed\n", f"date {NOW + 9} x 9 {BOOT} {AGE}\n", "none 0"),
    ("confirmed by nobody\n", TERMS["always"], "none 0"),
    (f"until {NOW + 9}\n", TERMS["always"], "none 0"),
    ("\n", TERMS["always"], "none 0"),
    ("", TERMS["always"], "none 0"),
    (None, TERMS["always"], "none 0"),
]


def test_a_lease_that_makes_no_sense_is_none(machine: Machine) -> None:
    read = (SCRIPTS / "lib.sh").read_text() + 'read_lease\necho "$LEASE_IS $LEASE_LEFT"\n'
    for text, term, meaning in LEASES:
        for name, content in (("lease", text), ("term", term)):
            (machine.state / name).unlink(missing_ok=True)
            if content is not None:
                machine.write(machine.state / name, content)
        assert machine.run_text(read) == Outcome(0, f"{meaning}\n", ""), (text, term)


def test_enforce_closes_without_a_lease(machine: Machine) -> None:
    proven(machine)
    assert enforced(machine) == OPEN
    machine.write(machine.state / "lease", "confirmed by nobody\n")
    assert enforced(machine) == {}


CLOCKS = {"1970": 20, "behind": NOW - 86_400, "20 years ahead": NOW + 20 * 365 * 86_400}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize("reboot", [False, True])
def test_no_clock_lengthens_or_shortens_a_lease(machine: Machine, clock: int, reboot: bool) -> None:
    result(opened(machine))
    machine.elapse(100)
    assert enforced(machine) == OPEN  # and 200 seconds are noted down
    machine.remember(clock=str(clock))
    if reboot:
        machine.reboot(age=100)
    else:
        machine.elapse(100)
    assert enforced(machine) == OPEN
    machine.elapse(99)
    assert enforced(machine) == OPEN
    machine.elapse(1)
    assert enforced(machine) == {}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_no_clock_closes_what_is_proven(machine: Machine, clock: int) -> None:
    proven(machine, "+7200")
    machine.remember(clock=str(clock))
    machine.elapse(3600)
    assert enforced(machine) == OPEN
    machine.reboot(age=3599)
    assert enforced(machine) == OPEN
    machine.elapse(1)
    assert enforced(machine) == {}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_a_date_needs_a_clock_that_can_be_believed(machine: Machine, clock: int) -> None:
    proven(machine, str(NOW + 7200))
    machine.reboot()
    assert enforced(machine) == OPEN
    machine.remember(clock=str(clock))
    assert enforced(machine) == {}


def test_a_clock_that_stands_still_does_not_lengthen_a_date(machine: Machine) -> None:
    proven(machine, str(NOW + 7200))
    machine.remember(clock=str(NOW - 60))  # set right by a little
    machine.elapse(7199)
    assert enforced(machine) == OPEN
    machine.elapse(1)
    assert enforced(machine) == {}


def test_boots_that_are_cut_short_use_up_a_lease(machine: Machine) -> None:
    result(opened(machine))
    for _ in range(14):
        machine.reboot()
        assert enforced(machine) == OPEN
    machine.reboot()
    assert enforced(machine) == {}


def test_a_lease_counts_on_a_disk_that_takes_nothing(machine: Machine) -> None:
    result(opened(machine))
    machine.fake("mktemp", 'case "$*" in */var/lib/*) exit 1 ;; esac; exec /bin/mktemp "$@"')
    machine.elapse(299)
    assert enforced(machine) == OPEN
    machine.elapse(1)
    assert enforced(machine) == {}


def test_a_lease_ends_where_no_time_can_be_told(machine: Machine) -> None:
    result(opened(machine))
    (machine.root / "proc/uptime").unlink()
    assert enforced(machine) == {}


def test_a_run_in_progress_is_not_overtaken_by_what_is_noted_down(machine: Machine) -> None:
    """It has just confirmed what this saw on a short lease."""
    result(opened(machine))
    machine.elapse(100)
    machine.fake("flock", "exit 1")
    assert enforced(machine) == OPEN
    assert lease(machine) == f"trial 300 {BOOT} {AGE}\n"


# --- an update over an open funnel


def test_a_change_puts_a_proven_funnel_on_a_short_lease(machine: Machine) -> None:
    proven(machine)
    assert trial(machine) == "trial"
    assert lease(machine) == f"trial 300 {BOOT} {AGE}\n"
    assert changes(machine) == ["systemctl stop immich-exposure-lease-end.timer", ARM.format(300)]
    assert enforced(machine) == OPEN
    machine.elapse(300)
    assert enforced(machine) == {}, "nobody has proven it"
    assert_sentence(funnel(machine, "reopen"), "has changed since it was proven", "pulumi up")
    assert serving(machine) == {}


def test_a_change_behind_a_closed_funnel_is_not_proven_either(machine: Machine) -> None:
    proven(machine)
    assert machine.run("exposure", "close").status == 0
    outcome = funnel(machine, "trial", 300, "no", "digest")
    assert '"funnel":"closed"' in outcome.stdout and "stays closed until" in outcome.stderr
    assert_sentence(funnel(machine, "reopen"), "has changed since it was proven")
    result(opened(machine))


def test_a_change_that_cannot_be_noted_down_does_not_begin(machine: Machine) -> None:
    proven(machine)
    make_state_read_only(machine)
    assert_sentence(funnel(machine, "trial", 300, "no", "digest"), "proven cannot be removed")


def test_a_funnel_whose_state_was_deleted_is_closed_before_a_change(machine: Machine) -> None:
    """Nothing says any more that it was proven, and no lease would end it."""
    proven(machine)
    shutil.rmtree(machine.state)
    machine.remember(active="immich-edge\nimmich-exposure-lease.timer")
    assert trial(machine) == "closed"
    assert serving(machine) == {}
    assert not machine.state.exists()


def test_each_trial_says_something_else(machine: Machine) -> None:
    """So that the check runs after each."""
    said = result(funnel(machine, "trial", 300, "no", "digest"))
    machine.elapse(1)
    assert result(funnel(machine, "trial", 300, "no", "digest")) != said
    assert not (machine.state / "lease").exists()


def test_a_funnel_that_nobody_proved_is_closed_before_a_change(machine: Machine) -> None:
    """Somebody has opened it by hand, while our edge stood behind it."""
    machine.remember(active="immich-edge\nimmich-exposure-lease.timer")
    serve(
        machine,
        {
            "TCP": {**OTHERS["TCP"], "8443": {"TCPForward": "127.0.0.1:8443", "ProxyProtocol": 1}},
            "Web": OTHERS["Web"],
            "AllowFunnel": {f"{DOMAIN}:10000": True, f"{DOMAIN}:8443": True},
        },
    )
    assert trial(machine) == "closed"
    assert serving(machine) == OTHERS


@pytest.mark.parametrize("why", ["taken over", "another edge"])
def test_a_funnel_of_before_us_is_not_ours_to_close_early(machine: Machine, why: str) -> None:
    if why == "taken over":
        machine.remember(active="immich-edge")
        machine.write(machine.state / "by-hand", "443 8443\n")
    serve(machine, OPEN)
    assert trial(machine) == "closed"
    assert enforced(machine) == OPEN


def test_another_stacks_funnel_is_left_alone_unless_it_is_taken_over(machine: Machine) -> None:
    proven(machine)
    machine.write(machine.state / "owner", "theirs a/b/c\n")
    for take_over, state in (("no", "closed"), ("yes", "trial")):
        before = lease(machine)
        outcome = machine.run("funnel", "--stack=ours", "trial", "443", "8443", "300", take_over, "digest")
        assert result(outcome)["funnel"] == state
        assert (lease(machine) == before) == (take_over == "no")


# --- what leads past our rules


STRAIGHT: dict[str, Any] = {
    "TCP": {"443": {"HTTPS": True}},
    "Web": {f"{DOMAIN}:443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:2283"}}}},
    "AllowFunnel": {f"{DOMAIN}:443": True},
}
MIXED: dict[str, Any] = {
    **STRAIGHT,
    "Web": {
        f"{DOMAIN}:443": {
            "Handlers": {
                "/": {"Proxy": "http://127.0.0.1:3000"},
                "/photos": {"Proxy": "http://localhost:2283/"},
            }
        }
    },
}
OURSELVES = [
    "localhost:2283",
    "[fd00::5]:2283",
    "nas:2283",
    f"{DOMAIN}.:2283",
    f"{DOMAIN.partition('.')[0]}:2283",
    f"{platform.node()}.local:2283",
    "[::FFFF:127.0.0.1]:2283",
]
PAST = [
    *(
        {"TCP": {"443": {"TCPForward": target}}, "AllowFunnel": {f"{DOMAIN}:443": True}}
        for target in OURSELVES
    ),
    {
        "TCP": {"443": {"TCPForward": "192.168.1.5:2283", "TerminateTLS": DOMAIN}},
        "AllowFunnel": {f"{DOMAIN}:443": True},
    },
    STRAIGHT,
    {**STRAIGHT, "Web": {f"{DOMAIN}:443": {"Handlers": {"/": {"Proxy": "https+insecure://[::1]:8443"}}}}},
    {"Foreground": {"abc": STRAIGHT}},
]


@pytest.mark.parametrize("past", PAST)
@pytest.mark.parametrize(
    "others", [{}, {"TCP": OTHERS["TCP"], "Web": OTHERS["Web"], "AllowFunnel": OTHERS["AllowFunnel"]}]
)
def test_a_funnel_past_the_edge_is_closed_at_once_whoever_opened_it(
    machine: Machine, past: dict[str, Any], others: dict[str, Any]
) -> None:
    """Also while the lease holds."""
    machine.remember(
        addresses="2: eth0 inet 192.168.1.5/24 scope global eth0\n2: eth0 inet6 fd00::5/64 scope global",
        active="immich-edge\nimmich-exposure-lease.timer",
    )
    machine.write(machine.root / "etc/hosts", "127.0.0.1 localhost\n127.0.0.2 nas  # NixOS's\n")
    proven(machine)
    both = {**past, **{name: {**past.get(name, {}), **part} for name, part in others.items()}}
    serve(machine, both)
    assert result(state(machine))["state"] == "altered"
    outcome = machine.run("exposure", "status", "--json")
    assert (outcome.status, json.loads(outcome.stdout)["status"]) == (4, "unsafe")
    assert "UNSAFE" in machine.run("exposure", "status").stdout
    if others and "Foreground" in past:
        assert_sentence(funnel(machine, "enforce"), "runs in somebody's terminal", "end it there")
        return
    assert enforced(machine) == others
    assert "strangers could have bypassed the edge" in machine.run("exposure", "status").stdout
    assert_sentence(funnel(machine, "reopen"), "was never proven")


def test_of_a_web_port_only_what_leads_to_immich_goes(machine: Machine) -> None:
    serve(machine, MIXED)
    assert funnel(machine, "close").status == 0
    assert serving(machine) == {
        **MIXED,
        "Web": {f"{DOMAIN}:443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}}},
    }


ON_ANOTHER_PORT: dict[str, Any] = {
    "TCP": {"8443": {"HTTPS": True}, **OPEN["TCP"]},
    "Web": {f"{DOMAIN}:8443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:2283"}}}},
    "AllowFunnel": {f"{DOMAIN}:8443": True, **OPEN["AllowFunnel"]},
}


def test_the_owners_own_funnel_to_immich_beside_ours(machine: Machine) -> None:
    """`tailscale funnel --https=8443 2283`: told, and taken down by the owner's word alone."""
    proven(machine)
    serve(machine, ON_ANOTHER_PORT)
    told = machine.run("exposure", "status").stdout
    assert (
        "Immich itself is public on port 8443 (web), bypassing our rules: run immich-exposure close" in told
    )
    assert enforced(machine) == ON_ANOTHER_PORT
    assert funnel(machine, "close").status == 0
    assert serving(machine) == {
        name: {key: value for key, value in part.items() if "8443" in key}
        for name, part in ON_ANOTHER_PORT.items()
    }
    assert "UNSAFE" in machine.run("exposure", "status").stdout
    assert machine.run("exposure", "close").status == 0
    assert serving(machine) == {}


def test_without_the_state_an_edge_that_runs_tells_what_is_ours(machine: Machine) -> None:
    proven(machine)
    machine.remember(active="immich-edge\nimmich-exposure-lease.timer")
    shutil.rmtree(machine.state)
    assert enforced(machine) == {}
    assert not machine.state.exists()
    assert machine.run("exposure", "close").status == 0
    assert_sentence(opened(machine), "sudo immich-exposure open")


def test_enforce_has_nothing_to_do_on_a_closed_node(machine: Machine) -> None:
    serve(machine, OTHERS)
    machine.write(machine.state / "funnel", "443 8443\n")
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    assert serving(machine) == OTHERS
    machine.write(machine.state / "funnel", "443 8443\n")
    (machine.fakes / "mood").write_text("down")
    outcome = funnel(machine, "enforce")
    assert outcome.status == 0
    assert "Nobody can get in while Tailscale is down" in outcome.stderr


@pytest.mark.parametrize("trouble", ["the funnel stays", "nobody can tell"])
def test_a_funnel_that_enforce_cannot_close_leads_nowhere(machine: Machine, trouble: str) -> None:
    machine.remember(active="immich-edge\nimmich-exposure-lease.timer")
    serve(machine, OPEN)
    machine.write(machine.state / "funnel", "443 8443\n")
    if trouble == "the funnel stays":
        (machine.fakes / "mood").write_text("asking")
    else:
        (machine.fakes / "status.json").write_text("<html>")
    outcome = funnel(machine, "enforce")
    assert_sentence(outcome)
    assert "The edge is stopped, so that nobody gets in" in outcome.stderr
    assert changes(machine)[-1] == "systemctl stop immich-edge"
    stays_so = machine.root / "run/immich-exposure-edge-stopped"
    assert stays_so.exists(), "or the guard would start it"
    machine.forget_commands()
    (machine.fakes / "mood").write_text("well")
    status(machine)
    machine.remember(active="immich-exposure-lease.timer")
    result(opened(machine))
    assert START_EDGE in changes(machine) and not stays_so.exists(), "and with the funnel it starts again"


def test_the_state_of_the_funnel_beside_others(machine: Machine) -> None:
    assert result(state(machine)) == {"state": "closed", "shared": "no", "lease": "none"}
    serve(machine, OTHERS)
    result(opened(machine))
    assert result(state(machine)) == {"state": "open", "shared": "yes", "lease": "trial"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("prove", "443", "8443", "9", "always", "-"),
        ("prove", "443", "8443", "0", "always", "-", "digest"),
        ("prove", "0", "8443", "9", "always", "-", "digest"),
        ("prove", "443", "8443", "9", "x", "-", "digest"),
        ("prove", "443", "8443", "9", "+", "-", "digest"),
        ("prove", "443", "8443", "9", "", "-", "digest"),
        ("close", "443"),
        ("enforce", "443", "8443"),
        ("reopen", "443"),
        ("close", "443", "8443", "because"),
        ("trial", "443", "8443"),
        ("trial", "443", "8443", "300", "perhaps"),
        (),
    ],
)
def test_arguments_are_checked(machine: Machine, arguments: tuple[str, ...]) -> None:
    assert_sentence(machine.run("funnel", *arguments))
    assert machine.commands("tailscale") == []


def test_hostile_json_is_data(machine: Machine) -> None:
    status(machine, CertDomains=['x"; touch y', '${builtins.abort "no"}'], BackendState="Running $(id)")
    assert_sentence(opened(machine), "state -")
    for broken in ('{"TCP": ', "", "{}}", '{"TCP" {}}', "{'TCP': {}}", '{"TCP": {},}', "<html>", '{"a": "b'):
        (machine.fakes / "serve.json").write_text(broken)
        assert_sentence(
            state(machine),
            "The JSON in funnel.json could not be parsed",
            "of that name to see why",
        )


RESTART_HOME = "systemctl restart immich-exposure-lan.service"


def home(machine: Machine) -> str | None:
    place = machine.state / "lan"
    return place.read_text() if place.exists() else None


def test_the_home_is_closed_before_the_funnel_opens_and_opened_after_it_is_closed(machine: Machine) -> None:
    machine.remember(units="immich-exposure-lan.service")
    result(opened(machine))
    assert home(machine) == "closed\n"
    done = changes(machine)
    assert done.index(RESTART_HOME) < done.index(COMMAND)
    machine.forget_commands()
    assert funnel(machine, "close").status == 0
    assert home(machine) is None
    done = changes(machine)
    assert done.index("tailscale funnel reset") < done.index(RESTART_HOME)


def test_the_end_of_a_lease_gives_immich_back_to_the_home(machine: Machine) -> None:
    machine.remember(units="immich-exposure-lan.service")
    result(opened(machine))
    machine.elapse(300)
    assert funnel(machine, "enforce").status == 0
    assert home(machine) is None


@pytest.mark.parametrize(
    ("word", "while_open", "after"),
    [
        ("closed by hand", "closed by hand", "closed by hand"),
        ("open by hand", "open by hand", "open by hand"),
        ("open", "closed", None),
    ],
)
def test_what_the_owner_said_of_the_home(
    machine: Machine, word: str, while_open: str, after: str | None
) -> None:
    machine.remember(units="immich-exposure-lan.service")
    machine.write(machine.state / "lan", f"{word}\n")
    result(opened(machine))
    assert home(machine) == f"{while_open}\n"
    assert funnel(machine, "close").status == 0
    assert home(machine) == (None if after is None else f"{after}\n")


def test_what_was_closed_by_hand_stays_closed_until_the_owner_allows_it(machine: Machine) -> None:
    proven(machine, "+3600")
    machine.elapse(600)
    assert machine.run("exposure", "close").status == 0
    assert "closed by hand" in machine.run("exposure", "status").stdout
    machine.forget_commands()
    assert_sentence(opened(machine), "sudo immich-exposure open")
    assert COMMAND not in changes(machine) and serving(machine) == {}
    # A lease that ends, and a run that closes what it could not prove, change nothing about it.
    assert funnel(machine, "enforce").status == funnel(machine, "close").status == 0
    assert_sentence(opened(machine), "sudo immich-exposure open")
    machine.elapse(600)
    outcome = funnel(machine, "reopen")
    assert (outcome.status, serving(machine)) == (0, OPEN), outcome.stderr
    assert "open again for 40 min" in outcome.stderr
    assert "opened again by immich-exposure open, since" in machine.run("exposure", "status").stdout
    machine.elapse(2399)
    assert enforced(machine) == OPEN
    machine.elapse(1)
    assert enforced(machine) == {}
    assert "its lease expired, since" in machine.run("exposure", "status").stdout


@pytest.mark.parametrize("moment", ["before it opens", "while it opens", "before it is confirmed"])
def test_a_run_in_progress_notices_that_it_was_closed_by_hand(machine: Machine, moment: str) -> None:
    close = 'touch "$IMMICH_EXPOSURE_ROOT/var/lib/immich-exposure/closed-by-hand"'
    if moment == "before it opens":
        machine.fake("flock", close)
    if moment == "while it opens":
        machine.fake("timeout", f'shift; case "$*" in *" funnel --bg"*) {close} ;; esac; exec "$@"')
        machine.fake("timeout", f'shift; case "$*" in "tailscale funnel --bg"*) {close} ;; esac; exec "$@"')
    if moment == "before it is confirmed":
        result(opened(machine))
        assert machine.run("exposure", "close").status == 0
        assert_sentence(confirmed(machine, "always"), 'closed on the server by "immich-exposure close"')
    else:
        assert_sentence(opened(machine), 'closed on the server by "immich-exposure close"')
    assert (serving(machine), lease(machine)) == ({}, None)


@pytest.mark.parametrize("damage", [make_state_read_only, None])
def test_the_word_to_close_finds_another_place_on_a_dying_disk(
    machine: Machine, damage: Callable[[Machine], None] | None
) -> None:
    proven(machine)
    machine.fake("touch", 'case "$*" in */var/lib/*) exit 1 ;; esac; exec /usr/bin/touch "$@"')
    if damage:
        damage(machine)
    assert machine.run("exposure", "close").status == 0
    assert_sentence(opened(machine), "sudo immich-exposure open")
    machine.unfake("touch")
    if damage:
        machine.unfake("rm")
    assert funnel(machine, "reopen").status == 0
    assert serving(machine) == OPEN


@pytest.mark.parametrize("saves", [True, False])
def test_it_says_how_long_it_stays_closed_on_a_disk_that_takes_nothing(machine: Machine, saves: bool) -> None:
    opened(machine)
    machine.fake("touch", 'case "$*" in */var/lib/*) exit 1 ;; esac; exec /usr/bin/touch "$@"')
    make_state_read_only(machine)
    if saves:
        (machine.root / "var/lib/tailscale").mkdir()
    outcome = machine.run("exposure", "close")
    assert outcome.status == 0 and serving(machine) == {}
    until = 'after a reboot "pulumi up"' if saves else "until this server reboots"
    assert until in outcome.stderr


@pytest.mark.parametrize("state", ["there", "gone"])
def test_only_what_was_proven_opens_again_by_hand(machine: Machine, state: str) -> None:
    if state == "gone":
        shutil.rmtree(machine.state)
        assert_sentence(funnel(machine, "reopen"), "Nothing is exposed", "pulumi up")
        return
    assert_sentence(funnel(machine, "reopen"), "was never proven", "pulumi up")
    result(opened(machine))
    assert machine.run("exposure", "close").status == 0
    assert_sentence(funnel(machine, "reopen"), "was never proven", "pulumi up")
    assert serving(machine) == {}
    result(opened(machine))  # the word is taken back all the same


@pytest.mark.parametrize("changed", ["settings/edge.env", "device-ca.crt", "domain.env", "the module"])
def test_what_is_not_what_was_proven_does_not_open_by_hand(machine: Machine, changed: str) -> None:
    proven(machine)
    assert machine.run("exposure", "close").status == 0
    if changed == "the module":
        machine.remember(module=MODULE.replace("abc", "def"))
    else:
        machine.write(machine.state / changed, "IMMICH_EXPOSURE_UPLOADS=on\n")
    assert_sentence(funnel(machine, "reopen"), "has changed since it was proven", "pulumi up")
    assert serving(machine) == {}


def test_hours_that_are_over_begin_anew_by_hand_and_a_date_does_not(machine: Machine) -> None:
    proven(machine, "+3600")
    machine.elapse(3600)
    assert enforced(machine) == {}
    assert funnel(machine, "reopen").status == 0
    machine.elapse(3599)
    assert enforced(machine) == OPEN
    result(opened(machine))
    result(confirmed(machine, NOW + 9))
    machine.remember(clock=str(NOW + 9))
    assert enforced(machine) == {}
    assert_sentence(funnel(machine, "reopen"), "exposeUntil) has passed", "set a later one")
    assert serving(machine) == {}


def test_opening_what_is_open_changes_nothing(machine: Machine) -> None:
    proven(machine)
    assert funnel(machine, "reopen") == Outcome(0, "", "The funnel is already open\n")
    assert changes(machine) == []


def test_a_home_that_a_killed_run_left_closed_is_opened(machine: Machine) -> None:
    machine.remember(units="immich-exposure-lan.service")
    machine.write(machine.state / "lan", "closed\n")
    assert funnel(machine, "enforce").status == 0
    assert home(machine) is None
    assert RESTART_HOME in changes(machine)


@pytest.mark.parametrize("left", [{}, OTHERS])
def test_a_funnel_that_tailscale_closed_gives_immich_back_to_the_home(
    machine: Machine, left: dict[str, Any]
) -> None:
    """By `tailscale funnel reset`, which knows nothing of leases."""
    machine.remember(units="immich-exposure-lan.service")
    proven(machine)
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    assert home(machine) == "closed\n"
    serve(machine, left)
    machine.forget_commands()
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    assert (home(machine), changes(machine)) == (None, [RESTART_HOME])


@pytest.mark.parametrize("opening", ["it holds the lock", "it is through"])
def test_a_home_is_not_opened_while_a_run_opens_the_funnel(machine: Machine, opening: str) -> None:
    """Which closes the home, and only then opens the funnel."""
    machine.remember(units="immich-exposure-lan.service")
    result(opened(machine))
    serve(machine, {})
    through = f"cat >$FAKES/serve.json <<'END'\n{json.dumps(OPEN)}\nEND"
    machine.fake("flock", "exit 1" if opening == "it holds the lock" else through)
    assert funnel(machine, "enforce").status == 0
    assert home(machine) == "closed\n"


@pytest.mark.parametrize("gone", ["down", "logged out"])
def test_a_home_is_opened_when_a_lease_ends_without_tailscale(machine: Machine, gone: str) -> None:
    machine.remember(units="immich-exposure-lan.service")
    serve(machine, OTHERS)
    result(opened(machine))
    machine.elapse(300)
    if gone == "down":
        (machine.fakes / "mood").write_text("down")
    else:
        status(machine, BackendState="NeedsLogin")
    outcome = funnel(machine, "enforce")
    assert (outcome.status, home(machine)) == (0, None), outcome.stderr
    assert serving(machine) == BOTH, "closed by the next one that can"


def tailscale_goes(machine: Machine, how: str) -> None:
    if how == "does not answer":
        (machine.fakes / "mood").write_text("down")
    else:
        status(machine, BackendState=how)


@pytest.mark.parametrize("how", ["Stopped", "NeedsLogin", "Starting", "does not answer"])
def test_immich_is_open_at_home_while_tailscale_is_down_and_closed_again_after(
    machine: Machine, how: str
) -> None:
    """Its configuration outlives all of that, and the lease holds."""
    machine.remember(units="immich-exposure-lan.service")
    proven(machine)
    tailscale_goes(machine, how)
    for _ in range(2):
        assert funnel(machine, "enforce") == Outcome(0, "", "")
        assert home(machine) is None
    assert changes(machine) == [RESTART_HOME]
    assert serving(machine) == OPEN
    (machine.fakes / "mood").write_text("well")
    status(machine)
    machine.forget_commands()
    for _ in range(2):
        assert funnel(machine, "enforce") == Outcome(0, "", "")
        assert home(machine) == "closed\n"
    assert changes(machine) == [RESTART_HOME]


@pytest.mark.parametrize("how", ["Stopped", "NoState", "Starting"])
def test_what_tailscale_knows_again_later_is_closed_then(machine: Machine, how: str) -> None:
    """Started anew without its control server, it says that it serves nothing, and cannot be told."""
    proven(machine)
    machine.edge_runs()
    status(machine, BackendState=how)
    serve(machine, {})
    outcome = funnel(machine, "close")
    assert (outcome.status, lease(machine)) == (0, None), outcome.stderr
    assert "systemctl stop immich-edge" in changes(machine)
    status(machine)
    serve(machine, OPEN)
    machine.remember(active="")
    assert funnel(machine, "enforce").status == 0
    assert serving(machine) == {}


@pytest.mark.parametrize("word", ["closed by hand", "open by hand"])
@pytest.mark.parametrize("how", ["Stopped", "Running"])
def test_what_the_owner_said_of_the_home_outlives_a_tailscale_that_is_down(
    machine: Machine, how: str, word: str
) -> None:
    machine.remember(units="immich-exposure-lan.service")
    result(opened(machine))
    machine.write(machine.state / "lan", f"{word}\n")
    tailscale_goes(machine, how)
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    assert home(machine) == f"{word}\n"


@pytest.mark.parametrize("trouble", ["another run holds the lock", "the funnel is not as wanted"])
def test_the_home_is_closed_again_only_behind_a_funnel_of_ours_that_is_open(
    machine: Machine, trouble: str
) -> None:
    machine.remember(units="immich-exposure-lan.service")
    result(opened(machine))
    (machine.state / "lan").unlink()
    if trouble == "another run holds the lock":
        machine.fake("flock", "exit 1")
    else:
        serve(machine, {"TCP": {"443": {"TCPForward": "localhost:22"}}})
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    assert home(machine) is None


def test_a_home_that_is_kept_as_it_is_has_no_such_unit(machine: Machine) -> None:
    result(opened(machine))
    assert home(machine) is None
    assert RESTART_HOME not in changes(machine)


def test_a_home_that_cannot_be_closed_keeps_the_funnel_closed(machine: Machine) -> None:
    machine.remember(units="immich-exposure-lan.service")
    machine.fake("systemctl", '[ "$1" != restart ] || exit 1\n' + textwrap.dedent(BODIES["systemctl"]))
    assert_sentence(opened(machine), "Home access could not be set", "journalctl -u immich-exposure-lan")
    assert serving(machine) == {}
    assert (lease(machine), home(machine)) == (None, None)


def test_a_home_that_cannot_be_opened_does_not_keep_the_funnel_open(machine: Machine) -> None:
    machine.remember(units="immich-exposure-lan.service")
    result(opened(machine))
    machine.fake("systemctl", '[ "$1" != restart ] || exit 1\n' + textwrap.dedent(BODIES["systemctl"]))
    assert funnel(machine, "close").status == 0
    assert (serving(machine), home(machine)) == ({}, None)


def test_the_funnel_stays_closed_until_immich_answers(machine: Machine) -> None:
    machine.remember(answers="no /api/server/ping 000", units="immich-exposure-lan.service")
    assert_sentence(opened(machine), "stays closed; everything is prepared", 'next "pulumi up" opens it once')
    assert (serving(machine), lease(machine), home(machine)) == ({}, None, None)
    machine.remember(answers=ANSWERS)
    result(opened(machine))
    machine.remember(answers="no /api/server/ping 000")
    assert result(opened(machine))["url"], "a funnel that is open already gets its lease anew"


@pytest.mark.parametrize("said", ["false", "null"])
def test_the_funnel_stays_closed_before_an_immich_without_an_administrator(
    machine: Machine, said: str
) -> None:
    """It did not answer when the preflight asked."""
    machine.remember(answers=ANSWERS.replace("true", said), units="immich-exposure-lan.service")
    assert_sentence(opened(machine), "Immich has no administrator yet", "create the administrator account")
    assert (serving(machine), lease(machine), home(machine)) == ({}, None, None)


def test_the_command_says_what_the_guard_saw_and_whether_notices_get_through(machine: Machine) -> None:
    def said(*files: tuple[str, str]) -> list[str]:
        for name, text in files:
            machine.write(machine.state / name, text)
        lines = machine.run("exposure").stdout.splitlines()
        return [line.split(None, 1)[1] for line in lines if line.startswith(("guard", "notices"))]

    assert said(("guard", f"{NOW} healthy strangers are refused\n"), ("notices/channel", "kind ntfy\n")) == [
        "healthy on Mon Jan 12 13:46:40 UTC 1970: strangers are refused",
        "by ntfy",
    ]
    assert said(("settings/guard.conf", "guard off\n"), ("notices/failed", f"{NOW} curl: (7) refused\n")) == [
        "off (guard: false)",
        "cannot be delivered: curl: (7) refused",
    ]


def test_the_command_tells_when_the_node_must_log_in_again(machine: Machine) -> None:
    opened(machine)
    assert "node key" not in machine.run("exposure", "status").stdout, "its expiry is disabled"
    for ends, words in (
        ("2036-11-26T10:00:00Z", "expires Wed Nov 26 10:00:00 UTC 2036, which closes the funnel"),
        ("1970-01-02T10:00:00Z", "expired Fri Jan  2 10:00:00 UTC 1970, so the funnel is closed; run"),
    ):
        status = {**tailscale.STATUS, "Self": {**tailscale.STATUS["Self"], "KeyExpiry": ends}}
        (machine.fakes / "status.json").write_text(json.dumps(status, indent=2))
        assert f"node key   {words}" in machine.run("exposure").stdout


def test_the_command_on_the_server(machine: Machine) -> None:
    opened(machine)
    for letter, name in (("a", "phone"), ("b", "laptop"), ("c", "phone")):
        machine.write(machine.state / "devices" / (letter * 64), f"{name}\nuntil 2110838400\n")
    machine.write(machine.state / "bans/scan/203.0.113.9", "")
    machine.remember(active="immich-edge\nimmich-bans\nimmich-exposure-lease.timer")
    outcome = machine.run("exposure")
    assert outcome.status == 0
    assert [line.split(None, 1) for line in outcome.stdout.splitlines()] == [
        ["address", f"https://{DOMAIN}/"],
        ["funnel", "open to the internet on port 443"],
        ["why", "for its proof by pulumi up, since Mon Jan 12 13:46:40 UTC 1970"],
        ["lease", "ends in 5 min, unless it is proven"],
        ["home", "as the configuration has it"],
        ["devices", "3 laptop phone (twice)"],
        ["bans", "0 auth, 0 keys, 1 scan, 0 manual"],
        ["guard", "has not checked yet"],
        ["notices", "none (set notify)"],
        *([unit, "active" if unit in ACTIVE else "NOT active"] for unit in SERVICES),
    ]
    assert machine.run("exposure", "close").status == 0
    assert serving(machine) == {}
    assert "closed" in machine.run("exposure", "status").stdout
    verbs = re.search(r'^VERBS="(.*)"$', (SCRIPTS / "exposure.sh").read_text(), re.MULTILINE)
    assert verbs is not None
    for verb in verbs[1].split():
        for words in (["--help"], ["-h"], ["help"], ["phone", "--help"]):
            machine.forget_commands()
            told = machine.run("exposure", verb, *words)
            assert (told.status, told.stderr) == (0, "")
            assert told.stdout.startswith(f"immich-exposure {verb}")
            assert machine.commands("systemctl", "tailscale") == []
        if verb not in ("ban", "unban", "lan", "status"):
            assert_sentence(
                machine.run("exposure", verb, "now", "please"), f"see immich-exposure {verb} --help"
            )
    assert_sentence(
        machine.run("exposure", "revoke"), "Name the device", "immich-exposure devices lists them"
    )
    assert_sentence(machine.run("exposure", "close", "--now"), "not understood", "close --help")
    assert_sentence(
        machine.run("exposure", "opn"),
        "status, close, open, lan, guard, devices, revoke, who, links, bans, ban, unban, forget-chapter and "
        "module",
    )


SERVICES = [unit if "." in unit else f"{unit}.service" for unit in UNITS]
ACTIVE = ("immich-edge.service", "immich-bans.service", "immich-exposure-lease.timer")


def monitored(machine: Machine) -> tuple[int, str, dict[str, Any]]:
    """Exit status, first word and all that a monitor is told."""
    outcome = machine.run("exposure", "status", "--json")
    told = json.loads(outcome.stdout)
    return outcome.status, told["status"], told


def test_the_command_tells_the_port_in_the_address(machine: Machine) -> None:
    result(opened(machine, 10000, 8443))
    assert machine.run("exposure").stdout.splitlines()[0].split() == ["address", f"https://{DOMAIN}:10000/"]
    told = json.loads(machine.run("exposure", "status", "--json").stdout)
    assert told["url"] == f"https://{DOMAIN}:10000/"


def test_a_monitor_is_told_by_the_exit_status(machine: Machine) -> None:
    machine.remember(active=RUNNING, units="immich-exposure-lan.service")
    assert monitored(machine)[:2] == (3, "closed")
    result(opened(machine))
    assert monitored(machine)[:2] == (2, "trial")
    machine.remember(active=RUNNING.replace("immich-exposure-lease.timer\n", ""))
    assert monitored(machine)[:2] == (4, "degraded"), "nothing ends its lease"
    machine.remember(active=RUNNING)
    result(confirmed(machine, "+3600"))
    machine.write(machine.state / "devices" / ("a" * 64), "phone\n")
    for number in range(2):
        machine.write(machine.state / "devices" / (f"{number}" * 64), "kitchen\nframe\n")
    assert monitored(machine) == (
        0,
        "proven",
        {
            "status": "proven",
            "funnel": "open",
            "port": 443,
            "url": f"https://{DOMAIN}/",
            "why": "open-proven",
            "since": NOW,
            "lease": "confirmed",
            "left": 3600,
            "past": [],
            "home": "closed",
            "devices": 1,
            "frames": 2,
            "bans": 0,
            "notRunning": [],
            "problems": [],
        },
    )
    machine.remember(active=RUNNING.replace("immich-bans\n", ""))
    assert monitored(machine)[:2] == (4, "degraded")
    assert monitored(machine)[2]["notRunning"] == ["immich-bans.service"]
    machine.remember(active=RUNNING)
    serve(machine, BY_NAME)
    assert monitored(machine)[:2] == (4, "unsafe")
    serve(machine, {})
    assert monitored(machine)[:2] == (3, "closed")
    assert enforced(machine) == {}
    assert (monitored(machine)[2]["why"], monitored(machine)[2]["since"]) == ("closed-elsewhere", NOW)
    (machine.fakes / "mood").write_text("down")
    assert monitored(machine)[:2] == (4, "unknown")
    (machine.fakes / "mood").write_text("well")
    serve(machine, OPEN)
    (machine.state / "lease").unlink()
    assert monitored(machine)[:2] == (4, "unsafe")


HANGS = "The edge is running but does not respond, so nobody gets in; restart it with {}."
FULL = (
    "The disk of /var/log/immich-edge is full, so scanners and those who guess passwords are not banned; "
    "make room on it."
)


def test_what_no_unit_shows_is_a_problem(machine: Machine) -> None:
    """An edge that hangs is active for systemd, and on a full disk fail2ban runs and bans nobody."""

    def problems() -> tuple[int, str, list[str], str]:
        status, word, told = monitored(machine)
        lines = machine.run("exposure", "status").stdout
        said = re.findall(r"^PROBLEM ((?:.*\n)(?: {11}.*\n)*)", lines, re.MULTILINE)
        return status, word, told["problems"], " ".join(" ".join(said).split())

    machine.remember(active=RUNNING)
    result(opened(machine))
    result(confirmed(machine, "always"))
    machine.fake("df", f"echo; echo tmpfs 64 0 64 0% {machine.root}/var/log")
    assert problems() == (0, "proven", [], "")
    machine.remember(answers=ANSWERS.replace("no /config/ 200 {}", "no /config/ 000"))
    command = "sudo systemctl restart immich-edge"
    said = HANGS.format(f'"{command}"')
    assert problems() == (4, "degraded", [HANGS.format(command)], said)
    machine.remember(answers=ANSWERS)
    machine.fake("df", "echo; echo tmpfs 64 64 0 100% /var/log")
    full = FULL.replace("/var", f"{machine.root}/var")
    assert problems()[:3] == (4, "degraded", [full])
    machine.fake("df", "exec /bin/sleep 30")
    began = time.monotonic()
    assert monitored(machine)[2]["problems"] == [] and time.monotonic() - began < 20, "a disk that hangs"
    machine.unfake("df")
    machine.remember(active="")
    assert problems()[2] == [], "an edge that is stopped does not hang"


def test_the_command_tells_of_a_node_with_another_name(machine: Machine) -> None:
    machine.remember(active=RUNNING)
    machine.write(machine.state / "domain.env", f"IMMICH_EXPOSURE_DOMAIN={DOMAIN}\n")
    result(opened(machine))
    result(confirmed(machine, "always"))
    name = DOMAIN.replace("immich", "photos")
    status(machine, CertDomains=[name])
    assert monitored(machine)[:2] == (4, "degraded")
    assert monitored(machine)[2]["problems"] == [
        f"This server's name has changed from {DOMAIN} to {name}, so nobody gets in; run pulumi up, which "
        "exposes it under the new name, or give it its old name back."
    ]
    said = machine.run("exposure", "status").stdout
    assert "PROBLEM" in said and "altered by hand" not in said
    serve(machine, {**OPEN, "AllowFunnel": {f"{name}:443": True}})
    assert monitored(machine)[:2] == (4, "unsafe")
    assert "the funnel is open under the new name" in monitored(machine)[2]["problems"][0]
    serve(machine, {"TCP": {"443": {"TCPForward": "127.0.0.1:2283"}}, "AllowFunnel": {f"{name}:443": True}})
    assert monitored(machine)[:2] == (4, "unsafe")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (None, "open on 192.168.1.5:2283 [::1]:2283"),
        ("open by hand", "open by hand on 192.168.1.5:2283 [::1]:2283"),
        ("closed", "closed while the funnel is open"),
        ("closed by hand", "closed by hand: immich-exposure lan open"),
    ],
)
def test_the_command_tells_of_immich_at_home(machine: Machine, word: str | None, said: str) -> None:
    sockets = (r"192\x2e168\x2e1\x2e5:2283", r"\x5b::1\x5d:2283")
    machine.remember(
        units="immich-exposure-lan.service",
        sockets="\n".join(f"immich-exposure-lan@{name}.socket loaded active listening x" for name in sockets),
    )
    if word:
        machine.write(machine.state / "lan", f"{word}\n")
    assert f"home       {said}\n" in machine.run("exposure", "status").stdout


def test_cleanup_is_the_last_step(machine: Machine) -> None:
    assert machine.begin().status == 0
    opened(machine)
    logs = machine.root / "var/log/immich-edge"
    for name in ("access.log", "access-2026-01-01T00-00-00.000.log.gz", "other.log"):
        machine.write(logs / name, "x\n")
    assert_sentence(machine.run("state", "remove"), "port 443 is still open; close it first")
    funnel(machine, "close")
    machine.remember(active="immich-edge")
    assert_sentence(machine.run("state", "remove"), "The edge is still running", "remove the module first")
    assert machine.state.exists()
    machine.remember(active="")
    for _ in range(2):
        assert machine.run("state", "remove") == Outcome(0, "", "")
        assert [str(path) for path in machine.files(machine.root)] == ["var/log/immich-edge/other.log"]
    assert not machine.state.exists()


def test_the_last_step_tells_of_an_entry_in_another_account(machine: Machine) -> None:
    result(opened(machine))
    assert funnel(machine, "close").status == 0
    ours, theirs = (base64.b64encode(json.dumps(one).encode()).decode() for one in (OPEN, OTHERS))
    kept = {"profile-ab12": "e30=", "_serve/ab12": ours, "_serve/cd34": ours, "profile-ef56": "e30="}
    folder = machine.root / "var/lib/tailscale"
    machine.write(folder / "tailscaled.state", json.dumps({**kept, "_serve/ef56": theirs}, indent=2))
    outcome = machine.run("state", "remove")
    assert outcome.status == 0
    assert re.findall(r"tailscale switch (\w+)", outcome.stderr) == ["ab12"], "cd34 was logged out"


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "another tool's"])
def test_the_last_step_tells_of_what_a_former_name_leaves_behind(machine: Machine, theirs: bool) -> None:
    """Tailscale takes back only what belongs to the name that the node has now."""
    result(opened(machine))
    assert funnel(machine, "close").status == 0
    port = {"443": {"HTTPS": True}} if theirs else {}
    left = {"TCP": {"10000": {"HTTPS": True}, **port}, "AllowFunnel": {"former.lab-tailnet.ts.net:443": True}}
    (machine.fakes / "serve.json").write_text(json.dumps(left, indent=2))
    outcome = machine.run("state", "remove")
    assert outcome.status == 0 and serving(machine) == left
    assert ("former.lab-tailnet.ts.net:443" in outcome.stderr) is not theirs


@pytest.mark.parametrize("starts", [True, False])
def test_the_last_step_ends_while_tailscale_is_down(machine: Machine, starts: bool) -> None:
    """It is started for a moment: nothing of ours will be there to close the funnel when it comes back."""
    serve(machine, OTHERS)
    result(opened(machine))
    (machine.fakes / "mood").write_text("down")
    assert funnel(machine, "close", "destroy").status == 0
    if starts:
        moods = {"start": "well", "stop": "down"}
        words = (f'"{verb} tailscaled") echo {mood} >"$FAKES/mood" ;;' for verb, mood in moods.items())
        body = f'case "$*" in {" ".join(words)} esac\n'
        machine.fake("systemctl", body + textwrap.dedent(BODIES["systemctl"]))
    outcome = machine.run("state", "remove")
    assert (outcome.status, machine.state.exists()) == (0, False), outcome.stderr
    assert serving(machine) == (OTHERS if starts else BOTH)
    assert ("sudo tailscale funnel --tcp=443 off" in outcome.stderr) != starts
    assert (machine.fakes / "mood").read_text().strip() == "down"


def test_the_last_step_leaves_a_tailscale_running_that_hung(machine: Machine) -> None:
    """Its owner has not stopped it, and may come in by it alone."""
    result(opened(machine))
    (machine.fakes / "mood").write_text("down")
    assert funnel(machine, "close", "destroy").status == 0
    running = (machine.fakes / "active").read_text()
    machine.remember(active=f"{running}\ntailscaled")
    mends = 'case "$*" in "restart tailscaled") echo well >"$FAKES/mood" ;; esac\n'
    machine.fake("systemctl", mends + textwrap.dedent(BODIES["systemctl"]))
    machine.forget_commands()
    outcome = machine.run("state", "remove")
    assert (outcome.status, serving(machine)) == (0, {}), outcome.stderr
    assert "systemctl restart tailscaled" in machine.commands("systemctl")
    assert "systemctl stop tailscaled" not in machine.commands("systemctl")


STARTING = """
    if [ "$1" = status ] && read -r left <"$FAKES/starting"; then
      if [ "$left" -gt 0 ]; then
        echo "$((left - 1))" >"$FAKES/starting"
      else
        rm "$FAKES/starting"
        for each in status serve; do mv "$FAKES/$each.kept" "$FAKES/$each.json"; done
      fi
    fi 2>/dev/null
    exec "$FAKES/tailscale-itself" "$@"
"""
"""For a question or two it is on its way to its control server, and serves nothing as far as it knows."""


def test_the_last_step_waits_for_a_restarted_tailscale_to_know_what_it_serves(machine: Machine) -> None:
    result(opened(machine))
    (machine.fakes / "mood").write_text("down")
    assert funnel(machine, "close", "destroy").status == 0
    running = (machine.fakes / "active").read_text()
    status, served = ((machine.fakes / name).read_text() for name in ("status.json", "serve.json"))
    machine.remember(
        **{"active": f"{running}\ntailscaled", "status.kept": status, "serve.kept": served, "starting": "1"}
    )
    machine.remember(**{"serve.json": "{}", "status.json": status.replace('"Running"', '"Starting"')})
    (machine.fakes / "tailscale").rename(machine.fakes / "tailscale-itself")
    machine.fake("tailscale", STARTING)
    mends = 'case "$*" in "restart tailscaled") echo well >"$FAKES/mood" ;; esac\n'
    machine.fake("systemctl", mends + textwrap.dedent(BODIES["systemctl"]))
    outcome = machine.run("state", "remove")
    assert (outcome.status, serving(machine)) == (0, {}), outcome.stderr
    assert "leads nowhere now" not in outcome.stderr


def test_a_machine_without_tailscale_is_clean_already(machine: Machine) -> None:
    if any((Path(folder) / "tailscale").exists() for folder in os.environ["PATH"].split(":")):
        pytest.skip("this machine has a tailscale of its own, which no test may talk to")
    machine.unfake("tailscale")
    machine.remember(active="")
    assert machine.run("state", "remove").status == 0
    assert funnel(machine, "close").status == 0
