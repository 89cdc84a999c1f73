"""Golden cases of module.sh: the exact commands of a change, and that every failure ends where it began."""

import os
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs.harness import (
    BODIES,
    DOMAIN,
    OPEN,
    RUNNING,
    SCRIPTS,
    UNITS,
    Machine,
    Outcome,
    assert_sentence,
    available_shells,
    result,
)

HOME = "{\n  imports = [ ./hardware.nix ]; # as always\n}\n"
WITH_OURS = HOME.replace("[ ./hard", "[ ./immich-exposure ./hard")
LAN = "{\n  imports = [ ./hardware.nix ./lan-immich.nix ]; # as always\n}\n"
SWAPPED = LAN.replace("./lan-immich.nix", "./immich-exposure")
OLD, NEW = "/nix/store/old-system", "/nix/store/new-system"
MODULE = '{"digest":"abc","lan":"close","managed":true,"immich":"127.0.0.1:2283","home":"0.0.0.0"}'
# By whether the PROXY header is sent, and path: status and body.
HEALTHY = f"""\
no /api/server/ping 200 {{"res":"pong"}}
yes / 403 {{"status":403,"message":"Forbidden"}}
yes /api/users/me 403 {{"status":403,"message":"Forbidden"}}
yes /api/server/config 200 {{}}
no / 000
{DOMAIN}"""
LOCKED = HEALTHY.replace('ping 200 {"res":"pong"}', "ping 000").replace("config 200 {}", "config 502 {}")
IN_UNIT = (
    "systemd-run --quiet --wait --collect --service-type=exec --unit=immich-exposure-{}-PID "
    "--setenv=PATH=... --setenv=NIXOS_INSTALL_BOOTLOADER= "
    "--property=StandardOutput=append:/var/lib/immich-exposure/rebuild.log "
    "--property=StandardError=append:/var/lib/immich-exposure/rebuild.log {}"
)
ROLLBACK = (
    "sh /var/lib/immich-exposure/rollback.sh /var/lib/immich-exposure/configuration.nix.rollback "
    "/var/lib/immich-exposure/configuration.nix.written "
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


def words(machine: Machine, system: str, **changes: str) -> str:
    """What the evaluator makes of a configuration; the unchanged one's words but for ``changes``."""
    told = {
        "toplevel": str(machine.root / system[1:]),
        "nixos": "26.05.1",
        "immich": "3.0.2",
        "exposure": "absent",
        "lan": "-",
        "off": str(machine.root / OLD[1:]),
        "setting:enable": "11",
        "setting:host": "22",
        "setting:mediaLocation": "33",
        "setting:secretsFile": "44",
    }
    return " ".join(f"{name}={value}" for name, value in {**told, **changes}.items())


ON = {"exposure": "on", "lan": "close", "setting:host": "23"}


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A NixOS server with Immich on the LAN, whose next build will give the new system."""
    machine = Machine(tmp_path, request.param)
    for path in (OLD, NEW):
        system(machine, path)
        machine.write(machine.root / f"{path[1:]}/nixos-version", "26.05.1")
        unit = machine.root / f"{path[1:]}/etc/systemd/system/immich-server.service"
        machine.write(unit, "ExecStart=/nix/store/abc-immich-3.0.2/bin/server\n")
    profiles = machine.root / "nix/var/nix/profiles"
    profiles.mkdir(parents=True)
    link(profiles / "system-41-link", machine.root / OLD[1:])
    link(profiles / "system", "system-41-link")
    link(machine.root / "run/current-system", machine.root / OLD[1:])
    machine.write(machine.root / "etc/NIXOS", "")
    write_configuration(machine, HOME)
    machine.prepare()
    machine.write(machine.config / "immich-exposure/.immich-exposure", "ours\n")
    machine.write(machine.state / "domain.env", f"IMMICH_EXPOSURE_DOMAIN={DOMAIN}\n")
    machine.write(machine.state / "settings/edge.env", "IMMICH_EXPOSURE_REJECT_WITH=forbidden\n")
    machine.write(machine.state / "tls/server.crt", "certificate\n")
    machine.remember(
        active=RUNNING,
        answers=HEALTHY,
        built=str(machine.root / NEW[1:]),
        unchanged=words(machine, OLD),
        changed=words(machine, NEW, **ON),
    )
    return machine


def write_configuration(machine: Machine, text: str) -> None:
    """The user's configuration.nix, with a mode and a time of its own."""
    place = (machine.config / "configuration.nix").resolve()
    machine.write(place, text, 0o640)
    os.utime(place, (1_500_000_000, 1_500_000_000))


def apply(machine: Machine, upgrade: str = "no") -> Outcome:
    outcome = machine.run("module", "managed", str(machine.config), "8443", "-", "2283", upgrade)
    if outcome.status == 0:
        machine.remember(module=MODULE)
    return outcome


def restore(machine: Machine) -> Outcome:
    machine.remember(built=str(machine.root / OLD[1:]))
    return machine.run("module", "restore", str(machine.config))


def steps(machine: Machine) -> list[str]:
    """What was done to the system: not the questions that were asked."""
    asked = ("systemctl is-active", "systemctl --failed", "systemctl cat")
    names = ("nixos-rebuild", "nix-env", "systemd-run", "systemctl", "switch-to-configuration")
    return [line for line in machine.commands(*names) if not line.startswith(asked)]


def generation(machine: Machine) -> str:
    return (machine.root / "nix/var/nix/profiles/system").readlink().name


def running(machine: Machine) -> str:
    return (machine.root / "run/current-system").resolve().name


def configuration(machine: Machine) -> str:
    return machine.files(machine.config)["configuration.nix"]


KEPT = {".immich-exposure", "domain.env", "rebuild.log", "settings/edge.env", "tls/server.crt"}


def assert_as_before(machine: Machine, text: str = HOME) -> None:
    """The old generation runs and boots, configuration.nix is untouched, nothing of the attempt is left."""
    assert generation(machine) == "system-41-link"
    assert running(machine) == "old-system"
    assert configuration(machine) == f"0640 {text}"
    assert (machine.config / "configuration.nix").stat().st_mtime == 1_500_000_000
    assert set(machine.files(machine.state)) == KEPT
    assert_nothing_beside(machine)


def names_beside(machine: Machine) -> set[str]:
    return {path.name for path in machine.config.iterdir()}


def assert_nothing_beside(machine: Machine) -> None:
    """No copy of configuration.nix is left beside it."""
    assert names_beside(machine) == {"configuration.nix", "immich-exposure"}
    assert set(machine.files(machine.config / "immich-exposure")) == {".immich-exposure"}


def test_it_evaluates_builds_tests_looks_and_only_then_switches(machine: Machine) -> None:
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
    names = [line.split(" ")[0] for line in machine.commands("nix-instantiate", "nixos-rebuild")]
    # Once to look for another system, and two configurations.
    assert names == ["nix-instantiate", "nix-instantiate", "nix-instantiate", "nixos-rebuild"]
    assert generation(machine) == "system-42-link"
    assert configuration(machine) == f"0640 {WITH_OURS}"
    files = machine.files(machine.state)
    assert files["configuration.nix.after"] == f"0600 {WITH_OURS}"
    assert files["configuration.nix.before"] == f"0600 {HOME}"
    assert files["rebuild.log"] == "0600 build output\n"
    assert set(files) == {*KEPT, "configuration.nix.after", "configuration.nix.before"}
    assert_nothing_beside(machine)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LAN, SWAPPED),
        (LAN.replace("./lan", "./expose"), SWAPPED),
        ("{ imports = [\n# ./expose-immich.nix\n./lan-immich.nix ]; }\n",
         "{ imports = [\n# ./expose-immich.nix\n./immich-exposure ]; }\n"),
        (HOME, WITH_OURS),
    ],
)  # fmt: skip
def test_the_ways_in_and_out(machine: Machine, before: str, after: str) -> None:
    """What ./lan-immich.nix says still counts while our import stands in its place."""
    write_configuration(machine, before)
    result(apply(machine))
    assert configuration(machine) == f"0640 {after}"
    home = machine.config / "immich-exposure/home.nix"
    assert home.exists() is ("./lan-immich.nix" in before)
    if home.exists():
        assert f"imports = [ {machine.config}/lan-immich.nix ];" in home.read_text()
    result(restore(machine))
    assert configuration(machine) == f"0640 {before}"
    assert (machine.config / "configuration.nix").stat().st_mtime == 1_500_000_000
    assert_nothing_beside(machine)


