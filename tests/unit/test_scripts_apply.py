"""Golden cases of apply.sh: the exact commands of a change, and that every failure ends where it began."""

import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.scripts.harness import (
    BODIES,
    DOMAIN,
    Machine,
    Outcome,
    assert_sentence,
    available_shells,
    result,
)

LAN = "{\n  imports = [ ./hardware.nix ./lan-immich.nix ]; # as always\n}\n"
EXPOSED = LAN.replace("lan-immich", "expose-immich")
OLD, NEW = "/nix/store/old-system", "/nix/store/new-system"
# By whether the PROXY header is sent, and path: status and body.
HEALTHY = f"""\
no /api/server/ping 200 {{"res":"pong"}}
yes / 403 {{"status":403,"message":"Forbidden"}}
yes /api/users/me 403 {{"status":403,"message":"Forbidden"}}
yes /api/server/config 200 {{}}
no / 000
{DOMAIN}"""
IN_UNIT = (
    "systemd-run --quiet --wait --collect --service-type=exec --unit=immich-exposure-{}-PID "
    "--setenv=PATH=... --setenv=NIXOS_INSTALL_BOOTLOADER= "
    "--property=StandardOutput=append:/var/lib/immich-exposure/rebuild.log "
    "--property=StandardError=append:/var/lib/immich-exposure/rebuild.log {}"
)
ROLLBACK = (
    "sh /var/lib/immich-exposure/rollback.sh /var/lib/immich-exposure/configuration.nix.rollback "
    f"/etc/nixos/configuration.nix /nix/var/nix/profiles/system system-41-link {OLD}"
)
ARM = (
    "systemd-run --quiet --collect --unit=immich-exposure-rollback --on-active=900 "
    "--service-type=oneshot --setenv=PATH=... " + ROLLBACK
)
DISARM = "systemctl stop immich-exposure-rollback.timer"
BUILD = "nixos-rebuild build -I nixos-config=/etc/nixos/configuration.nix"


