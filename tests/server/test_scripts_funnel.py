"""The funnel and its lease: funnel.sh, state.sh and exposure.sh, over JSON that the real Nix reads."""

import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.scripts import tailscale
from tests.unit.scripts.harness import (
    BODIES,
    DOMAIN,
    Machine,
    Outcome,
    assert_sentence,
    available_shells,
    result,
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
    "--timer-property=AccuracySec=100ms --setenv=PATH=... sh -c ! grep -qx 'until {}' "
    "'/var/lib/immich-exposure/lease' || rm '/var/lib/immich-exposure/lease'; "
    "systemctl start immich-exposure-lease.service"
)
NOW = 1000000
ANSWERS = """\
no /api/server/ping 200 {"res":"pong"}
no /api/server/config 200 {"loginPageMessage":"", "isInitialized": true}"""
MODULE = '{"digest":"abc","lan":"close","managed":true,"immich":"127.0.0.1:2283","home":"0.0.0.0"}'


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A server with a connected Tailscale and the module's timer, read by the real Nix evaluator."""
    machine = Machine(tmp_path, request.param)
    machine.unfake("nix-instantiate")
    tailscale.install(machine.fakes)
    machine.remember(active="immich-exposure-lease.timer", answers=ANSWERS, module=MODULE)
    machine.prepare()
    return machine


def funnel(machine: Machine, verb: str, *arguments: object) -> Outcome:
    ports = () if verb in ("confirm", "enforce") else (443, 8443)
    return machine.run("funnel", verb, *map(str, (*ports, *arguments)))


def serving(machine: Machine) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((machine.fakes / "serve.json").read_text())
    return answer


def serve(machine: Machine, config: dict[str, Any]) -> None:
    (machine.fakes / "serve.json").write_text(json.dumps(config))


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
    assert result(funnel(machine, "open", 300)) == {"openedAt": NOW, "url": f"https://{DOMAIN}/"}
    assert serving(machine) == OPEN
    assert lease(machine) == f"until {NOW + 300}\n"
    assert changes(machine) == [
        "systemctl stop immich-exposure-lease-end.timer",
        ARM.format(300, NOW + 300),
        COMMAND,
    ]


def test_open_again_only_renews_the_lease(machine: Machine) -> None:
    funnel(machine, "open", 300)
    funnel(machine, "confirm")
    machine.forget_commands()
    machine.remember(clock=str(NOW + 1000))
    result(funnel(machine, "open", 300))
    assert serving(machine) == OPEN
    assert lease(machine) == f"until {NOW + 1300}\n"
    assert changes(machine) == ["systemctl stop immich-exposure-lease-end.timer", ARM.format(300, NOW + 1300)]


def test_open_beside_other_tools(machine: Machine) -> None:
    serve(machine, OTHERS)
    result(funnel(machine, "open", 300))
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
    ],
)
def test_open_mends_what_was_altered_by_hand(machine: Machine, altered: dict[str, Any]) -> None:
    serve(machine, altered)
    assert result(funnel(machine, "status"))["state"] == "altered"
    result(funnel(machine, "open", 300))
    assert serving(machine) == OPEN


@pytest.mark.parametrize(
    "taken",
    [
        {"TCP": {"443": {"TCPForward": "localhost:22"}}},
        {"TCP": {"443": {"HTTPS": True}}, "Web": {f"{DOMAIN}:443": {"Handlers": {"/": {"Text": "x"}}}}},
        {"Foreground": {"abc": {"TCP": {"443": {"TCPForward": "localhost:22"}}}}},
    ],
)
def test_another_tools_entry_on_the_port_is_never_touched(machine: Machine, taken: dict[str, Any]) -> None:
    serve(machine, taken)
    assert_sentence(
        funnel(machine, "open", 300), "Port 443 of this node already serves something else", "funnelPort"
    )
    assert funnel(machine, "close").status == 0
    assert funnel(machine, "enforce").status == 0
    assert result(funnel(machine, "status"))["state"] == "foreign"
    assert serving(machine) == taken
    assert lease(machine) is None