@pytest.mark.parametrize("reverted", [False, True])
def test_what_our_folder_said_of_home_is_brought_back_with_it(machine: Machine, reverted: bool) -> None:
    """`git clean` takes the folder, of which the files are brought back before; `git checkout` our import."""
    write_configuration(machine, LAN)
    result(apply(machine))
    home = machine.config / "immich-exposure/home.nix"
    said = home.read_text()
    home.unlink()
    if reverted:
        write_configuration(machine, LAN)
    evaluates = f'[ -e {home} ] || {{ echo "error: settings are missing" >&2; exit 1; }}'
    machine.fake(
        "nix-instantiate",
        f"case $* in *toplevel=*) {evaluates} ;; esac\n" + textwrap.dedent(BODIES["nix-instantiate"]),
    )
    result(apply(machine))
    assert (home.read_text(), configuration(machine)) == (said, f"0640 {SWAPPED}")


def test_what_the_owner_has_taken_home_themselves_is_not_brought_twice(machine: Machine) -> None:
    write_configuration(machine, LAN)
    result(apply(machine))
    home = machine.config / "immich-exposure/home.nix"
    home.unlink()
    write_configuration(machine, SWAPPED.replace("./immich-exposure", "./immich-exposure ./lan-immich.nix"))
    result(apply(machine))
    assert not home.exists()


def test_a_swap_that_would_change_immich_is_not_taken(machine: Machine) -> None:
    """The evaluator gives changed settings for the first way alone."""
    write_configuration(machine, LAN)
    machine.remember(
        changed=words(machine, NEW, **ON, **{"setting:mediaLocation": "99", "setting:secretsFile": "98"}),
        then=words(machine, NEW, **ON),
    )
    body = BODIES["nix-instantiate"].replace(
        told := 'printf \'"%s"\' "$(cat "$FAKES/$words")"',
        f'{told}; [ $words = unchanged ] || cp "$FAKES/then" "$FAKES/changed"',
    )
    machine.fake("nix-instantiate", body)
    outcome = apply(machine)
    assert result(outcome) == {"generation": 42}
    assert "without them it would change Immich's mediaLocation secretsFile" in outcome.stderr
    assert configuration(machine) == "0640 " + LAN.replace("[ ./hard", "[ ./immich-exposure ./hard")
    assert_nothing_beside(machine)


def test_a_swap_that_would_lose_anything_is_not_taken(machine: Machine) -> None:
    """A firewall, say. With our module switched off the system must be what it was."""
    write_configuration(machine, LAN)
    machine.remember(changed=words(machine, NEW, **ON, off="/nix/store/without-a-firewall"))
    outcome = apply(machine)
    assert result(outcome) == {"generation": 42}
    assert "without them the system would lose some other setting" in outcome.stderr
    assert configuration(machine) == "0640 " + LAN.replace("[ ./hard", "[ ./immich-exposure ./hard")
    assert_nothing_beside(machine)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"setting:mediaLocation": "99"}, "it would change Immich's mediaLocation; correct that"),
        ({"exposure": "off"}, "would not be enabled, because another file decides that; correct that"),
        ({"exposure": "absent"}, "the list of imports that it stands in is not the one that counts; correct"),
        ({"lan": "keep"}, "it would change Immich's host; correct that"),
    ],
)
@pytest.mark.parametrize("text", [HOME, LAN])
def test_what_does_not_fit_is_refused_before_anything_is_built(
    machine: Machine, text: str, changes: dict[str, str], reason: str
) -> None:
    write_configuration(machine, text)
    machine.remember(changed=words(machine, NEW, **{**ON, **changes}))
    assert_sentence(apply(machine), "With ./immich-exposure in its imports", reason)
    assert steps(machine) == []
    assert_as_before(machine, text)


def test_with_lan_keep_the_host_stays(machine: Machine) -> None:
    machine.remember(changed=words(machine, NEW, **{**ON, "lan": "keep", "setting:host": "22"}))
    assert result(apply(machine)) == {"generation": 42}


def test_what_does_not_evaluate_is_refused(machine: Machine) -> None:
    machine.remember(changed="")
    assert_sentence(apply(machine), "it does not evaluate (undefined variable); correct that")
    assert_as_before(machine)
    machine.remember(unchanged="")
    assert_sentence(apply(machine), "does not evaluate even before any change; correct what Nix reports")
    assert steps(machine) == []
    assert_without_ours(machine)


@pytest.mark.parametrize("built_with_them", [False, True])
def test_a_configuration_that_takes_in_our_files_by_itself_is_told_of_them(
    machine: Machine, built_with_them: bool
) -> None:
    """They stay only where the running system was built with them."""
    place = machine.config / "immich-exposure/nix/package.nix"
    error = f"""echo "error: called without 'go', at {place}:1:1" >&2; exit 1"""
    fake = f"""case $* in *toplevel=*) if [ -e {place.parents[1]} ]; then {error}; fi ;; esac\n"""
    machine.fake("nix-instantiate", fake + textwrap.dedent(BODIES["nix-instantiate"]))
    if built_with_them:
        machine.write(machine.root / f"{OLD[1:]}/sw/bin/immich-exposure", "")
    remedy = "they were removed again, so exclude a folder of that name there and run this again"
    assert_sentence(
        apply(machine),
        "imports the files in /etc/nixos/immich-exposure, and does not evaluate with them (called without",
        '"pulumi destroy", which' if built_with_them else remedy,
    )
    assert_without_ours(machine, built_with_them)


def test_a_configuration_that_would_switch_us_on_by_itself_is_refused(machine: Machine) -> None:
    machine.remember(unchanged=words(machine, "/nix/store/other", **ON))
    assert_sentence(
        apply(machine, "yes"),
        "in /etc/nixos/immich-exposure, without the plain import ./immich-exposure; they were removed again",
    )
    assert steps(machine) == []
    assert_without_ours(machine)


def test_the_files_that_a_file_of_theirs_names_stay(machine: Machine) -> None:
    """Without them, the owner's own next rebuild would fail."""
    machine.write(machine.config / "more.nix", '{ imports = [ (./. + "/immich-exposure") ]; }')
    machine.remember(unchanged=words(machine, "/nix/store/other", **ON))
    assert_sentence(
        apply(machine, "yes"),
        "without the plain import ./immich-exposure (it is named in /etc/nixos/more.nix); exclude that",
    )
    assert names_beside(machine) == {"configuration.nix", "immich-exposure", "more.nix"}