def link(place: Path, target: Path | str) -> None:
    """Point a link somewhere, whatever it was."""
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def system(machine: Machine, path: str) -> None:
    """A system whose activation makes it the running one; the file `fail-<action>-<name>` makes it fail."""
    place = machine.root / path.removeprefix("/")
    script = f"""#!/bin/sh
        echo "switch-to-configuration {place.name} $1" >>"$FAKES/record"
        [ "$1" = check ] || ln -sfn {place} {machine.root}/run/current-system
        if [ -e "$FAKES/fail-$1-{place.name}" ]; then
          echo "activation log"
          exit "$(cat "$FAKES/fail-$1-{place.name}")"
        fi
    """
    machine.write(place / "bin/switch-to-configuration", script, 0o755)


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A NixOS server with Immich on the LAN, whose next build will give the new system."""
    machine = Machine(tmp_path, request.param)
    for path in (OLD, NEW):
        system(machine, path)
    profiles = machine.root / "nix/var/nix/profiles"
    profiles.mkdir(parents=True)
    link(profiles / "system-41-link", machine.root / OLD[1:])
    link(profiles / "system", "system-41-link")
    link(machine.root / "run/current-system", machine.root / OLD[1:])
    machine.write(machine.root / "etc/NIXOS", "")
    machine.write(machine.config / "configuration.nix", LAN, 0o640)
    machine.write(machine.config / "immich-exposure/domain", f"{DOMAIN}\n")
    machine.write(machine.config / "immich-exposure/settings.json", '{\n  "strangers": "refuse"\n}\n')
    machine.write(machine.state / "tls/server.crt", "certificate\n")
    machine.remember(active="caddy\nfail2ban", answers=HEALTHY, built=str(machine.root / NEW[1:]))
    return machine


def apply(machine: Machine) -> Outcome:
    return machine.run("apply", "apply", str(machine.config), "8443", "2283")


def restore(machine: Machine) -> Outcome:
    return machine.run("apply", "restore", str(machine.config), "2283")


def steps(machine: Machine) -> list[str]:
    """What was done to the system: not the questions that were asked."""
    asked = ("systemctl is-active", "systemctl --failed")
    names = ("nixos-rebuild", "nix-env", "systemd-run", "systemctl", "switch-to-configuration")
    return [line for line in machine.commands(*names) if not line.startswith(asked)]


def generation(machine: Machine) -> str:
    return (machine.root / "nix/var/nix/profiles/system").readlink().name


def running(machine: Machine) -> str:
    return (machine.root / "run/current-system").resolve().name


def configuration(machine: Machine) -> str:
    return machine.files(machine.config)["configuration.nix"]


def assert_as_before(machine: Machine) -> None:
    """The old generation runs and boots, configuration.nix is untouched, nothing of the attempt is left."""
    assert generation(machine) == "system-41-link"
    assert running(machine) == "old-system"
    assert configuration(machine) == f"0640 {LAN}"
    assert set(machine.files(machine.state)) == {"rebuild.log", "tls/server.crt"}


def test_apply_tests_looks_and_only_then_switches(machine: Machine) -> None:
    assert result(apply(machine)) == {"generation": 42}
    assert steps(machine) == [
        BUILD,
        "switch-to-configuration new-system check",
        DISARM,
        ARM,
        IN_UNIT.format("rebuild", f"{NEW}/bin/switch-to-configuration test"),
        "switch-to-configuration new-system test",
        f"nix-env --profile /nix/var/nix/profiles/system --set {NEW}",
        IN_UNIT.format("switch", f"{NEW}/bin/switch-to-configuration switch"),
        "switch-to-configuration new-system switch",
        DISARM,
    ]
    assert generation(machine) == "system-42-link"
    assert configuration(machine) == f"0640 {EXPOSED}"
    assert machine.files(machine.state) == {
        "configuration.nix.after": f"0600 {EXPOSED}",
        "configuration.nix.before": f"0600 {LAN}",
        "rebuild.log": "0600 build output\n",
        "tls/server.crt": "0644 certificate\n",
    }


def test_the_edge_is_asked_what_the_chapter_promises(machine: Machine) -> None:
    apply(machine)
    asked = [line.replace("--silent --noproxy * ", "") for line in machine.commands("curl")]
    edge = (
        "curl --max-time 10 --cacert /var/lib/immich-exposure/tls/server.crt "
        f"--resolve {DOMAIN}:8443:127.0.0.1 "
        "--output WORK/body --write-out %{{http_code}}{} https://" + f"{DOMAIN}:8443" + "{}"
    )
    assert asked == [
        "curl --silent --fail --noproxy * --max-time 5 http://127.0.0.1:2283/api/server/ping",
        edge.format(" --haproxy-protocol", "/api/server/config"),
        edge.format(" --haproxy-protocol", "/"),
        edge.format(" --haproxy-protocol", "/api/users/me"),
        edge.format("", "/"),
    ]


def test_an_edge_that_shall_hang_up_on_strangers_is_sound_when_it_does(machine: Machine) -> None:
    machine.write(machine.config / "immich-exposure/settings.json", '{\n  "strangers": "drop"\n}\n')
    machine.remember(answers=re.sub(r" 403 .*", " 000", HEALTHY))
    assert result(apply(machine)) == {"generation": 42}


def test_an_edge_that_answers_strangers_against_the_settings_is_taken_back(machine: Machine) -> None:
    machine.write(machine.config / "immich-exposure/settings.json", '{\n  "strangers": "drop"\n}\n')
    assert_sentence(apply(machine), "the edge does not hang up for / without a certificate")
    assert_as_before(machine)


def test_apply_again_only_looks(machine: Machine) -> None:
    apply(machine)
    machine.forget_commands()
    before = machine.files(machine.state)
    assert result(apply(machine)) == {"generation": 42}
    assert steps(machine) == [BUILD]
    assert machine.files(machine.state) == before
    assert configuration(machine) == f"0640 {EXPOSED}"


def test_changed_files_keep_the_first_copy_of_the_users_own(machine: Machine) -> None:
    apply(machine)
    newer = "/nix/store/newer-system"
    system(machine, newer)
    machine.remember(built=str(machine.root / newer[1:]))
    result(apply(machine))
    assert running(machine) == "newer-system"
    assert machine.files(machine.state)["configuration.nix.before"] == f"0600 {LAN}"


def test_restore_brings_back_every_byte(machine: Machine) -> None:
    apply(machine)
    machine.remember(built=str(machine.root / OLD[1:]))
    machine.forget_commands()
    assert result(restore(machine)) == {"generation": 42}
    assert steps(machine) == [
        "systemctl stop immich-exposure-lease-end.timer",
        BUILD,
        "switch-to-configuration old-system check",
        DISARM,
        ARM.replace(f"system-41-link {OLD}", f"system-42-link {NEW}"),
        IN_UNIT.format("rebuild", f"{OLD}/bin/switch-to-configuration test"),
        "switch-to-configuration old-system test",
        f"nix-env --profile /nix/var/nix/profiles/system --set {OLD}",
        IN_UNIT.format("switch", f"{OLD}/bin/switch-to-configuration switch"),
        "switch-to-configuration old-system switch",
        DISARM,
    ]
    assert configuration(machine) == f"0640 {LAN}"
    assert set(machine.files(machine.state)) == {"rebuild.log", "tls/server.crt"}


def test_restore_twice_does_nothing(machine: Machine) -> None:
    apply(machine)
    machine.remember(built=str(machine.root / OLD[1:]))
    restore(machine)
    machine.forget_commands()
    outcome = restore(machine)
    assert outcome == Outcome(0, "", "Nothing of the exposure is in /etc/nixos/configuration.nix\n")
    assert steps(machine) == ["systemctl stop immich-exposure-lease-end.timer"]
    assert configuration(machine) == f"0640 {LAN}"


def test_restore_keeps_what_the_user_edited_since(machine: Machine) -> None:
    apply(machine)
    edited = EXPOSED.replace("as always", "ssh keys changed")
    machine.write(machine.config / "configuration.nix", edited, 0o640)
    result(restore(machine))
    assert configuration(machine) == "0640 " + edited.replace("expose-immich", "lan-immich")


def test_restore_closes_the_funnel_before_anything_else(machine: Machine) -> None:
    apply(machine)
    machine.forget_commands()
    machine.remember(**{"funnel-words": "open no"})
    machine.fake(
        "tailscale",
        'case "$*" in "funnel reset") echo "shut no" >"$FAKES/funnel-words" ;; *) echo "{}" ;; esac',
    )
    result(restore(machine))
    order = machine.commands("tailscale", "nixos-rebuild")
    assert order.index("tailscale funnel reset") < order.index(BUILD)


def test_restore_stops_when_the_funnel_stays_open(machine: Machine) -> None:
    apply(machine)
    machine.remember(**{"funnel-words": "open no"})
    machine.forget_commands()
    assert_sentence(restore(machine), "port 443 is still configured", "sudo tailscale funnel reset")
    assert machine.commands("nixos-rebuild") == []
    assert configuration(machine) == f"0640 {EXPOSED}"


def break_build(machine: Machine) -> None:
    machine.remember(**{"build-fails": ""})


def break_check(machine: Machine) -> None:
    machine.remember(**{"fail-check-new-system": "1"})


def break_activation(machine: Machine) -> None:
    machine.remember(**{"fail-test-new-system": "2"})


def break_a_unit(machine: Machine) -> None:
    machine.remember(**{"fail-test-new-system": "4"})
    machine.fake(
        "systemctl",
        """
        case "$1 $(readlink "$IMMICH_EXPOSURE_ROOT/run/current-system")" in
          --failed*new-system) printf "%s loaded failed failed x\\n" caddy.service old.service ;;
          --failed*) echo "old.service loaded failed failed x" ;;
        esac""",
    )


def break_the_reload(machine: Machine) -> None:
    machine.remember(**{"fail-test-new-system": "4"})
    machine.fake(
        "systemctl",
        """
        case "$*" in
          is-active*) ;;
          "show --property=ReloadResult --value caddy") echo exit-code ;;
        esac""",
    )


def break_caddy(machine: Machine) -> None:
    machine.remember(active="fail2ban")


def break_immich(machine: Machine) -> None:
    machine.remember(answers=HEALTHY.replace('ping 200 {"res":"pong"}', "ping 000"))


def let_anyone_in(machine: Machine) -> None:
    machine.remember(answers=HEALTHY.replace("yes / 403", "yes / 200"))


def refuse_without_json(machine: Machine) -> None:
    machine.remember(answers=HEALTHY.replace('me 403 {"status":403,', "me 403 {"))


def keep_everyone_out(machine: Machine) -> None:
    machine.remember(answers=HEALTHY.replace("config 200", "config 502"))


def talk_without_header(machine: Machine) -> None:
    machine.remember(answers=HEALTHY.replace("no / 000", "no / 400"))


def break_the_switch(machine: Machine) -> None:
    machine.remember(**{"fail-switch-new-system": "2"})


FAILURES: list[tuple[Callable[[Machine], None], str]] = [
    (break_build, "does not build; correct what Nix reports"),
    (break_check, "checks before the switch failed, and nothing was changed"),
    (break_activation, "its activation failed (exit status 2)"),
    (break_a_unit, "these units failed in it: caddy.service. The lines"),
    (break_the_reload, 'caddy did not take over its new configuration (see "journalctl -u caddy")'),
    (break_caddy, 'caddy does not run (see "journalctl -u caddy")'),
    (break_immich, "Immich does not answer on port 2283"),
    (let_anyone_in, "does not answer 403 for / without a certificate"),
    (refuse_without_json, "does not answer 403 for /api/users/me without a certificate"),
    (keep_everyone_out, "/api/server/config does not pass the edge"),
    (talk_without_header, "talks to connections without a PROXY header"),
    (break_the_switch, "the switch failed (exit status 2)"),
]


@pytest.mark.parametrize(("damage", "reason"), FAILURES)
def test_every_failure_ends_where_it_began(
    machine: Machine, damage: Callable[[Machine], None], reason: str
) -> None:
    damage(machine)
    outcome = apply(machine)
    assert_sentence(outcome, reason, "The lines above are the end of /var/lib/immich-exposure/rebuild.log.")
    assert "  | build output\n" in outcome.stderr
    assert_as_before(machine)
    tested = any(step.endswith("new-system test") for step in steps(machine))
    assert (steps(machine)[-1] == DISARM) is tested
    if damage is not break_the_switch:
        assert "switch-to-configuration new-system switch" not in steps(machine)


def test_failed_change_of_an_exposed_server_keeps_it_exposed(machine: Machine) -> None:
    apply(machine)
    before = machine.files(machine.state)
    newer = "/nix/store/newer-system"
    system(machine, newer)
    machine.remember(built=str(machine.root / newer[1:]), **{"fail-test-newer-system": "2"})
    assert_sentence(apply(machine), "its activation failed")
    assert (generation(machine), running(machine)) == ("system-42-link", "new-system")
    assert configuration(machine) == f"0640 {EXPOSED}"
    assert set(machine.files(machine.state)) == set(before)


def test_what_runs_already_is_not_said_to_be_taken_back(machine: Machine) -> None:
    apply(machine)
    break_immich(machine)
    assert_sentence(apply(machine), "was active before, but Immich does not answer on port 2283; mend that")
    assert (generation(machine), running(machine)) == ("system-42-link", "new-system")


def test_a_unit_that_had_failed_before_is_no_reason_to_go_back(machine: Machine) -> None:
    machine.remember(
        failed="old.service loaded failed failed x",
        **{"fail-test-new-system": "4", "fail-switch-new-system": "4"},
    )
    assert result(apply(machine)) == {"generation": 42}


def test_a_caddy_that_was_stopped_is_started_again(machine: Machine) -> None:
    """A funnel that could not be shut stops it, and a change of something else would not start it."""
    result(apply(machine))
    machine.remember(active="fail2ban")
    start = '[ "$*" != \'start caddy\' ] || echo caddy >>"$FAKES/active"\n'
    machine.fake("systemctl", start + textwrap.dedent(BODIES["systemctl"]))
    assert result(apply(machine)) == {"generation": 42}


def test_caddy_that_ends_a_moment_later_is_noticed(machine: Machine) -> None:
    machine.fake("sleep", 'echo fail2ban >"$FAKES/active"')
    assert_sentence(apply(machine), "caddy does not run")
    assert_as_before(machine)


def test_immich_may_take_its_time(machine: Machine) -> None:
    machine.remember(later=HEALTHY)
    break_immich(machine)
    machine.fake("sleep", 'cp "$FAKES/later" "$FAKES/answers"')
    assert result(apply(machine)) == {"generation": 42}


def killed_while_it_looks(machine: Machine) -> str:
    """Kill a change after its activation; return what its armed timer would run."""
    machine.fake("curl", "kill -9 $PPID; kill -9 $(cat $FAKES/shell)")
    machine.fake("id", 'echo $PPID >"$FAKES/shell"; echo 0')
    with pytest.raises(AssertionError, match="left its private folder behind"):
        apply(machine)
    assert configuration(machine) == f"0640 {EXPOSED}"
    machine.fake("curl", BODIES["curl"])
    armed = next(
        line for line in (machine.fakes / "record").read_text().splitlines() if "--on-active=900" in line
    )
    for private in machine.root.glob("run/immich-exposure.*"):
        shutil.rmtree(private)
    return f"PATH={machine.fakes}:$PATH {armed[armed.index('sh /') :]}"


def test_timer_brings_everything_back_when_nobody_else_does(machine: Machine) -> None:
    """Run what the armed timer would run, in the middle of a change whose script was killed."""
    text_before = configuration(machine)
    assert machine.run_text(killed_while_it_looks(machine)).status == 0
    assert configuration(machine) == text_before
    assert (generation(machine), running(machine)) == ("system-41-link", "old-system")


@pytest.mark.parametrize("timer_has_fired", [False, True])
def test_a_run_after_a_killed_one_goes_back_before_it_begins(machine: Machine, timer_has_fired: bool) -> None:
    """Else its failure would leave running what nobody has looked at, and no way back from it."""
    armed = killed_while_it_looks(machine)
    state = "inactive"
    if timer_has_fired:
        state = "activating"
    else:
        machine.remember(active="caddy\nfail2ban\nimmich-exposure-rollback.timer")
    special = f"""
        case "$*" in
          'start immich-exposure-rollback.service') {armed} ;;
          'is-active immich-exposure-rollback.service') echo {state}; exit ;;
        esac
    """
    machine.fake("systemctl", textwrap.dedent(special) + textwrap.dedent(BODIES["systemctl"]))
    machine.remember(**{"build-fails": ""})
    assert_sentence(apply(machine), "does not build")
    assert (generation(machine), running(machine)) == ("system-41-link", "old-system")
    assert configuration(machine) == f"0640 {LAN}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{ imports = [ ]; }\n", "imports neither ./lan-immich.nix nor ./expose-immich.nix"),
        ("{ imports = [ /* ./lan-immich.nix */ ]; }\n", "a commented line does not count"),
        ("{ imports = [ ./lan-immich.nix ./expose-immich.nix ]; }\n", "which exclude each other; remove one"),
    ],
)
def test_configuration_that_fits_neither_way_is_left_alone(machine: Machine, text: str, reason: str) -> None:
    machine.write(machine.config / "configuration.nix", text)
    assert_sentence(apply(machine), reason)
    assert configuration(machine) == f"0644 {text}"
    assert steps(machine) == []


def test_linked_configuration_stays_a_link(machine: Machine) -> None:
    real = machine.root / "home/nixos/configuration.nix"
    machine.write(real, LAN)
    link(machine.config / "configuration.nix", real)
    result(apply(machine))
    assert (machine.config / "configuration.nix").is_symlink()
    assert real.read_text() == EXPOSED


def test_what_is_not_a_prepared_nixos_is_refused(machine: Machine) -> None:
    (machine.config / "immich-exposure/domain").unlink()
    assert_sentence(apply(machine), "get the server's certificate first")
    assert_as_before(machine)
    (machine.config / "configuration.nix").unlink()
    assert_sentence(apply(machine), "There is no /etc/nixos/configuration.nix", "set configDir")
    (machine.root / "etc/NIXOS").unlink()
    assert_sentence(apply(machine), "does not run NixOS; set host")
    assert_sentence(machine.run("apply", "apply", "nixos", "8443", "2283"), "absolute path")
    assert_sentence(
        machine.run("apply", "apply", "/etc/nixos", "8443"), "The immichPort must be a whole number"
    )
    assert steps(machine) == []


def test_restore_of_a_server_without_anything_is_fine(machine: Machine) -> None:
    (machine.config / "configuration.nix").unlink()
    (machine.root / "etc/NIXOS").unlink()
    assert restore(machine).status == 0
