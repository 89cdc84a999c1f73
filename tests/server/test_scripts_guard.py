"""guard.sh: what it does about what a stranger meets, how often, and what the owner is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.programs import tailscale
from tests.programs.harness import (
    DOMAIN,
    SCRIPTS,
    Machine,
    Outcome,
    assert_sentence,
    available_shells,
    later,
    serve,
    serving,
)

pytestmark = pytest.mark.server

OPEN: dict[str, Any] = {
    "TCP": {"443": {"TCPForward": "127.0.0.1:8443", "ProxyProtocol": 1}},
    "AllowFunnel": {f"{DOMAIN}:443": True},
}
HEALTHY = "healthy strangers are refused and shared links answer at 2 of 2 addresses"
DEAD = "dead at 203.0.113.1 nobody answers: connection refused"
UNSAFE = "unsafe at 203.0.113.1 the private path / answers 200"
AILING = "ailing at 203.0.113.1 strangers are refused, but the public path /api/server/config answers 502"
BLIND = "blind none of the public resolvers 1.1.1.1, 9.9.9.9, 8.8.8.8 answers from here"

FLOORS = "caddy 2.11.4\nimmich 2.7.3\ntailscale 1.98.9 1.102.0 1.102.1"

OFF = "tailscale funnel reset"
ON = "tailscale funnel --bg --yes --proxy-protocol 1 --tcp 443 tcp://127.0.0.1:8443"
RESTART = "systemctl restart tailscaled"
STARTED = 1_800_000_000
EDGE_ANSWERS = "no /config/ 200 {}"
LEASE_TIMER = "immich-exposure-lease.timer"
RUNNING = f"immich-edge\ntailscaled\n{LEASE_TIMER}"
START_TIMER = f"systemctl start {LEASE_TIMER}"

# Says what a stranger meets (the next line of `sights`, the last one again) and when a certificate ends.
EDGE = """
case $1 in
  certificate-end) cat "$FAKES/certificate-end" ;;
  version) cat "$FAKES/edge-version" ;;
  stranger)
    head -n 1 "$FAKES/sights"
    if [ "$(wc -l <"$FAKES/sights")" -gt 1 ]; then sed -i 1d "$FAKES/sights"; fi
    ;;
esac
"""


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A server whose funnel was opened and proven a day ago, with a channel to its owner."""
    machine = Machine(tmp_path, request.param)
    tailscale.install(machine.fakes)
    machine.fake("edge", EDGE)
    machine.prepare()
    machine.remember(clock=str(STARTED), active=RUNNING, sights=HEALTHY, answers=EDGE_ANSWERS)
    machine.remember(**{"certificate-end": str(STARTED + 60 * 86400), "edge-version": "v2.11.9 h1:a="})
    serve(machine, OPEN)
    for name, text in {
        "lease": "confirmed\n",
        "term": "always\n",
        "funnel": "443 8443\n",
        "domain.env": f"IMMICH_EXPOSURE_DOMAIN={DOMAIN}\n",
        "tls/server.crt": "PEM\n",
        "notices/channel": "kind webhook\naddress https://a.example\n",
    }.items():
        machine.write(machine.state / name, text)
    (machine.state / "notices/waiting").mkdir()
    return machine


def look(machine: Machine, *sights: str, verb: str = "look") -> Outcome:
    """Look once; a stranger meets these sights, one after the other."""
    if sights:
        machine.remember(sights="\n".join(sights))
    scripts = (SCRIPTS / "lib.sh").read_text() + (SCRIPTS / "guard.sh").read_text()
    return machine.run_text(f"IMMICH_EDGE=edge FLOORS='{FLOORS}'\n{scripts}", verb)


def seen(machine: Machine) -> str:
    """Return what was noted down for status, without the time."""
    return (machine.state / "guard").read_text().strip().partition(" ")[2]