def assert_without_ours(machine: Machine, stays: bool = False) -> None:
    """All is as it was, and our folder is there only if it stays."""
    assert configuration(machine) == f"0640 {HOME}"
    assert names_beside(machine) == {"configuration.nix", *(["immich-exposure"] if stays else [])}
    assert set(machine.files(machine.state)) == KEPT
    assert running(machine) == "old-system"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"nixos": "26.11.2"},
            "would also bring NixOS 26.11.2 instead of 26.05.1; bring the server up to date",
        ),
        ({"immich": "4.0.0"}, "Immich 4.0.0 instead of 3.0.2; bring"),
        (
            {"nixos": "26.11.2", "immich": "4.0.0"},
            "NixOS 26.11.2 instead of 26.05.1 and Immich 4.0.0 instead of",
        ),
        # Its configuration.nix may be a leftover: a rebuild would throw the running system away.
        (
            {},
            "(where the system is built from another place, by a flake or a deploy tool, set module: yours",
        ),
    ],
)
def test_an_upgrade_does_not_ride_along(machine: Machine, changes: dict[str, str], reason: str) -> None:
    machine.remember(unchanged=words(machine, "/nix/store/upgraded", **changes))
    assert_sentence(apply(machine), "The rebuild", reason, "allowUpgrade: true")
    assert steps(machine) == []
    assert_as_before(machine)
    outcome = apply(machine, "yes")
    assert result(outcome) == {"generation": 42}
    assert "The rebuild also brings " in outcome.stderr


def test_a_flake_beside_the_configuration_is_what_would_be_built(machine: Machine) -> None:
    machine.write(machine.config / "flake.nix", "{ }\n")
    assert_sentence(apply(machine), "comes from the flake in /etc/nixos", 'set flake: "/etc/nixos#')
    assert machine.commands("nix-instantiate") == []
    (machine.config / "flake.nix").unlink()
    assert_as_before(machine)


def test_nothing_is_put_beside_a_configuration_in_the_store(machine: Machine) -> None:
    made = machine.root / "nix/store/abc-dotfiles"
    made.mkdir(parents=True)
    (machine.config / "configuration.nix").rename(made / "configuration.nix")
    (machine.config / "configuration.nix").symlink_to(made / "configuration.nix")
    assert_sentence(apply(machine), "is generated by Nix, so nothing can be put beside it", "module: yours")
    assert machine.commands("nix-instantiate") == []


@pytest.mark.parametrize("nixos", ["26.05.1", "26.11.2"])
def test_a_flake_further_up_in_the_checkout_may_be_what_runs(machine: Machine, nixos: str) -> None:
    real = machine.root / "home/admin/infra/hosts/pi/configuration.nix"
    machine.write(real, HOME)
    link(machine.config / "configuration.nix", real)
    machine.write(real.parent / "immich-exposure/.immich-exposure", "ours\n")
    machine.write(machine.root / "home/admin/flake.nix", "{ }\n")
    infra = machine.root / "home/admin/infra"
    (infra / ".git").mkdir()
    machine.remember(unchanged=words(machine, "/nix/store/other", nixos=nixos))
    assert "the flake in" not in apply(machine).error, "it lies outside of the checkout"
    machine.write(infra / "flake.nix", "{ }\n")
    assert_sentence(
        apply(machine),
        "(the system may come from the flake in /home/admin/infra: then import the module there and set",
        'flake: "/home/admin/infra#',
    )
    machine.remember(unchanged=words(machine, OLD))
    assert result(apply(machine)) == {"generation": 42}, "the running system is that of configuration.nix"


@pytest.mark.parametrize("named", [False, True])
def test_a_system_nix_is_what_would_be_built(machine: Machine, named: bool) -> None:
    """Since NixOS 26.05; beside it configuration.nix is read by nobody."""
    place = machine.root / ("srv/fleet/default.nix" if named else "etc/nixos/system.nix")
    machine.write(place, "{ }\n")
    if named:
        machine.remember(**{"nixos-system": str(place)})
    assert_sentence(apply(machine), f"is built from {str(place)[len(str(machine.root)) :]}", "module: yours")
    assert not any("toplevel=" in line for line in machine.commands("nix-instantiate"))
    place.unlink()
    assert_as_before(machine)


def test_what_was_built_is_what_was_evaluated(machine: Machine) -> None:
    system(machine, "/nix/store/other-system")
    machine.remember(built=str(machine.root / "nix/store/other-system"))
    assert_sentence(
        apply(machine), "nixos-rebuild built a system other than the one in /etc/nixos/configuration.nix"
    )
    assert steps(machine) == [BUILD]
    assert_as_before(machine)


def test_a_system_that_holds_a_copy_of_its_configuration_is_looked_at_in_its_place(machine: Machine) -> None:
    """With system.copySystemConfiguration the candidate makes another one."""
    told = "words=changed\n"
    in_place = "case $words$2 in unchanged* | *-look.*) ;; *) words=in-place ;; esac\n"
    machine.fake("nix-instantiate", BODIES["nix-instantiate"].replace(told, told + in_place))
    machine.remember(
        **{"in-place": words(machine, NEW, **ON)}, changed=words(machine, "/nix/store/candidate", **ON)
    )
    assert result(apply(machine)) == {"generation": 42}


def test_files_that_are_not_ours_are_not_imported(machine: Machine) -> None:
    (machine.config / "immich-exposure/.immich-exposure").unlink()
    assert_sentence(apply(machine), "The files of the module are not in /etc/nixos/immich-exposure; install")
    assert configuration(machine) == f"0640 {HOME}"


def test_a_state_of_somebody_else_is_never_touched(machine: Machine) -> None:
    (machine.state / ".immich-exposure").unlink()
    before = machine.files(machine.root)
    assert_sentence(apply(machine), "/var/lib/immich-exposure was not made by this project", "move it away")
    assert machine.files(machine.root) == {**before, "run/lock/immich-exposure.lock": "0600 "}


def test_a_read_only_folder_is_left_without_a_trace(machine: Machine) -> None:
    machine.fake(
        "mktemp",
        'case $* in */etc/nixos/*) echo "Read-only file system" >&2; exit 1 ;; esac; exec /bin/mktemp "$@"',
    )
    assert_sentence(apply(machine), "Nothing can be written to /etc/nixos; make that folder writable")
    machine.unfake("mktemp")
    assert_as_before(machine)


def test_the_edge_is_asked_what_the_chapter_promises(machine: Machine) -> None:
    apply(machine)
    asked = [line.replace("--silent --noproxy * ", "") for line in machine.commands("curl")]
    edge = (
        "curl --max-time 10 --cacert /var/lib/immich-exposure/tls/server.crt "
        f"--resolve {DOMAIN}:8443:127.0.0.1 "
        "--output WORK/body --write-out %{{http_code}}{} https://" + f"{DOMAIN}:8443" + "{}"
    )
    assert asked == [
        # Before the change, and after it.
        *["curl --silent --fail --noproxy * --max-time 5 http://127.0.0.1:2283/api/server/ping"] * 2,
        edge.format(" --haproxy-protocol", "/api/server/config"),
        edge.format(" --haproxy-protocol", "/"),
        edge.format(" --haproxy-protocol", "/api/users/me"),
        edge.format("", "/"),
    ]


def test_an_edge_that_shall_hang_up_on_strangers_is_sound_when_it_does(machine: Machine) -> None:
    machine.write(machine.state / "settings/edge.env", "IMMICH_EXPOSURE_REJECT_WITH=drop\n")
    machine.remember(answers=re.sub(r" 403 .*", " 000", HEALTHY))
    assert result(apply(machine)) == {"generation": 42}


def test_an_edge_that_answers_strangers_against_the_settings_is_taken_back(machine: Machine) -> None:
    machine.write(machine.state / "settings/edge.env", "IMMICH_EXPOSURE_REJECT_WITH=drop\n")
    assert_sentence(apply(machine), "the edge does not hang up for / without a certificate")
    assert_as_before(machine)


def test_apply_again_only_looks(machine: Machine) -> None:
    apply(machine)
    machine.forget_commands()
    before = machine.files(machine.state)
    assert result(apply(machine)) == {"generation": 42}
    assert steps(machine) == []
    assert machine.files(machine.state) == {**before, "rebuild.log": "0600 "}
    assert configuration(machine) == f"0640 {WITH_OURS}"