@pytest.mark.parametrize(
    ("mood", "said"),
    [("asking", "To enable, visit:"), ("waiting", "Tailscale did not open the funnel (); mend that")],
)
def test_a_funnel_that_did_not_open_is_shut_again(machine: Machine, mood: str, said: str) -> None:
    (machine.fakes / "mood").write_text(mood)
    machine.fake("timeout", 'shift; exec /usr/bin/timeout 3 "$@"')
    assert_sentence(funnel(machine, "open", 300), "Tailscale did not open the funnel", said)
    assert serving(machine) == {}
    assert lease(machine) is None
    assert not (machine.state / "funnel").exists()
    assert changes(machine)[-1] == "systemctl stop immich-exposure-lease-end.timer"


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
    assert_sentence(funnel(machine, "open", 300), reason)
    assert changes(machine) == []
    assert lease(machine) is None


@pytest.mark.parametrize("ports", ["443", "80,443", "443-500", "80-443,8443", "1-65535"])
def test_granted_ports_may_be_ranges(machine: Machine, ports: str) -> None:
    status(machine, **granted("https", "funnel", f"https://tailscale.com/cap/funnel-ports?ports={ports}"))
    result(funnel(machine, "open", 300))


def test_open_needs_the_timer_that_would_close_it(machine: Machine) -> None:
    machine.remember(active="")
    assert_sentence(
        funnel(machine, "open", 300), "immich-exposure-lease.timer does not run", "apply the NixOS"
    )
    assert changes(machine) == []


def test_open_that_cannot_arm_its_timer_stays_shut(machine: Machine) -> None:
    machine.fake("systemd-run", "echo no bus >&2; exit 1")
    assert_sentence(funnel(machine, "open", 300), "could not be set (no bus)")
    assert serving(machine) == {}
    assert lease(machine) is None


def test_other_ports_close_the_old_funnel_first(machine: Machine) -> None:
    funnel(machine, "open", 300)
    result(machine.run("funnel", "open", "10000", "9443", "300"))
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
    result(machine.run("funnel", "open", "10000", "9443", "300"))
    machine.remember(clock=str(NOW + 300))
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


def test_closing_cuts_who_is_connected_once(machine: Machine) -> None:
    machine.remember(active="immich-edge\nimmich-exposure-lease.timer")
    serve(machine, OPEN)
    assert funnel(machine, "close").status == 0
    assert changes(machine)[-2:] == ["tailscale funnel reset", "systemctl restart immich-edge"]
    machine.forget_commands()
    assert funnel(machine, "close").status == 0
    assert "systemctl restart immich-edge" not in changes(machine)


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
    funnel(machine, "open", 300)
    (machine.fakes / "mood").write_text("asking")
    assert_sentence(
        funnel(machine, "close"),
        "still configured (Funnel is not enabled",
        'with "sudo tailscale funnel reset"',
    )
    assert lease(machine) is None, "so that the minute's timer keeps trying"
    (machine.fakes / "mood").write_text("down")
    assert_sentence(funnel(machine, "close"), "Tailscale does not answer", "systemctl start tailscaled")


def test_close_does_not_wait_for_a_rebuild(machine: Machine) -> None:
    funnel(machine, "open", 300)
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
    funnel(machine, "open", 300)
    (machine.root / "run/lock/immich-exposure.lock").unlink()
    (machine.root / "run/lock").rmdir()
    damage(machine)
    outcome = machine.run(*command)
    assert (outcome.status, serving(machine)) == (0, {}), outcome.stderr


def test_a_lease_ends_while_run_is_full(machine: Machine) -> None:
    funnel(machine, "open", 300)
    (machine.root / "run/lock/immich-exposure.lock").unlink()
    (machine.root / "run/lock").rmdir()
    fill_run(machine)
    machine.remember(clock=str(NOW + 301))
    outcome = funnel(machine, "enforce")
    assert (outcome.status, serving(machine)) == (0, {}), outcome.stderr
    assert "cannot be opened; closing all the same" in outcome.stderr
    assert_sentence(funnel(machine, "open", 300), "immich-exposure.lock cannot be opened; make room")


