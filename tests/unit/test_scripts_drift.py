"""drift.sh: what has become of an exposure since it was proven, told in sentences and never changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.scripts.harness import NODE, OPEN, Machine, available_shells

PHONE = "a" * 64
LAPTOP = "b" * 64
PORTS = ("443", "8443")
UNITS = (
    "immich-edge\nimmich-bans\nimmich-exposure-lease.timer\nimmich-exposure-certificate.timer\n"
    "immich-exposure-devices.timer"
)


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server, once for each shell."""
    return Machine(tmp_path, request.param)


@pytest.fixture
def proven(machine: Machine) -> Machine:
    """Return a server on which an exposure was proven just now."""
    machine.prepare()
    machine.fake("stat", 'case $2 in *%U*) echo "640 root:immich-edge" ;; *) exec /usr/bin/stat "$@" ;; esac')
    for name, text in {
        "settings/edge.env": "IMMICH_EXPOSURE_REQUESTS=3000\n",
        "settings/bans.conf": "[DEFAULT]\n",
        "device-ca.crt": "-----BEGIN CERTIFICATE-----\n",
        "domain.env": "IMMICH_EXPOSURE_DOMAIN=immich.lab-tailnet.ts.net\n",
        "tls/server.key": "key\n",
        f"devices/{PHONE}": "phone\n",
    }.items():
        machine.write(machine.state / name, text)
    machine.write(machine.root / "run/current-system/sw/bin/immich-exposure", "")
    machine.write(machine.config / "immich-exposure/default.nix", "{ }\n")
    machine.remember(active=UNITS, module='{"digest":"one"}', **{"serve.json": OPEN})
    machine.write(machine.config / "configuration.nix", "{ imports = [ ./immich-exposure ]; }\n")
    assert machine.run("drift", "record", *PORTS, str(machine.config)).status == 0
    return machine


def look(machine: Machine) -> list[str]:
    """Return what a look finds; it changes nothing but its own scratch folder."""
    before = machine.files(machine.root)
    outcome = machine.run("drift", "look", *PORTS)
    assert outcome.status == 0, outcome.stderr
    after = machine.files(machine.root)
    assert before == after
    return outcome.stdout.replace(str(machine.root), "").splitlines()


def test_nothing_is_told_of_what_is_as_it_was(proven: Machine) -> None:
    assert look(proven) == []


def drop(path: str) -> Callable[[Machine], None]:
    return lambda machine: (machine.state / path).unlink()


def enrol_by_hand(machine: Machine) -> None:
    machine.write(machine.state / "devices" / LAPTOP, "laptop\n")


def end(machine: Machine) -> None:
    """What the timer does with a certificate that has ended is no drift."""
    (machine.state / "ended").mkdir()
    (machine.state / "devices" / PHONE).rename(machine.state / "ended" / PHONE)