# The configuration gives the newer system, unless it is looked at with the files of before.
LOOKS_AT_NEWER = """
    case $* in
      *toplevel=*) ;;
      *--find-file*) exit 1 ;;
    esac
    while [ "$1" != configuration ]; do shift; done
    words=newer
    ! grep -q module.before "$2" || words=changed
    printf '"%s"' "$(cat "$FAKES/$words")"
"""


def newer_files(machine: Machine) -> None:
    """What files.sh leaves for an update: newer files, and those that the running system was built from."""
    newer = "/nix/store/newer-system"
    system(machine, newer)
    machine.write(machine.state / "module.before/.immich-exposure", "ours\n")
    machine.fake("nix-instantiate", LOOKS_AT_NEWER)
    machine.remember(built=str(machine.root / newer[1:]), newer=words(machine, newer, **ON))


def test_changed_files_keep_the_first_copy_of_the_users_own(machine: Machine) -> None:
    """The files of before are what the running system is held against."""
    apply(machine)
    newer_files(machine)
    result(apply(machine))
    assert running(machine) == "newer-system"
    assert machine.files(machine.state)["configuration.nix.before"] == f"0600 {HOME}"
    assert not (machine.state / "module.before").exists()


def test_a_run_that_was_cut_off_at_its_very_end_is_not_an_upgrade(machine: Machine) -> None:
    """The newer files run, and those of before have not been taken away yet."""
    apply(machine)
    newer_files(machine)
    assert apply(machine).status == 0
    machine.write(machine.state / "module.before/.immich-exposure", "ours\n")
    outcome = apply(machine)
    assert (outcome.status, "already active" in outcome.stderr) == (0, True), outcome.stderr
    assert not (machine.state / "module.before").exists()


def test_a_run_whose_operator_has_died_comes_to_its_end(machine: Machine) -> None:
    """Nobody takes its answer, and nothing of the change is left half-way for the next run."""
    apply(machine)
    newer_files(machine)
    text = (SCRIPTS / "lib.sh").read_text() + "exec >/dev/full\n" + (SCRIPTS / "module.sh").read_text()
    arguments = ("managed", str(machine.config), "8443", "-", "2283", "no")
    assert machine.run_text(text, *arguments).stdout == ""
    assert (running(machine), generation(machine)) == ("newer-system", "system-42-link")
    assert not (machine.state / "module.before").exists()
    assert apply(machine).status == 0


def test_a_run_that_was_cut_off_before_it_was_active_is_not_an_upgrade(machine: Machine) -> None:
    """configuration.nix imports the module already, and the running system does not have it."""
    write_configuration(machine, WITH_OURS)
    assert result(apply(machine)) == {"generation": 42}
    assert (machine.fakes / "looked-at-unchanged").read_text().startswith(HOME)


def test_an_immich_that_does_not_run_needs_not_answer(machine: Machine) -> None:
    """Its drive is locked: all is prepared, strangers are refused, and the way back ends as well."""
    machine.remember(answers=LOCKED)
    outcome = apply(machine)
    assert result(outcome) == {"generation": 42}
    assert "does not answer, as before" in outcome.stderr
    machine.forget_commands()
    outcome = restore(machine)
    assert result(outcome) == {"generation": 42}
    assert "this does not wait for it" in outcome.stderr
    done = steps(machine)
    tested = done.index("switch-to-configuration old-system test")
    assert done[tested + 1] == STOP_HOME, "a timer may have opened sockets where Immich will listen"
    assert configuration(machine) == f"0640 {HOME}"


def test_strangers_are_refused_also_while_immich_does_not_run(machine: Machine) -> None:
    machine.remember(answers=LOCKED.replace("yes / 403", "yes / 502"))
    assert_sentence(apply(machine), "does not answer 403 for / without a certificate")
    assert_as_before(machine)


def test_an_immich_that_ran_must_answer_after_the_way_back(machine: Machine) -> None:
    apply(machine)
    machine.fake("sleep", BODIES["sleep"].replace("+ 30", "+ 300"))
    current = '"$(readlink -f "$IMMICH_EXPOSURE_ROOT/run/current-system")"'
    activated = f'[ {current} = "$(cat "$FAKES/built")" ] && exit 7\n'
    machine.fake("curl", activated + textwrap.dedent(BODIES["curl"]))
    assert_sentence(restore(machine), "Immich no longer answers on port 2283")
    assert configuration(machine) == f"0640 {WITH_OURS}"
    assert running(machine) == "new-system"


def test_the_units_are_started_when_their_files_came_later(machine: Machine) -> None:
    machine.remember(active="")
    machine.fake("systemctl", STARTS + textwrap.dedent(BODIES["systemctl"]))
    assert result(apply(machine)) == {"generation": 42}
    assert [step for step in steps(machine) if step.startswith("systemctl start")] == STARTED


STARTED = [f"systemctl start {unit if '.' in unit else f'{unit}.service'}" for unit in UNITS]
STARTS = '[ "$1" != start ] || echo "${2%.service}" >>"$FAKES/active"\n'


STOP_HOME = "systemctl stop immich-exposure-lan@*.socket immich-exposure-lan@*.service"


def test_restore_brings_back_every_byte(machine: Machine) -> None:
    apply(machine)
    machine.forget_commands()
    assert result(restore(machine)) == {"generation": 42}
    assert steps(machine) == [
        "systemctl stop immich-exposure-lease-end.timer",
        BUILD,
        "switch-to-configuration old-system check",
        DISARM,
        ARM.replace(f"system-41-link {OLD}", f"system-42-link {NEW}"),
        STOP_HOME,
        IN_UNIT.format("rebuild", f"{OLD}/bin/switch-to-configuration test"),
        "switch-to-configuration old-system test",
        STOP_HOME,  # again, for what a timer has opened in between
        f"nix-env --profile /nix/var/nix/profiles/system --set {OLD}",
        IN_UNIT.format("switch", f"{OLD}/bin/switch-to-configuration switch"),
        "switch-to-configuration old-system switch",
        DISARM,
    ]
    assert configuration(machine) == f"0640 {HOME}"
    assert (machine.config / "configuration.nix").stat().st_mtime == 1_500_000_000
    assert set(machine.files(machine.state)) == KEPT


def test_restore_twice_does_nothing(machine: Machine) -> None:
    apply(machine)
    restore(machine)
    machine.forget_commands()
    outcome = restore(machine)
    assert outcome == Outcome(0, "", "/etc/nixos/configuration.nix contains nothing of the exposure\n")
    assert steps(machine) == ["systemctl stop immich-exposure-lease-end.timer"]
    assert configuration(machine) == f"0640 {HOME}"


def test_restore_goes_home_where_one_that_was_cut_off_has_left_no_note(machine: Machine) -> None:
    """The folder of the exposure was deleted, and the way home died between the import and the build."""
    apply(machine)
    machine.write(machine.root / f"{NEW[1:]}/sw/bin/immich-exposure", "")
    shutil.rmtree(machine.state)
    write_configuration(machine, HOME)
    machine.forget_commands()
    assert result(restore(machine)) == {"generation": 42}
    assert "switch-to-configuration old-system switch" in steps(machine)
    assert configuration(machine) == f"0640 {HOME}"
    assert restore(machine).stderr == "/etc/nixos/configuration.nix contains nothing of the exposure\n"


def test_restore_ends_when_the_configuration_was_moved_away(machine: Machine) -> None:
    """Its owner went over to a flake: the units rest, Immich is open at home, and nothing of ours is left."""
    write_configuration(machine, LAN)
    result(apply(machine))
    machine.write(machine.state / "lan", "closed\n")
    machine.remember(units="immich-exposure-lan.service")
    place = machine.config / "configuration.nix"
    place.rename(machine.root / "moved.nix")
    for _ in range(2):
        machine.forget_commands()
        outcome = restore(machine)
        assert (outcome.status, outcome.stdout) == (0, ""), outcome.stderr
        assert "/etc/nixos/configuration.nix no longer exists" in outcome.stderr
        assert {"systemctl stop immich-edge", "systemctl stop immich-bans"} <= set(steps(machine))
        assert steps(machine)[-1] == "systemctl restart immich-exposure-lan.service"
        assert machine.commands("nixos-rebuild") == []
    assert set(machine.files(machine.state)) == KEPT
    assert set(machine.files(machine.config)) == {"immich-exposure/.immich-exposure"}