def test_confirm_keeps_it_open(machine: Machine) -> None:
    funnel(machine, "open", 300)
    machine.forget_commands()
    assert result(funnel(machine, "confirm")) == {"lease": "confirmed"}
    assert lease(machine) == "confirmed\n"
    assert changes(machine) == ["systemctl stop immich-exposure-lease-end.timer"]
    machine.remember(clock=str(NOW * 100))
    funnel(machine, "enforce")
    assert serving(machine) == OPEN


def test_confirm_until_a_moment(machine: Machine) -> None:
    funnel(machine, "open", 300)
    machine.forget_commands()
    assert result(funnel(machine, "confirm", NOW + 3600)) == {"lease": f"until {NOW + 3600}"}
    assert changes(machine) == [
        "systemctl stop immich-exposure-lease-end.timer",
        ARM.format(3600, NOW + 3600),
    ]
    machine.remember(clock=str(NOW + 3599))
    funnel(machine, "enforce")
    assert serving(machine) == OPEN
    machine.remember(clock=str(NOW + 3600))
    funnel(machine, "enforce")
    assert serving(machine) == {}


@pytest.mark.parametrize("config", [{}, {"TCP": {"443": {"TCPForward": "localhost:8443"}}}, OTHERS])
def test_confirm_of_what_is_not_open_fails(machine: Machine, config: dict[str, Any]) -> None:
    funnel(machine, "open", 300)
    serve(machine, config)
    assert_sentence(funnel(machine, "confirm"), "not open any more", "open it again")
    assert lease(machine) == f"until {NOW + 300}\n"


def test_confirm_comes_too_late(machine: Machine) -> None:
    funnel(machine, "open", 300)
    machine.remember(clock=str(NOW + 300))
    assert_sentence(funnel(machine, "confirm"), "lease 1000300", "open it again")
    machine.remember(clock=str(NOW))
    assert_sentence(
        funnel(machine, "confirm", NOW), "a moment that has passed; set exposeUntil to a later one"
    )


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"until {NOW + 1}\n", True),
        ("confirmed\n", True),
        (f"until {NOW}\n", False),
        ("until\n", False),
        ("until \n", False),
        ("until 99999999999999\n", False),
        (f"until {NOW + 9} {NOW}\n", False),
        ("until $(touch x)\n", False),
        ("confirmed by nobody\n", False),
        ("\n", False),
        ("", False),
        (None, False),
    ],
)
def test_enforce_closes_without_a_lease_that_makes_sense(
    machine: Machine, text: str | None, kept: bool
) -> None:
    funnel(machine, "open", 300)
    (machine.state / "lease").unlink()
    if text is not None:
        machine.write(machine.state / "lease", text)
    assert funnel(machine, "enforce").status == 0
    assert serving(machine) == (OPEN if kept else {})


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_clock_that_is_set_back_does_not_lengthen_a_lease(machine: Machine, confirmed: bool) -> None:
    machine.fake("systemd-run", 'for word; do :; done; printf "%s" "$word" >"$FAKES/armed"')
    funnel(machine, "open", 300)
    if confirmed:
        funnel(machine, "confirm")
    machine.remember(clock=str(NOW - 86_400))
    machine.run_text((machine.fakes / "armed").read_text())
    assert funnel(machine, "enforce").status == 0
    assert serving(machine) == (OPEN if confirmed else {})


def test_enforce_has_nothing_to_do_on_a_shut_node(machine: Machine) -> None:
    serve(machine, OTHERS)
    machine.write(machine.state / "funnel", "443 8443\n")
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    assert serving(machine) == OTHERS
    machine.write(machine.state / "funnel", "443 8443\n")
    (machine.fakes / "mood").write_text("down")
    outcome = funnel(machine, "enforce")
    assert outcome.status == 0
    assert "nothing is open now" in outcome.stderr