CASES: dict[str, tuple[Callable[[Machine], None], str | None]] = {
    "the funnel is shut": (
        lambda machine: machine.remember(**{"serve.json": "{}"}),
        "mend The funnel was shut on the server; up opens and proves it again.",
    ),
    "the funnel is altered": (
        lambda machine: machine.remember(**{"serve.json": OPEN.replace("127.0.0.1", "localhost")}),
        "mend The funnel on port 443 was altered by hand; up closes and opens it as it must be.",
    ),
    "another tool has the port": (
        lambda machine: machine.remember(**{"serve.json": OPEN.replace("8443", "22")}),
        "tell Port 443 serves another tool, so the funnel is shut; "
        "remove that entry of Tailscale and run up again.",
    ),
    "a device by hand": (
        enrol_by_hand,
        'mend A certificate was let in by hand as "laptop" (bbbbbbbbbbbb...); up takes it out.',
    ),
    "a device gone": (
        drop(f"devices/{PHONE}"),
        "mend A certificate of phone is not let in any more (aaaaaaaaaaaa...); up lets it in again.",
    ),
    "a device ended": (end, None),
    "settings gone": (
        drop("settings/edge.env"),
        "mend STATE/settings/edge.env is gone from the server; up puts it back.",
    ),
    "no key": (
        drop("tls/server.key"),
        "mend The server's certificate is gone from the server; up asks Tailscale for it again.",
    ),
    "renamed": (
        lambda machine: machine.remember(
            **{
                name: text.replace("immich.", "photos.")
                for name, text in {"status.json": NODE, "serve.json": OPEN}.items()
            }
        ),
        "mend The server is called photos.lab-tailnet.ts.net now and was immich.lab-tailnet.ts.net; "
        "up exposes it under the new name.",
    ),
    "a service stopped": (
        lambda machine: machine.remember(active=UNITS.replace("immich-bans\n", "")),
        "mend immich-bans.service does not run; up starts it.",
    ),
    "module gone": (
        lambda machine: (machine.root / "run/current-system/sw/bin/immich-exposure").unlink(),
        "mend The running system was built without the module; up brings it in again.",
    ),
    "another module": (
        lambda machine: machine.remember(module='{"digest":"two"}'),
        "mend The running system has another version of the module than the one that was proven; "
        "up proves it again.",
    ),
    "half loaded": (
        lambda machine: machine.write(machine.state / ".device-ca.unloaded", ""),
        "mend What runs has not yet loaded its newest files; up loads them.",
    ),
    "no proof": (
        drop("standing"),
        "mend The last run did not end with a proof; up proves the exposure again.",
    ),
    "no mark": (
        drop(".immich-exposure"),
        "mend There is nothing of an exposure on the server; up makes it.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_difference_is_one_sentence(proven: Machine, case: str) -> None:
    change, sentence = CASES[case]
    change(proven)
    wanted = [] if sentence is None else [sentence.replace("STATE", "/var/lib/immich-exposure")]
    assert look(proven) == wanted


@pytest.mark.parametrize(
    "path", ["settings/bans.conf", "device-ca.crt", "etc/nixos/immich-exposure/default.nix"]
)
def test_a_changed_file_is_told_with_its_time(proven: Machine, path: str) -> None:
    changed = proven.root / path if path.startswith("etc") else proven.state / path
    named = str(changed).removeprefix(str(proven.root))
    changed.write_text("changed\n")
    (line,) = look(proven)
    assert line.startswith(f"mend {named} was changed on the server on ")
    assert line.endswith("; up puts it back.")


def test_an_import_that_was_taken_out_is_told(proven: Machine) -> None:
    """As `git checkout` does; the running system still has the module, until the next rebuild."""
    proven.write(proven.config / "configuration.nix", "{ imports = [ ]; # ./immich-exposure\n}\n")
    (line,) = look(proven)
    assert line == (
        "mend /etc/nixos/configuration.nix does not import ./immich-exposure any more, and your next rebuild "
        "would end the exposure; up adds it again."
    )


def test_a_funnel_that_was_shut_by_hand_is_the_owners_to_open(proven: Machine) -> None:
    proven.remember(**{"serve.json": "{}"})
    proven.write(proven.state / "shut-by-hand", "")
    (line,) = look(proven)
    assert line == (
        'tell The funnel was shut by hand; it stays shut until "sudo immich-exposure open" on the server.'
    )


WHY = {
    "lease": "The funnel's lease was over on Monday 12 January at 13:46; up opens and proves it again.",
    "unsafe": "The funnel was shut on Monday 12 January at 13:46 because the exposure was not safe; "
    "up opens it only once it proves to be.",
    "check": "The last up could not prove the exposure, so the funnel is shut; up tries to again.",
}


@pytest.mark.parametrize("why", WHY)
def test_why_a_funnel_is_shut_is_told(proven: Machine, why: str) -> None:
    proven.remember(**{"serve.json": "{}"})
    proven.write(proven.state / "door", f"1000000 shut {why}\n")
    assert look(proven) == [f"mend {WHY[why]}"]


def test_arguments_are_checked(machine: Machine) -> None:
    assert (
        machine.run("drift", "look", "443").error
        == 'The proxyPort must be a whole number, not ""; correct it and run this again.'
    )
    assert "knows the verbs" in machine.run("drift", "mend", *PORTS).error


def test_there_is_nothing_to_look_at_before_the_first_exposure(machine: Machine) -> None:
    assert machine.run("drift", "look", *PORTS).stdout.startswith("mend There is nothing of an exposure")