@pytest.mark.parametrize(
    ("before", "lost", "back"),
    [
        (HOME, False, HOME),
        (HOME, True, HOME),
        (LAN, False, LAN),
        (LAN, True, LAN),
        (LAN.replace("./lan", "./expose"), False, LAN.replace("./lan", "./expose")),
        # Nothing says any more what stood there.
        (LAN.replace("./lan", "./expose"), True, HOME),
    ],
)
def test_restore_keeps_what_the_user_edited_since(
    machine: Machine, before: str, lost: bool, back: str
) -> None:
    """Also where the folder of the exposure was lost, as on a server whose root is wiped at each boot."""
    write_configuration(machine, before)
    apply(machine)
    place = machine.config / "configuration.nix"
    machine.write(place, place.read_text().replace("as always", "ssh keys changed"), 0o640)
    if lost:
        shutil.rmtree(machine.state)
    result(restore(machine))
    assert configuration(machine) == "0640 " + back.replace("as always", "ssh keys changed")


@pytest.mark.parametrize("before", [HOME, LAN, LAN.replace("./lan", "./expose")])
def test_restore_knows_what_stood_there_when_our_folder_was_removed_by_hand(
    machine: Machine, before: str
) -> None:
    write_configuration(machine, before)
    apply(machine)
    shutil.rmtree(machine.config / "immich-exposure")
    edit(machine)
    result(restore(machine))
    assert configuration(machine) == f"0640 {before}{EDIT}"


def test_restore_does_not_bring_twice_what_the_user_brought_back(machine: Machine) -> None:
    write_configuration(machine, LAN)
    apply(machine)
    shutil.rmtree(machine.config / "immich-exposure")
    text = "{ imports = [ ./immich-exposure ./lan-immich.nix ]; }\n"
    write_configuration(machine, text)
    result(restore(machine))
    assert configuration(machine) == "0640 { imports = [ ./lan-immich.nix ]; }\n"


EDIT = "# an ssh key\n"
EDITS = f"""echo '{EDIT.strip()}' >>"$IMMICH_EXPOSURE_ROOT/etc/nixos/configuration.nix"\n"""


def edit(machine: Machine) -> None:
    """What the owner adds to configuration.nix meanwhile."""
    with (machine.config / "configuration.nix").open("a") as place:
        place.write(EDIT)


@pytest.mark.parametrize("before", [HOME, LAN])
def test_an_edit_during_a_build_that_fails_stays(machine: Machine, before: str) -> None:
    write_configuration(machine, before)
    machine.fake("nixos-rebuild", EDITS + textwrap.dedent(BODIES["nixos-rebuild"]))
    break_build(machine)
    outcome = apply(machine)
    assert_sentence(outcome, "does not build")
    assert "edited in the meantime; removing only ./immich-exposure" in outcome.stderr
    assert configuration(machine) == f"0640 {before}{EDIT}"
    assert_nothing_beside(machine)
    assert set(machine.files(machine.state)) == KEPT


def test_an_edit_during_an_activation_that_fails_stays(machine: Machine) -> None:
    machine.fake("nixos-rebuild", EDITS + textwrap.dedent(BODIES["nixos-rebuild"]))
    break_activation(machine)
    assert_sentence(apply(machine), "its activation failed")
    assert configuration(machine) == f"0640 {HOME}{EDIT}"
    assert (generation(machine), running(machine)) == ("system-41-link", "old-system")


def test_an_edit_while_the_configuration_is_looked_at_stays(machine: Machine) -> None:
    looks = "case $* in *toplevel=*) " + EDITS.strip() + " ;; esac\n"
    machine.fake("nix-instantiate", looks + textwrap.dedent(BODIES["nix-instantiate"]))
    assert_sentence(
        apply(machine), "/etc/nixos/configuration.nix was edited in the meantime", "run this again"
    )
    assert configuration(machine) == f"0640 {HOME}{EDIT * 2}"
    assert steps(machine) == []


def test_an_edit_during_a_way_back_that_fails_stays(machine: Machine) -> None:
    apply(machine)
    machine.fake("nixos-rebuild", EDITS + textwrap.dedent(BODIES["nixos-rebuild"]))
    break_build(machine)
    assert_sentence(restore(machine), "does not build")
    assert configuration(machine) == f"0640 {HOME}{EDIT}"
    (machine.fakes / "build-fails").unlink()
    machine.fake("nixos-rebuild", BODIES["nixos-rebuild"])
    result(restore(machine))
    assert configuration(machine) == f"0640 {HOME}{EDIT}"
    assert set(machine.files(machine.state)) == KEPT


THEIRS = "/nix/store/their-system"
REBUILDS = """
if [ "$(grep -c "^REBUILT" "$FAKES/record")" -lt "$(cat "$FAKES/times")" ]; then
  echo REBUILT >>"$FAKES/record"
  n=$((100 + $(grep -c "^REBUILT" "$FAKES/record")))
  root=$IMMICH_EXPOSURE_ROOT
  theirs=$root/nix/store/their-system-$n
  echo "# their own $n" >>"$root/etc/nixos/configuration.nix"
  cp -r "$root/nix/store/their-system" "$theirs"
  ln -sfn "$theirs" "$root/run/current-system"
  ln -sfn "$theirs" "$root/nix/var/nix/profiles/system-$n-link"
  ln -sfn "system-$n-link" "$root/nix/var/nix/profiles/system"
  sed "s,toplevel=[^ ]*,toplevel=$theirs," "$FAKES/changed" >"$FAKES/unchanged"
  cp "$FAKES/unchanged" "$FAKES/changed"
  cp "$FAKES/their-module" "$FAKES/module"
fi
"""
"""The owner edits configuration.nix and rebuilds it; our import stands there already."""


def rebuilt_meanwhile(machine: Machine, program: str, times: int = 1) -> None:
    """The owner rebuilds while this program runs."""
    system(machine, THEIRS)
    machine.remember(times=str(times), **{"their-module": MODULE})
    when = (
        "true"
        if program == "nixos-rebuild"
        else 'readlink "$IMMICH_EXPOSURE_ROOT/run/current-system" | grep -q new'
    )
    machine.fake(program, f"if {when}; then {REBUILDS} fi\n" + textwrap.dedent(BODIES[program]))


@pytest.mark.parametrize("during", ["nixos-rebuild", "curl"])
def test_what_its_owner_rebuilds_meanwhile_is_not_taken_back(machine: Machine, during: str) -> None:
    """In a long build, or while the new system is looked at: ours lacks their edit."""
    rebuilt_meanwhile(machine, during)
    outcome = apply(machine)
    assert outcome.status == 0, outcome.stderr
    assert "Somebody else has rebuilt the server in the meantime, so this starts over" in outcome.stderr
    assert (generation(machine), running(machine)) == ("system-101-link", "their-system-101")
    assert configuration(machine) == f"0640 {WITH_OURS}# their own 101\n"
    assert "switch-to-configuration new-system switch" not in steps(machine)
    assert steps(machine)[-1] == DISARM or "new-system test" not in str(steps(machine))


def test_who_rebuilds_again_and_again_is_waited_for(machine: Machine) -> None:
    """In the build of ours, and then each time while the result is looked at."""
    rebuilt_meanwhile(machine, "nixos-rebuild", times=9)
    looks = 'case $* in *toplevel=*) grep -q "^REBUILT" "$FAKES/record" ;; *) false ;; esac'
    body = textwrap.dedent(BODIES["nix-instantiate"])
    machine.fake("nix-instantiate", f"if {looks}; then {REBUILDS} fi\n{body}")
    assert_sentence(apply(machine), "Somebody else keeps rebuilding the server", "run this again")
    assert running(machine).startswith("their-system-")
    assert not [step for step in steps(machine) if "new-system" in step]