@pytest.mark.parametrize("trouble", ["the funnel stays", "nobody can tell"])
def test_a_funnel_that_enforce_cannot_shut_leads_nowhere(machine: Machine, trouble: str) -> None:
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
    machine.forget_commands()
    machine.write(machine.state / "lease", "confirmed\n")
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    assert changes(machine) == [], "a funnel that may be open is not looked at"


def test_status_tells_all(machine: Machine) -> None:
    assert result(funnel(machine, "status")) == {
        "state": "shut",
        "shared": False,
        "url": f"https://{DOMAIN}/",
        "lease": "none",
    }
    serve(machine, OTHERS)
    result(funnel(machine, "open", 300))
    seen = result(funnel(machine, "status"))
    assert (seen["state"], seen["shared"], seen["lease"]) == ("open", True, str(NOW + 300))
    assert result(machine.run("funnel", "status", "10000", "8443"))["url"] == f"https://{DOMAIN}:10000/"


@pytest.mark.parametrize(
    "arguments",
    [
        ("open", "443", "8443"),
        ("open", "443", "8443", "0"),
        ("open", "0", "8443", "9"),
        ("close", "443"),
        ("enforce", "443", "8443"),
        ("confirm", "x"),
        (),
    ],
)
def test_arguments_are_checked(machine: Machine, arguments: tuple[str, ...]) -> None:
    assert_sentence(machine.run("funnel", *arguments))
    assert machine.commands("tailscale") == []


def test_hostile_json_is_data(machine: Machine) -> None:
    status(machine, CertDomains=['x"; touch y', '${builtins.abort "no"}'], BackendState="Running $(id)")
    assert_sentence(funnel(machine, "open", 300), "state -")
    (machine.fakes / "serve.json").write_text('{"TCP": ')
    assert_sentence(
        funnel(machine, "status"), "The JSON answer in funnel.json could not be read", "nix-instantiate"
    )


RESTART_HOME = "systemctl restart immich-exposure-lan.service"


def home(machine: Machine) -> str | None:
    place = machine.state / "lan"
    return place.read_text() if place.exists() else None


def test_the_home_is_closed_before_the_door_opens_and_opened_after_it_is_shut(machine: Machine) -> None:
    machine.remember(units="immich-exposure-lan.service")
    result(funnel(machine, "open", 300))
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
    result(funnel(machine, "open", 300))
    machine.remember(clock=str(NOW + 300))
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
    result(funnel(machine, "open", 300))
    assert home(machine) == f"{while_open}\n"
    assert funnel(machine, "close").status == 0
    assert home(machine) == (None if after is None else f"{after}\n")


def test_what_was_shut_by_hand_stays_shut_until_the_owner_allows_it(machine: Machine) -> None:
    result(funnel(machine, "open", 300))
    assert machine.run("exposure", "close").status == 0
    assert "shut by hand" in machine.run("exposure", "status").stdout
    machine.forget_commands()
    assert_sentence(funnel(machine, "open", 300), "sudo immich-exposure open")
    assert COMMAND not in changes(machine) and serving(machine) == {}
    # A lease that ends, and a run that closes what it could not prove, change nothing about it.
    assert funnel(machine, "enforce").status == funnel(machine, "close").status == 0
    assert_sentence(funnel(machine, "open", 300), "sudo immich-exposure open")
    assert machine.run("exposure", "open").status == 0
    assert COMMAND not in changes(machine), "allowing is not opening"
    result(funnel(machine, "open", 300))
    assert serving(machine) == OPEN


def test_a_home_that_a_killed_run_left_closed_is_opened(machine: Machine) -> None:
    machine.remember(units="immich-exposure-lan.service")
    machine.write(machine.state / "lan", "closed\n")
    assert funnel(machine, "enforce").status == 0
    assert home(machine) is None
    assert RESTART_HOME in changes(machine)