def told(machine: Machine) -> list[str]:
    """Return the kinds of the notices since the last time, in their order, and take them away."""
    waiting = sorted((machine.state / "notices/waiting").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    kinds = [path.name.split(".")[1] for path in waiting]
    for path in waiting:
        path.unlink()
    return kinds


def changes(machine: Machine) -> list[str]:
    """Return what was changed since the last time."""
    lines = machine.commands("tailscale", "systemctl")
    machine.forget_commands()
    asked = (
        "tailscale status",
        "tailscale version",
        "tailscale funnel status",
        "systemctl is-",
        "systemctl cat",
    )
    quiet = ("systemctl start --no-block immich-exposure-notify", "systemctl stop immich-exposure-lease-end")
    return [line for line in lines if not line.startswith(asked + quiet)]


def test_what_is_right_is_noted_down_and_nothing_is_done(machine: Machine) -> None:
    assert look(machine) == Outcome(0, "", "")
    assert (machine.state / "guard").read_text() == f"{STARTED} {HEALTHY}\n"
    assert changes(machine) == []
    assert told(machine) == []
    asked = machine.commands("edge")
    assert asked == [] or "stranger" in asked[0]


def test_it_asks_for_the_name_port_and_certificate_of_the_exposure(machine: Machine) -> None:
    look(machine)
    assert machine.commands("edge")[0] == (
        f"edge stranger --name {DOMAIN} --port 443 --certificate /var/lib/immich-exposure/tls/server.crt"
    )


def test_what_is_unsafe_is_closed_at_once_and_stays_so(machine: Machine) -> None:
    assert look(machine, UNSAFE).status == 0
    assert serving(machine) == {}
    assert not (machine.state / "lease").exists()
    assert seen(machine) == UNSAFE
    assert told(machine) == ["unsafe"]
    machine.forget_commands()
    later(machine, 300)
    assert look(machine, HEALTHY).status == 0
    assert not any("stranger" in line for line in machine.commands("edge"))
    assert seen(machine) == UNSAFE
    assert serving(machine) == {}


def test_a_certificate_that_is_being_renewed_is_not_unsafe(machine: Machine) -> None:
    machine.write(machine.state / "tls/.unloaded", "")
    look(machine, "unsafe at 203.0.113.1 another certificate is shown than the one of this server", HEALTHY)
    assert serving(machine) == OPEN
    assert changes(machine) == ["systemctl reload immich-edge"]
    assert seen(machine) == HEALTHY


def test_what_cannot_be_closed_leads_nowhere(machine: Machine) -> None:
    machine.remember(mood="asking")
    machine.fake("sleep", "")
    look(machine, UNSAFE)
    assert "systemctl stop immich-edge" in changes(machine)
    assert told(machine)[-1] == "unsafe"


def test_one_lost_packet_is_nothing(machine: Machine) -> None:
    look(machine, DEAD, HEALTHY)
    assert changes(machine) == []
    assert told(machine) == []


def test_what_is_dead_is_healed_by_a_funnel_off_and_on(machine: Machine) -> None:
    look(machine, DEAD, DEAD, HEALTHY)
    assert changes(machine) == [OFF, ON]
    assert serving(machine) == OPEN
    assert seen(machine) == HEALTHY
    assert told(machine) == ["healed"]
    later(machine, 300)
    look(machine)
    assert (changes(machine), told(machine)) == ([], [])


def test_beside_other_tools_only_our_entry_goes_off_and_on(machine: Machine) -> None:
    others = {
        "TCP": {**OPEN["TCP"], "5432": {"TCPForward": "localhost:5432"}},
        "AllowFunnel": OPEN["AllowFunnel"],
    }
    serve(machine, others)
    look(machine, DEAD, DEAD, HEALTHY)
    assert OFF not in changes(machine)
    assert serving(machine) == others


def test_steps_are_bounded_and_the_owner_is_told_once(machine: Machine) -> None:
    done: list[tuple[int, list[str]]] = []
    notices: list[tuple[int, list[str]]] = []
    begun = STARTED
    # As the timer has it at first, and then only as often as something may happen.
    for pause in (240, 240, 240, 1800, 1500, 240, 240):
        look(machine, DEAD)
        at = (int((machine.fakes / "clock").read_text()) - begun) // 60
        if changed := changes(machine):
            done.append((at, changed))
        if kinds := told(machine):
            notices.append((at, kinds))
        later(machine, pause)
    assert [changed for _, changed in done] == [[OFF, ON], [RESTART], [OFF, ON], [RESTART]]
    first, second, third, _ = (at for at, _ in done)
    assert second - first < 15 and third - second >= 55
    assert [kinds for _, kinds in notices] == [["dead"]]
    assert notices[0][0] == second
    assert seen(machine) == DEAD
    look(machine, HEALTHY)
    assert told(machine) == ["healed"]
    assert changes(machine) == []


def test_a_funnel_that_has_just_opened_may_not_answer_yet(machine: Machine) -> None:
    machine.fake(
        "date", 'case $1 in +%s) cat "$FAKES/clock" ;; -r) echo $(($(cat "$FAKES/clock") - 60)) ;; esac'
    )
    look(machine, "dead public DNS has no address of immich.lab-tailnet.ts.net")
    assert changes(machine) == []
    assert told(machine) == []
    assert seen(machine).startswith("dead public DNS")


def test_a_look_that_was_killed_between_off_and_on_is_finished_by_the_next(machine: Machine) -> None:
    machine.write(machine.state / "guard.memory", "reopen yes\nsteps 1\n")
    serve(machine, {})
    look(machine, HEALTHY)
    assert serving(machine) == OPEN
    assert told(machine) == ["healed"]
    serve(machine, {})
    look(machine, HEALTHY)
    assert serving(machine) == {}, "what somebody else has closed is not opened"


def test_a_close_by_hand_in_the_middle_wins(machine: Machine) -> None:
    real = (machine.fakes / "tailscale").read_text()
    (machine.fakes / "tailscale-real").write_text(real)
    (machine.fakes / "tailscale-real").chmod(0o755)
    machine.fake(
        "tailscale",
        f"""case "$*" in "funnel --bg"*) rm -f {machine.state}/lease ;; esac
        exec "$FAKES/tailscale-real" "$@" """,
    )
    look(machine, DEAD)
    assert serving(machine) == {}


@pytest.mark.parametrize("state", ["Stopped", "NeedsLogin"])
def test_a_tailscale_that_is_off_is_the_owners_to_mend(machine: Machine, state: str) -> None:
    status = {**tailscale.STATUS, "BackendState": state}
    (machine.fakes / "status.json").write_text(json.dumps(status))
    look(machine, DEAD)
    assert changes(machine) == []
    assert told(machine) == ["dead"]
    assert f"state {state}" in seen(machine)


@pytest.mark.parametrize("state", ["NoState", "Starting"])
def test_a_tailscaled_that_cannot_reach_its_control_server_is_dead_not_closed(
    machine: Machine, state: str
) -> None:
    """Until it hears of it, it says that it serves nothing: what is configured must not be touched then."""
    status = {**tailscale.STATUS, "BackendState": state, "CertDomains": None}
    (machine.fakes / "status.json").write_text(json.dumps(status))
    serve(machine, {})
    done, kinds = [], []
    for _ in range(4):
        look(machine, DEAD)
        done += changes(machine)
        kinds += told(machine)
        assert seen(machine).startswith(f"dead Tailscale is not connected on this server (state {state})")
        later(machine, 300)
    assert (done, kinds) == ([RESTART], ["dead"])
    (machine.fakes / "status.json").write_text(json.dumps(tailscale.STATUS))
    serve(machine, OPEN)
    look(machine, HEALTHY)
    assert (changes(machine), told(machine)) == ([], ["healed"])


def test_a_look_that_waits_for_healing_ends_before_the_next(machine: Machine) -> None:
    """However long each stranger is kept waiting: here half a minute, with half a minute of sleep between."""
    machine.fake(
        "edge",
        f"""[ "$1" = stranger ] || exit 1
        echo $(($(cat "$FAKES/clock") + 30)) >"$FAKES/clock"
        echo '{DEAD}' """,
    )
    look(machine)
    assert int((machine.fakes / "clock").read_text()) - STARTED < 300


def test_a_tailscaled_that_was_stopped_by_hand_stays_so(machine: Machine) -> None:
    machine.remember(mood="down", active=RUNNING.replace("tailscaled\n", ""))
    machine.fake("systemctl", 'case "$1 $3" in "is-active tailscaled" | "is-failed "*) exit 3 ;; esac')
    look(machine, DEAD)
    assert RESTART not in changes(machine)


def test_a_tailscaled_that_hangs_is_restarted_once_an_hour(machine: Machine) -> None:
    machine.fake("tailscale", "exit 1")
    look(machine, DEAD)
    assert changes(machine) == [RESTART]
    later(machine, 300)
    look(machine, DEAD)
    assert changes(machine) == []


def test_an_edge_that_does_not_run_is_started(machine: Machine) -> None:
    machine.remember(active=RUNNING.replace("immich-edge\n", ""))
    look(machine, DEAD, DEAD, HEALTHY)
    assert changes(machine) == ["systemctl reset-failed immich-edge", "systemctl restart immich-edge"]
    assert told(machine) == ["healed"]


@pytest.mark.parametrize("why", ["edge-stopped", "closed-by-hand"])
def test_an_edge_that_was_stopped_to_keep_somebody_out_stays_so(machine: Machine, why: str) -> None:
    """The disk is read-only: neither the lost device's file nor the lease could be removed."""
    machine.remember(active=RUNNING.replace("immich-edge\n", ""))
    machine.write(machine.root / f"run/immich-exposure-{why}", "")
    look(machine, DEAD, DEAD, HEALTHY)
    assert changes(machine) == [] and told(machine) == []


def test_a_full_log_is_told_once_because_nobody_is_banned(machine: Machine) -> None:
    machine.fake("df", "echo; echo tmpfs 64 64 0 100% /var/log")
    assert look(machine).status == 0 and told(machine) == ["log"]
    assert look(machine).status == 0 and told(machine) == []
    machine.unfake("df")
    look(machine)
    machine.fake("df", "echo; echo tmpfs 64 64 0 100% /var/log")
    look(machine)
    assert told(machine) == ["log"]


def test_an_edge_that_hangs_is_restarted(machine: Machine) -> None:
    machine.remember(answers="no /config/ 000")
    look(machine, DEAD, DEAD, HEALTHY)
    assert changes(machine) == ["systemctl reset-failed immich-edge", "systemctl restart immich-edge"]
    assert told(machine) == ["healed"]


def test_links_that_do_not_work_are_told_once_and_nothing_is_done(machine: Machine) -> None:
    kinds = []
    for _ in range(4):
        look(machine, AILING)
        kinds += told(machine)
        later(machine, 300)
    assert kinds == ["ailing"]
    assert changes(machine) == []
    look(machine, HEALTHY)
    assert told(machine) == ["healed"]


def test_who_cannot_look_changes_nothing(machine: Machine) -> None:
    kinds = []
    machine.write(machine.state / "guard.memory", "blind_looks 10\n")
    for _ in range(3):
        assert look(machine, BLIND).stderr.startswith(
            "Seen from outside: blind, none of the public resolvers"
        )
        kinds += told(machine)
        later(machine, 300)
    assert changes(machine) == []
    assert serving(machine) == OPEN
    assert kinds == ["blind"]
    assert seen(machine) == BLIND


def test_a_look_that_fails_itself_changes_nothing(machine: Machine) -> None:
    machine.fake("edge", "echo 'Segmentation fault' >&2; exit 139")
    look(machine)
    assert changes(machine) == []
    assert seen(machine).startswith("blind the check from outside itself failed (Segmentation fault)")


def test_nobody_looks_while_the_funnel_is_closed_or_the_config_says_no(machine: Machine) -> None:
    serve(machine, {})
    for name in ("lease", "funnel"):
        (machine.state / name).unlink()
    look(machine, UNSAFE)
    assert not (machine.state / "guard").exists()
    serve(machine, OPEN)
    machine.write(machine.state / "lease", "confirmed\n")
    machine.write(machine.state / "settings/guard.conf", "guard off\n")
    look(machine, UNSAFE)
    assert not (machine.state / "guard").exists()
    assert serving(machine) == OPEN


@pytest.mark.parametrize("funnel", ["of the old name", "of another account"])
def test_a_node_with_another_name_is_told_and_not_healed(machine: Machine, funnel: str) -> None:
    """To open the funnel again would open it under the new name, which nobody has proven."""
    name = DOMAIN.replace("immich", "photos")
    status = (machine.fakes / "status.json").read_text().replace(DOMAIN, name)
    (machine.fakes / "status.json").write_text(status)
    machine.write(machine.state / "guard.memory", "reopen yes\n")
    if funnel == "of another account":
        serve(machine, {})
    before = serving(machine)
    for kinds in (["dead"], []):
        look(machine, DEAD)
        assert told(machine) == kinds
        assert serving(machine) == before and changes(machine) == []
        assert seen(machine).startswith(f"dead this server's name has changed from {DOMAIN} to {name}")
    (machine.fakes / "status.json").write_text(status.replace(name, DOMAIN))
    serve(machine, OPEN)
    look(machine, HEALTHY)
    assert told(machine) == ["healed"]


def test_a_funnel_that_was_opened_under_another_name_is_closed(machine: Machine) -> None:
    """By hand, or by Tailscale's console: nobody has proven what answers under that name."""
    name = DOMAIN.replace("immich", "photos")
    status = (machine.fakes / "status.json").read_text().replace(DOMAIN, name)
    (machine.fakes / "status.json").write_text(status)
    serve(machine, {**OPEN, "AllowFunnel": {f"{name}:443": True}})
    look(machine)
    assert serving(machine) == {} and told(machine) == ["unsafe"]
    assert seen(machine).startswith(f"unsafe the funnel is open under this server's new name, {name}, which")
    look(machine)
    assert told(machine) == []


def timer_starts(machine: Machine, starts: bool) -> None:
    """Stop the timer that ends leases; it can be started again, or is masked by the configuration."""
    machine.remember(active=RUNNING.replace(LEASE_TIMER, ""))
    if starts:
        (machine.fakes / "systemctl").rename(machine.fakes / "systemctl.before")
        machine.fake(
            "systemctl",
            f"""
            [ "$*" != "start {LEASE_TIMER}" ] || echo {LEASE_TIMER} >>"$FAKES/active"
            . "$FAKES/systemctl.before" """,
        )
    else:
        machine.remember(masked=LEASE_TIMER)


@pytest.mark.parametrize("guard", ["on", "off"])
@pytest.mark.parametrize("term", ["trial 300", "confirmed"])
def test_a_stopped_timer_of_the_lease_is_started_again(machine: Machine, term: str, guard: str) -> None:
    machine.write(machine.state / "settings/guard.conf", f"guard {guard}\n")
    machine.write(machine.state / "lease", f"{term}{' 00000001-aaaa 4999' if term != 'confirmed' else ''}\n")
    timer_starts(machine, starts=True)
    look(machine)
    assert START_TIMER in changes(machine)
    assert told(machine) == ["lease"] and serving(machine) == OPEN
    look(machine)
    assert changes(machine) == [] and told(machine) == []


@pytest.mark.parametrize("guard", ["on", "off"])
def test_a_lease_that_no_timer_ends_is_ended_by_a_look(machine: Machine, guard: str) -> None:
    machine.write(machine.state / "settings/guard.conf", f"guard {guard}\n")
    machine.write(machine.state / "lease", "trial 300 00000001-aaaa 4999\n")
    timer_starts(machine, starts=False)
    look(machine)
    assert serving(machine) == OPEN and told(machine) == ["lease"]
    machine.elapse(301)
    assert "Another run holds" not in look(machine).stderr, "it holds the lock itself"
    assert serving(machine) == {} and not (machine.state / "lease").exists()
    assert (machine.state / "last-change").read_text().split()[1:] == ["closed", "lease"]
    assert told(machine) == [], "the path unit says that it is closed"


def test_a_funnel_that_cannot_be_closed_keeps_nothing_else_from_being_told(machine: Machine) -> None:
    machine.write(machine.state / "lease", "trial 300 00000001-aaaa 4999\n")
    machine.write(machine.state / "devices" / ("a" * 64), f"phone\nuntil {STARTED + 10 * 86400}\n")
    timer_starts(machine, starts=False)
    machine.elapse(301)
    (machine.fakes / "mood").write_text("asking")
    outcome = look(machine)
    assert "still configured" in outcome.stderr and serving(machine) == OPEN
    assert "ending" in told(machine)


def test_a_funnel_of_before_us_needs_no_lease(machine: Machine) -> None:
    """One that was opened by hand is taken over, and closes when the run that does so says so."""
    machine.write(machine.state / "by-hand", "443 8443\n")
    (machine.state / "lease").unlink()
    timer_starts(machine, starts=False)
    look(machine)
    assert serving(machine) == OPEN and told(machine) == []


def test_another_run_is_not_disturbed(machine: Machine) -> None:
    machine.fake("flock", "exit 1")
    look(machine, UNSAFE)
    assert serving(machine) == OPEN
    assert machine.commands("edge") == []


def test_devices_with_names_like_other_things_are_told_apart(machine: Machine) -> None:
    """A dot is no pattern, `server` is not the server's certificate, and `frame` no frame."""
    names = ("phone.a", "phone-a", "server", "node", "frame")
    for place, name in enumerate(names):
        file = machine.state / "devices" / (f"{place}" * 64)
        machine.write(file, f"{name}\nuntil {STARTED + 10 * 86400}\n")
    machine.write(machine.state / "devices" / ("f" * 64), "wall\nframe\n")
    look(machine)
    waiting = machine.files(machine.state / "notices/waiting").values()
    said = sorted(text.removeprefix("0600 ").strip() for text in waiting)
    assert said == sorted(f"The certificate of the device {name} expires within 10 days." for name in names)
    told(machine)
    look(machine)
    assert told(machine) == []


def test_what_ends_is_told_at_each_mark_once(machine: Machine) -> None:
    machine.write(machine.state / "devices" / ("a" * 64), f"phone\nuntil {STARTED + 40 * 86400}\n")
    machine.write(machine.state / "devices" / ("b" * 64), f"old\nuntil {STARTED + 86400}\n")
    machine.write(machine.state / "devices" / ("c" * 64), f"old\nuntil {STARTED + 900 * 86400}\n")
    status = {**tailscale.STATUS, "Self": {**tailscale.STATUS["Self"], "KeyExpiry": "2027-02-10T00:00:00Z"}}
    (machine.fakes / "status.json").write_text(json.dumps(status))
    marks: dict[int, list[str]] = {}
    for day in (0, 12, 25, 26, 27, 37, 40, 41, 46, 57, 60, 61):
        machine.remember(clock=str(STARTED + day * 86400))
        look(machine)
        waiting = machine.files(machine.state / "notices/waiting")
        texts = sorted(text.removeprefix("0600 ").strip() for text in waiting.values())
        if texts:
            marks[day] = texts
        told(machine)
    said = [text for texts in marks.values() for text in texts]
    assert [day for day, texts in marks.items() if any("device phone" in text for text in texts)] == [
        26,
        37,
        40,
    ]
    assert [day for day, texts in marks.items() if any("not renewed" in text for text in texts)] == [
        46,
        57,
        60,
    ]
    assert sum("node key" in text for text in said) == 3
    assert not any("device old" in text for text in said)
    assert any(text == "The certificate of the device phone expires within 14 days." for text in said)


@pytest.mark.parametrize(
    ("program", "version", "told_of"),
    [
        (
            "caddy",
            "v2.11.3 h1:a=",
            "Caddy in the edge is version 2.11.3, which has known vulnerabilities; upgrade it to 2.11.4",
        ),
        ("tailscale", "1.102.1", "Tailscale is version 1.102.1, which has known vulnerabilities"),
        ("tailscale", "1.98.10", None),
        ("tailscale", "2.0.0", None),
        (
            "immich",
            "2.6.12",
            "Immich is version 2.6.12, which has known vulnerabilities; upgrade it to 2.7.3 or newer.",
        ),
        ("immich", "2.10.0", None),
    ],
)
def test_a_version_below_its_floor_is_told_once(
    machine: Machine, program: str, version: str, told_of: str | None
) -> None:
    if program == "caddy":
        machine.remember(**{"edge-version": version})
    elif program == "tailscale":
        real = (machine.fakes / "tailscale").read_text().removeprefix("#!/bin/sh\n")
        machine.fake("tailscale", f'[ "$1" != version ] || {{ echo {version}; exit; }}\n{real}')
    else:
        major, minor, patch = version.split(".")
        answer = f'{{"major": {major}, "minor": {minor}, "patch": {patch}}}'
        machine.remember(answers=f"no /api/server/version 200 {answer}")
    look(machine)
    texts = [text for text in machine.files(machine.state / "notices/waiting").values()]
    if told_of is None:
        assert texts == []
        return
    (text,) = texts
    assert told_of in text
    assert told(machine) == ["outdated"]
    later(machine, 86400)
    look(machine)
    assert told(machine) == []


def test_many_bans_are_told_once_in_six_hours(machine: Machine) -> None:
    for number in range(21):
        machine.write(machine.state / f"bans/scan/203.0.113.{number}", "")
    look(machine)
    look(machine)
    assert told(machine) == ["bans"]
    later(machine, 21601)
    look(machine)
    assert told(machine) == ["bans"]


def test_a_ban_list_is_told_once_until_it_is_right_again(machine: Machine) -> None:
    machine.write(
        machine.state / "settings/lists.conf", "countries CN\ndatabase /x\ncrowdsec http://[::1]:1\n"
    )
    running = f"{RUNNING}\nimmich-exposure-lists.timer\nimmich-exposure-crowdsec"
    machine.remember(active=running)
    reports = machine.state / "lists"
    machine.write(reports / "crowdsec", "good 3 1800000000 http://[::1]:1\n")

    def look_at(countries: str) -> list[str]:
        machine.write(reports / "countries", f"{countries}\n")
        look(machine)
        waiting = [text[5:].strip() for text in machine.files(machine.state / "notices/waiting").values()]
        assert told(machine) == ["lists"] * len(waiting)
        return waiting

    assert look_at("good 7 1800000000 CN, by /x") == []
    wrong = "kept 7 1800000000 /x is 50 days old"
    sentence = "The ban list countries is out of date, and what it bans stays banned: /x is 50 days old."
    assert [look_at(wrong), look_at(wrong)] == [[sentence], []]
    assert look_at("good 7 1800000000 CN") == ["The ban list countries is up to date again."]
    assert look_at("none 0 1800000000 /x is gone") == ["The ban list countries bans nobody: /x is gone."]
    machine.remember(active=running.replace("-crowdsec", "-other"))
    assert look_at("none 0 1800000000 /x is gone") == [
        "The ban list crowdsec is out of date, and what it bans stays banned: "
        "immich-exposure-crowdsec.service is not running."
    ]


def test_a_device_is_told_when_it_comes_for_the_first_time(machine: Machine) -> None:
    line = (
        '{"verdict":"device","uri":"/api/assets/1/original?key=sEcReT&password=hunter2","file":"IMG_1.jpg",'
        '"tls":{"client_common_name":"%s","client_serial":"%s"}}\n'
    )
    log = machine.root / "var/log/immich-edge/devices.log"
    machine.write(log, (line % ("phone-anna", "123")) * 3 + line % (r"evil\",\"x", "9"))
    look(machine)
    [notice] = machine.files(machine.state / "notices/waiting").values()
    assert notice == "0600 The device phone-anna connected for the first time.\n"
    told(machine)
    look(machine)
    assert told(machine) == []


def test_for_people_it_says_what_it_saw(machine: Machine) -> None:
    assert look(machine, verb="now").stdout.endswith(f": {HEALTHY}\n")
    (machine.state / "lease").unlink()
    (machine.state / "guard").unlink()
    assert "the exposure is closed" in look(machine, verb="now").stderr


def test_other_verbs_are_refused(machine: Machine) -> None:
    assert_sentence(look(machine, verb="see"), "look and now")