def still_has_the_module(machine: Machine) -> None:
    """The owner imports our folder by another way, and has built that."""
    machine.write(machine.root / f"{NEW[1:]}/sw/bin/immich-exposure", "")
    link(machine.root / "run/current-system", machine.root / NEW[1:])
    machine.remember(built=str(machine.root / NEW[1:]))


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("{ imports = [ ./immich-exposure/default.nix ]; }\n", None),
        ("{ imports = [ ./mine.nix ]; }\n", "{ imports = [ ./immich-exposure ]; }\n"),
        ("{ imports = [ ./immich-exposure ./mine.nix ]; }\n", "{ imports = [ ./immich-exposure ]; }\n"),
    ],
)
def test_the_ways_back_keep_a_folder_that_is_imported_by_another_way(
    machine: Machine, text: str, other: str | None, lost: bool
) -> None:
    """Else none of the owner's rebuilds would succeed any more; and Immich stays open at home."""
    write_configuration(machine, LAN)
    apply(machine)
    still_has_the_module(machine)
    write_configuration(machine, text)
    if other:
        machine.write(machine.config / "mine.nix", other)
    if lost:
        shutil.rmtree(machine.state)
    before = machine.files(machine.config)
    assert "immich-exposure/home.nix" in before
    machine.forget_commands()
    named = f"(it is named in /etc/nixos/{'mine' if other else 'configuration'}.nix)"
    outcome = machine.run("module", "restore", str(machine.config))
    if outcome.status:
        assert_sentence(outcome, named, "once /etc/nixos/immich-exposure is removed", "remove every import")
        assert STOP_HOME not in steps(machine)
    else:
        assert lost, outcome.stderr
    assert machine.run("files", "remove", str(machine.config)).status != 0
    assert machine.files(machine.config) == before
    # And then as the sentence says.
    write_configuration(machine, HOME)
    machine.remember(built=str(machine.root / OLD[1:]))
    link(machine.root / "run/current-system", machine.root / OLD[1:])
    assert restore(machine).status == 0
    assert machine.run("files", "remove", str(machine.config)).status == 0


def test_restore_closes_the_funnel_before_anything_else(machine: Machine) -> None:
    apply(machine)
    machine.forget_commands()
    machine.remember(**{"serve.json": OPEN})
    result(restore(machine))
    order = machine.commands("tailscale", "nixos-rebuild")
    assert order.index("tailscale funnel reset") < order.index(BUILD)


# It says yes and does nothing.
STUBBORN = textwrap.dedent(BODIES["tailscale"]).replace('echo "{}" >"$FAKES/serve.json"', ":")


def test_restore_stops_when_the_funnel_stays_open(machine: Machine) -> None:
    apply(machine)
    machine.remember(**{"serve.json": OPEN})
    machine.fake("tailscale", STUBBORN)
    machine.forget_commands()
    assert_sentence(restore(machine), "port 443 is still configured", "sudo tailscale funnel reset")
    assert machine.commands("nixos-rebuild") == []
    assert configuration(machine) == f"0640 {WITH_OURS}"


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
          cat*) exit 1 ;;
          --failed*new-system) printf "%s loaded failed failed x\\n" immich-edge.service old.service ;;
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
          cat*) exit 1 ;;
          "show --property=ReloadResult --value immich-edge") echo exit-code ;;
        esac""",
    )


def break_the_edge(machine: Machine) -> None:
    machine.remember(active="immich-bans")


def break_immich(machine: Machine) -> None:
    """It answers until the new system is active."""
    machine.remember(later=HEALTHY.replace('ping 200 {"res":"pong"}', "ping 000"))
    active = '[ "$(basename "$(readlink -f "$IMMICH_EXPOSURE_ROOT/run/current-system")")" = old-system ] ||'
    machine.fake("curl", f'{active} cp "$FAKES/later" "$FAKES/answers"\n' + textwrap.dedent(BODIES["curl"]))


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
    (break_a_unit, "these units failed in it: immich-edge.service. The lines"),
    (
        break_the_reload,
        'immich-edge did not load its new configuration (see "journalctl -u immich-edge")',
    ),
    (break_the_edge, 'immich-edge is not running (see "journalctl -u immich-edge")'),
    (break_immich, "Immich no longer answers on port 2283"),
    (let_anyone_in, "does not answer 403 for / without a certificate"),
    (refuse_without_json, "does not answer 403 for /api/users/me without a certificate"),
    (keep_everyone_out, "the edge does not let /api/server/config through"),
    (talk_without_header, "answers connections without a PROXY header"),
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


def test_a_new_system_stands_behind_a_short_lease_until_it_is_proven(machine: Machine) -> None:
    apply(machine)
    machine.write(machine.state / "lease", "confirmed\n")
    apply(machine)
    assert (machine.state / "lease").read_text() == "confirmed\n", "it runs already"
    newer_files(machine)
    assert apply(machine).status == 0
    assert (machine.state / "lease").read_text().startswith("trial 600 ")
    activated = [step for step in steps(machine) if "--on-active=600" in step or "newer-system test" in step]
    assert "--on-active=600" in activated[0], "before it is active"


def test_failed_change_of_an_exposed_server_keeps_it_exposed(machine: Machine) -> None:
    apply(machine)
    before = machine.files(machine.state)
    newer_files(machine)
    machine.remember(**{"fail-test-newer-system": "2"})
    assert_sentence(apply(machine), "its activation failed")
    assert (generation(machine), running(machine)) == ("system-42-link", "new-system")
    assert configuration(machine) == f"0640 {WITH_OURS}"
    assert set(machine.files(machine.state)) == {*before, "module.before/.immich-exposure"}


def test_what_runs_already_is_not_said_to_be_taken_back(machine: Machine) -> None:
    apply(machine)
    let_anyone_in(machine)
    assert_sentence(
        apply(machine), "was already active, but the edge does not answer 403 for / without", "fix that"
    )
    assert (generation(machine), running(machine)) == ("system-42-link", "new-system")


def test_a_unit_that_had_failed_before_is_no_reason_to_go_back(machine: Machine) -> None:
    machine.remember(
        failed="old.service loaded failed failed x",
        **{"fail-test-new-system": "4", "fail-switch-new-system": "4"},
    )
    assert result(apply(machine)) == {"generation": 42}


def test_an_edge_that_was_stopped_is_started_again(machine: Machine) -> None:
    """A funnel that could not be closed stops it, and a change of something else would not start it."""
    result(apply(machine))
    machine.remember(active="immich-bans")
    machine.fake("systemctl", STARTS + textwrap.dedent(BODIES["systemctl"]))
    assert result(apply(machine)) == {"generation": 42}


def test_an_edge_that_ends_a_moment_later_is_noticed(machine: Machine) -> None:
    machine.fake("sleep", 'echo immich-bans >"$FAKES/active"')
    assert_sentence(apply(machine), "immich-edge is not running")
    assert_as_before(machine)


def test_immich_may_take_its_time(machine: Machine) -> None:
    break_immich(machine)
    machine.remember(healthy=HEALTHY)
    machine.fake("sleep", 'cp "$FAKES/healthy" "$FAKES/later"; ' + BODIES["sleep"])
    assert result(apply(machine)) == {"generation": 42}


def killed_while_it_looks(machine: Machine) -> str:
    """Kill a change after its activation; return what its armed timer would run."""
    active = 'case $(readlink "$IMMICH_EXPOSURE_ROOT/run/current-system") in *new-system) {} ;; esac\n'
    kill = active.format("kill -9 $PPID; kill -9 $(cat $FAKES/shell)")
    machine.fake("curl", kill + textwrap.dedent(BODIES["curl"]))
    machine.fake("id", 'echo $PPID >"$FAKES/shell"; echo 0')
    with pytest.raises(AssertionError, match="left its private folder behind"):
        apply(machine)
    assert configuration(machine) == f"0640 {WITH_OURS}"
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
        machine.remember(active="immich-edge\nimmich-bans\nimmich-exposure-rollback.timer")
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
    assert configuration(machine) == f"0640 {HOME}"


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("timer_has_fired", [False, True])
def test_the_ways_back_of_a_killed_run_leave_nothing(
    machine: Machine, timer_has_fired: bool, edited: bool
) -> None:
    """What the guards' ends run, in the order of destroy; what the owner has edited since is kept."""
    machine.write(machine.root / f"{NEW[1:]}/sw/bin/immich-exposure", "")
    armed = killed_while_it_looks(machine)
    if edited:
        edit(machine)
    if timer_has_fired:
        assert machine.run_text(armed).status == 0
    else:
        machine.remember(active="immich-exposure-rollback.timer")
        begun = f"""case "$*" in 'start immich-exposure-rollback.service') {armed} ;; esac\n"""
        machine.fake("systemctl", begun + textwrap.dedent(BODIES["systemctl"]))
    assert restore(machine).status == 0
    machine.remember(active="")
    assert restore(machine).status == 0
    assert machine.run("files", "remove", str(machine.config)).status == 0
    assert machine.run("state", "remove").status == 0
    assert running(machine) == "old-system"
    assert machine.files(machine.config) == {"configuration.nix": f"0640 {HOME}{EDIT * edited}"}
    assert not machine.state.exists()