@pytest.mark.parametrize("left", [{}, OTHERS])
def test_a_funnel_that_tailscale_shut_gives_immich_back_to_the_home(
    machine: Machine, left: dict[str, Any]
) -> None:
    """By `tailscale funnel reset`, which knows nothing of leases."""
    machine.remember(units="immich-exposure-lan.service")
    result(funnel(machine, "open", 300))
    result(funnel(machine, "confirm"))
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
    result(funnel(machine, "open", 300))
    serve(machine, {})
    through = f"cat >$FAKES/serve.json <<'END'\n{json.dumps(OPEN)}\nEND"
    machine.fake("flock", "exit 1" if opening == "it holds the lock" else through)
    assert funnel(machine, "enforce").status == 0
    assert home(machine) == "closed\n"


@pytest.mark.parametrize("gone", ["down", "logged out"])
def test_a_home_is_opened_when_a_lease_ends_without_tailscale(machine: Machine, gone: str) -> None:
    machine.remember(units="immich-exposure-lan.service")
    serve(machine, OTHERS)
    result(funnel(machine, "open", 300))
    machine.remember(clock=str(NOW + 300))
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
    result(funnel(machine, "open", 300))
    result(funnel(machine, "confirm"))
    tailscale_goes(machine, how)
    machine.forget_commands()
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


@pytest.mark.parametrize("word", ["closed by hand", "open by hand"])
@pytest.mark.parametrize("how", ["Stopped", "Running"])
def test_what_the_owner_said_of_the_home_outlives_a_tailscale_that_is_down(
    machine: Machine, how: str, word: str
) -> None:
    machine.remember(units="immich-exposure-lan.service")
    result(funnel(machine, "open", 300))
    machine.write(machine.state / "lan", f"{word}\n")
    tailscale_goes(machine, how)
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    assert home(machine) == f"{word}\n"


@pytest.mark.parametrize("trouble", ["another run holds the lock", "the funnel is not as wanted"])
def test_the_home_is_closed_again_only_behind_a_funnel_of_ours_that_is_open(
    machine: Machine, trouble: str
) -> None:
    machine.remember(units="immich-exposure-lan.service")
    result(funnel(machine, "open", 300))
    (machine.state / "lan").unlink()
    if trouble == "another run holds the lock":
        machine.fake("flock", "exit 1")
    else:
        serve(machine, {"TCP": {"443": {"TCPForward": "localhost:22"}}})
    assert funnel(machine, "enforce") == Outcome(0, "", "")
    assert home(machine) is None


def test_a_home_that_is_kept_as_it_is_has_no_such_unit(machine: Machine) -> None:
    result(funnel(machine, "open", 300))
    assert home(machine) is None
    assert RESTART_HOME not in changes(machine)


def test_a_home_that_cannot_be_closed_keeps_the_door_shut(machine: Machine) -> None:
    machine.remember(units="immich-exposure-lan.service")
    machine.fake("systemctl", '[ "$1" != restart ] || exit 1\n' + textwrap.dedent(BODIES["systemctl"]))
    assert_sentence(
        funnel(machine, "open", 300), "Home access could not be brought", "journalctl -u immich-exposure-lan"
    )
    assert serving(machine) == {}
    assert (lease(machine), home(machine)) == (None, None)


def test_a_home_that_cannot_be_opened_does_not_keep_the_door_open(machine: Machine) -> None:
    machine.remember(units="immich-exposure-lan.service")
    result(funnel(machine, "open", 300))
    machine.fake("systemctl", '[ "$1" != restart ] || exit 1\n' + textwrap.dedent(BODIES["systemctl"]))
    assert funnel(machine, "close").status == 0
    assert (serving(machine), home(machine)) == ({}, None)


def test_the_door_stays_shut_until_immich_answers(machine: Machine) -> None:
    machine.remember(answers="no /api/server/ping 000", units="immich-exposure-lan.service")
    assert_sentence(
        funnel(machine, "open", 300), "stays shut; everything is prepared", 'next "pulumi up" opens it once'
    )
    assert (serving(machine), lease(machine), home(machine)) == ({}, None, None)
    machine.remember(answers=ANSWERS)
    result(funnel(machine, "open", 300))
    machine.remember(answers="no /api/server/ping 000")
    assert result(funnel(machine, "open", 300))["url"], "a door that is open already gets its lease anew"