@pytest.mark.parametrize(
    "text",
    [
        "{ }\n",
        "{ imports = map f [ ./a ]; }\n",
        "let x = { imports = [ ./a ]; }; in x\n",
        "# imports = [ ]\n{ imports = lib.optional true ./a; }\n",
    ],
)
def test_a_configuration_that_cannot_be_added_to_is_left_alone(machine: Machine, text: str) -> None:
    write_configuration(machine, text)
    assert_sentence(apply(machine), "has no plain list", "add ./immich-exposure to its imports yourself")
    assert steps(machine) == []
    assert_as_before(machine, text)


def test_an_import_that_the_user_added_is_used_and_stays(machine: Machine) -> None:
    text = "{ imports = map f [ ./immich-exposure ]; }\n"
    write_configuration(machine, text)
    machine.remember(module=MODULE)
    link(machine.root / "run/current-system", machine.root / NEW[1:])
    assert result(apply(machine)) == {"generation": 42}
    assert configuration(machine) == f"0640 {text}"


def test_a_configuration_that_is_a_mount_point_is_left_without_a_trace(machine: Machine) -> None:
    """Some persist the one file, with a bind mount."""
    busy = 'case $* in */configuration.nix) echo "mv: cannot move: busy" >&2; exit 1 ;; esac\n'
    machine.fake("mv", busy + 'exec /bin/mv "$@"')
    outcome = apply(machine)
    assert_sentence(outcome, "/etc/nixos/configuration.nix cannot be replaced", "set module: yours")
    assert "mv:" not in outcome.stderr
    machine.unfake("mv")
    assert_as_before(machine)


def test_a_configuration_with_another_name_is_left_alone(machine: Machine) -> None:
    """A new file in its place would part the two names."""
    other = machine.root / "home/the-same.nix"
    other.parent.mkdir()
    os.link(machine.config / "configuration.nix", other)
    assert_sentence(apply(machine), "also has another name (a hard link)", "set module: yours")
    assert other.samefile(machine.config / "configuration.nix")
    assert steps(machine) == []
    assert_as_before(machine)


def test_linked_configuration_stays_a_link(machine: Machine) -> None:
    """Nix reads ./x.nix beside the file that the link leads to: all of ours is there."""
    real = machine.root / "home/admin/server/configuration.nix"
    machine.write(real, HOME)
    link(machine.config / "configuration.nix", real)
    assert_sentence(apply(machine), "The files of the module are not in /home/admin/server/immich-exposure")
    machine.write(real.parent / "immich-exposure/.immich-exposure", "ours\n")
    write_configuration(machine, HOME)
    result(apply(machine))
    looked = [line for line in machine.commands("nix-instantiate") if "immich-exposure-look" in line]
    assert looked and all("/home/admin/server/immich-exposure-look." in line for line in looked)
    assert (machine.config / "configuration.nix").is_symlink()
    assert real.read_text() == WITH_OURS
    assert {path.name for path in real.parent.iterdir()} == {"configuration.nix", "immich-exposure"}
    result(restore(machine))
    assert (machine.config / "configuration.nix").is_symlink()
    assert (real.read_text(), real.stat().st_mtime) == (HOME, 1_500_000_000)


@pytest.mark.parametrize("way", [apply, restore])
def test_a_copy_that_a_killed_run_left_is_removed_and_nobody_elses(
    machine: Machine, way: Callable[[Machine], Outcome]
) -> None:
    mark = "# A copy that immich-exposure looks at; it may be removed.\n"
    machine.write(machine.config / "immich-exposure-look.AAAAAA", HOME + mark)
    machine.write(machine.config / "immich-exposure-look.BBBBBB", "mine\n")
    machine.write(machine.config / "immich-exposure-look.CCCCCC", "")
    machine.write(machine.config / "immich-exposure-new.DDDDDD", HOME)
    machine.write(machine.config / "immich-exposure/.immich-exposure.EEEEEE", HOME)
    theirs = {f"immich-exposure-{name}" for name in ("look.BBBBBB", "look.CCCCCC", "new.DDDDDD")}
    assert way(machine).status == 0
    assert names_beside(machine) == {"configuration.nix", "immich-exposure", *theirs}
    assert ".immich-exposure.EEEEEE" not in machine.files(machine.config / "immich-exposure")


def test_without_its_state_the_way_back_does_not_speak_of_edits(machine: Machine) -> None:
    apply(machine)
    shutil.rmtree(machine.state)
    outcome = restore(machine)
    assert "was before is no longer known; removing only ./immich-exposure" in outcome.stderr
    assert configuration(machine) == f"0640 {HOME}"


def test_what_is_not_a_prepared_nixos_is_refused(machine: Machine) -> None:
    domain = machine.state / "domain.env"
    text = domain.read_text()
    domain.unlink()
    assert_sentence(apply(machine), "get the server's certificate first")
    domain.write_text(text)
    assert_as_before(machine)
    (machine.config / "configuration.nix").unlink()
    assert_sentence(apply(machine), "There is no /etc/nixos/configuration.nix", "set configDir")
    (machine.root / "etc/NIXOS").unlink()
    assert_sentence(apply(machine), "does not run NixOS; set host")
    assert steps(machine) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("managed", "nixos", "8443", "-", "2283", "no"), "absolute paths; correct"),
        (("managed", "/etc/nixos", "x", "-", "2283", "no"), "The proxyPort must be a whole number"),
        (("managed", "/etc/nixos", "8443", "-x", "2283", "no"), "plain address such as 127.0.0.1"),
        (("managed", "/etc/nixos", "8443", "", "2283", "no"), "plain address such as"),
        (("managed", "/etc/nixos", "8443", "-", "", "no"), "The immich.port must be a whole number"),
        (("managed", "/etc/nixos", "8443", "-", "2283", "perhaps"), "yes or no"),
        (("flake", "/etc/nixos", "a;b", "8443", "-", "2283", "no"), "A host of a flake is a plain name"),
        (("flake", "/etc/nixos"), "A host of a flake is a plain name"),
        (("restore", "nixos"), "absolute paths; correct"),
        (("leave", "now"), "correct the arguments"),
        ((), "correct the arguments"),
    ],
)
def test_arguments_are_checked(machine: Machine, arguments: tuple[str, ...], reason: str) -> None:
    assert_sentence(machine.run("module", *arguments), reason)
    assert_as_before_or_untouched(machine)


def assert_as_before_or_untouched(machine: Machine) -> None:
    assert steps(machine) == []
    assert configuration(machine) == f"0640 {HOME}"


def test_restore_of_a_server_without_anything_is_fine(machine: Machine) -> None:
    (machine.config / "configuration.nix").unlink()
    (machine.root / "etc/NIXOS").unlink()
    assert restore(machine).status == 0


def test_restore_of_somebody_elses_server_closes_nothing(machine: Machine) -> None:
    """A funnel to the same port that was opened by hand, and nothing of ours anywhere."""
    shutil.rmtree(machine.state)
    assert restore(machine).status == 0
    assert machine.commands("tailscale") == []
    assert not machine.state.exists()


# ---- Flakes, and the user's own way


def flake(machine: Machine, upgrade: str = "no") -> Outcome:
    folder = str(machine.root / "home/admin/infra")
    return machine.run("module", "flake", folder, "pi", "8443", "-", "2283", upgrade)


EVALUATES_A_FLAKE = """\
case $* in *'priority = 0'*) words=unchanged ;; *) words=changed ;; esac
[ -n "$(cat "$FAKES/$words")" ] || { echo "error: no such host" >&2; exit 1; }
printf '"%s"' "$(cat "$FAKES/$words")"
"""


@pytest.fixture
def flaked(machine: Machine) -> Machine:
    """A server that is built from a flake with the module in it, and not yet the running system."""
    machine.write(machine.root / "home/admin/infra/flake.nix", "{ }\n")
    machine.fake("nix", EVALUATES_A_FLAKE)
    return machine


@pytest.mark.parametrize("git", [False, True])
def test_a_flake_is_built_as_its_owner_would(flaked: Machine, git: bool) -> None:
    if git:
        (flaked.root / "home/admin/.git").mkdir()
    reference = "/home/admin/infra" if git else "path:/home/admin/infra"
    before = flaked.files(flaked.root / "home")
    assert result(flake(flaked)) == {"generation": 42}
    assert steps(flaked)[0] == f"nixos-rebuild build --flake {reference}#pi --no-write-lock-file"
    evaluations = "\n".join(flaked.commands())
    assert evaluations.count(f'{reference}#nixosConfigurations."pi"') == 2
    assert evaluations.count("eval --no-write-lock-file --json") == 2
    assert flaked.files(flaked.root / "home") == before
    assert "system-41-link /nix/store/old-system" in next(
        line for line in steps(flaked) if "--on-active" in line
    )


def test_a_flake_that_runs_already_is_only_looked_at(flaked: Machine) -> None:
    result(flake(flaked))
    flaked.remember(module=MODULE)
    flaked.forget_commands()
    assert result(flake(flaked)) == {"generation": 42}
    assert steps(flaked) == []


def test_a_failed_flake_ends_where_it_began(flaked: Machine) -> None:
    flaked.remember(**{"fail-test-new-system": "2"})
    assert_sentence(flake(flaked), "its activation failed")
    assert_as_before(flaked)


@pytest.mark.parametrize(
    ("unchanged", "changed", "reason"),
    [
        (
            {},
            {"exposure": "absent"},
            "does not have services.immich-exposure.enable = true; import the module there",
        ),
        ({"nixos": "26.11.2"}, {}, "would also bring NixOS 26.11.2 instead of 26.05.1; bring"),
        ({}, {"setting:mediaLocation": "99"}, "changes Immich's mediaLocation; correct that"),
    ],
)
def test_a_flake_is_looked_at_as_closely(
    flaked: Machine, unchanged: dict[str, str], changed: dict[str, str], reason: str
) -> None:
    toplevel = "/nix/store/other" if unchanged else OLD
    flaked.remember(
        unchanged=words(flaked, toplevel, **unchanged), changed=words(flaked, NEW, **{**ON, **changed})
    )
    assert_sentence(flake(flaked), reason)
    assert steps(flaked) == []
    assert_as_before(flaked)


def test_a_commit_alone_may_make_another_flake(flaked: Machine) -> None:
    """Many flakes write their revision into the system, and the commit that brings our module is one more."""
    flaked.remember(unchanged=words(flaked, "/nix/store/other"))
    assert_sentence(
        flake(flaked), "than the running one (a new commit alone is one, where", "allowUpgrade: true"
    )


@pytest.mark.parametrize("which", ["*", "*'priority = 0'*"])
def test_a_checkout_of_somebody_elses_is_named_with_its_remedy(flaked: Machine, which: str) -> None:
    (flaked.root / "home/admin/.git").mkdir()
    foreign = "echo \"error: repository path '/x' is not owned by current user\" >&2; exit 1"
    flaked.fake("nix", f"case $* in {which}) {foreign} ;; esac\n{EVALUATES_A_FLAKE}")
    flaked.remember(unchanged=words(flaked, "/nix/store/other"))
    assert_sentence(
        flake(flaked), "in /home/admin as root", '"git config --global --add safe.directory /home/admin"'
    )


def test_an_update_of_the_module_in_a_flake_is_no_upgrade_but_one_of_nixos_is(flaked: Machine) -> None:
    flaked.remember(module=MODULE)
    result(flake(flaked))
    flaked.remember(changed=words(flaked, "/nix/store/newer", **ON, immich="4.0.0"))
    assert_sentence(
        flake(flaked), "The rebuild of path:/home/admin/infra#pi would also bring Immich 4.0.0 instead"
    )


def test_a_host_that_the_flake_does_not_have(flaked: Machine) -> None:
    flaked.remember(changed="")
    assert_sentence(flake(flaked), "does not evaluate (is pi one of its nixosConfigurations?)")
    (flaked.root / "home/admin/infra/flake.nix").unlink()
    assert_sentence(flake(flaked), "There is no /home/admin/infra/flake.nix", "set flake to DIR#HOST")


def yours(machine: Machine) -> Outcome:
    return machine.run("module", "yours", "8443", "-", "2283")


def test_yours_builds_nothing_and_starts_the_units(machine: Machine) -> None:
    machine.remember(active="", module=MODULE)
    machine.fake("systemctl", STARTS + textwrap.dedent(BODIES["systemctl"]))
    assert result(yours(machine)) == {"generation": 41}
    assert steps(machine) == STARTED
    assert configuration(machine) == f"0640 {HOME}"
    machine.remember(answers=HEALTHY.replace("yes / 403", "yes / 200"))
    assert_sentence(yours(machine), "does not answer 403 for / without a certificate", "fix that")


def test_yours_needs_the_module_in_the_running_system(machine: Machine) -> None:
    assert_sentence(yours(machine), "does not have services.immich-exposure; import the module, enable it")


def test_leaving_ends_a_change_that_was_killed_before_its_files_go(machine: Machine) -> None:
    """The timer's script lies in the folder that goes next."""
    machine.remember(active="immich-exposure-rollback.timer")
    assert machine.run("module", "leave").status == 0
    begun = [step for step in steps(machine) if "rollback" in step]
    assert begun == ["systemctl start immich-exposure-rollback.service", DISARM]


def test_leaving_stops_the_units_and_opens_immich_at_home(machine: Machine) -> None:
    machine.write(machine.state / "lan", "closed by hand\n")
    machine.remember(units="immich-exposure-lan.service")
    for _ in range(2):
        assert machine.run("module", "leave").status == 0
    assert not (machine.state / "lan").exists()
    assert steps(machine)[:4] == [
        "systemctl stop immich-exposure-lease-end.timer",
        "systemctl stop immich-edge",
        "systemctl stop immich-bans",
        "systemctl restart immich-exposure-lan.service",
    ]