@pytest.mark.parametrize("said", ["false", "null"])
def test_the_door_stays_shut_before_an_immich_without_an_administrator(machine: Machine, said: str) -> None:
    """It did not answer when the preflight asked."""
    machine.remember(answers=ANSWERS.replace("true", said), units="immich-exposure-lan.service")
    assert_sentence(
        funnel(machine, "open", 300), "Immich has no administrator yet", "create the administrator account"
    )
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
        "do not get through: curl: (7) refused",
    ]


def test_the_command_tells_when_the_node_must_log_in_again(machine: Machine) -> None:
    funnel(machine, "open", 300)
    assert "node key" not in machine.run("exposure", "status").stdout, "its expiry is disabled"
    status = {**tailscale.STATUS, "Self": {**tailscale.STATUS["Self"], "KeyExpiry": "2036-11-26T10:00:00Z"}}
    (machine.fakes / "status.json").write_text(json.dumps(status, indent=2))
    assert (
        "node key   ends Wed Nov 26 10:00:00 UTC 2036, and the funnel with it"
        in machine.run("exposure").stdout
    )


def test_the_command_on_the_server(machine: Machine) -> None:
    funnel(machine, "open", 300)
    for letter, name in (("a", "phone"), ("b", "laptop"), ("c", "phone")):
        machine.write(machine.state / "devices" / (letter * 64), f"{name}\nuntil 2110838400\n")
    machine.write(machine.state / "bans/scan/203.0.113.9", "")
    machine.remember(active="immich-edge\nimmich-bans\nimmich-exposure-lease.timer")
    outcome = machine.run("exposure")
    assert outcome.status == 0
    assert [line.split(None, 1) for line in outcome.stdout.splitlines()] == [
        ["address", f"https://{DOMAIN}/"],
        ["funnel", "open to the internet on port 443"],
        ["lease", "ends Mon Jan 12 13:51:40 UTC 1970"],
        ["home", "as the configuration has it"],
        ["devices", "3 laptop phone (twice)"],
        ["bans", "0 auth, 0 keys, 1 scan, 0 manual"],
        ["guard", "has not looked yet"],
        ["notices", "none (set notify)"],
        ["immich-edge.service", "active"],
        ["immich-bans.service", "active"],
        ["immich-exposure-lease.timer", "active"],
        ["immich-exposure-certificate.timer", "NOT active"],
        ["immich-exposure-devices.timer", "NOT active"],
        ["immich-exposure-loopback.service", "NOT active"],
    ]
    assert machine.run("exposure", "close").status == 0
    assert serving(machine) == {}
    assert "shut" in machine.run("exposure", "status").stdout
    assert_sentence(
        machine.run("exposure", "opn"),
        "status, close, open, lan, devices, revoke, bans, ban, unban, forget-chapter and module",
    )


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
    funnel(machine, "open", 300)
    logs = machine.root / "var/log/immich-edge"
    for name in ("access.log", "access-2026-01-01T00-00-00.000.log.gz", "other.log"):
        machine.write(logs / name, "x\n")
    assert_sentence(machine.run("state", "remove"), "port 443 is still open; close it first")
    funnel(machine, "close")
    machine.remember(active="immich-edge")
    assert_sentence(machine.run("state", "remove"), "The edge still runs", "take the module out first")
    assert machine.state.exists()
    machine.remember(active="")
    for _ in range(2):
        assert machine.run("state", "remove") == Outcome(0, "", "")
        assert [str(path) for path in machine.files(machine.root)] == ["var/log/immich-edge/other.log"]
    assert not machine.state.exists()


def test_a_machine_without_tailscale_is_clean_already(machine: Machine) -> None:
    if any((Path(folder) / "tailscale").exists() for folder in os.environ["PATH"].split(":")):
        pytest.skip("this machine has a tailscale of its own, which no test may talk to")
    machine.unfake("tailscale")
    machine.remember(active="")
    assert machine.run("state", "remove").status == 0
    assert funnel(machine, "close").status == 0
