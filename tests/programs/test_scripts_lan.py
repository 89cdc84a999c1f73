"""lan.sh and the state of home access: which sockets stand, and who opens and closes them."""

from pathlib import Path

import pytest

from tests.programs.harness import Machine, Outcome, assert_sentence, available_shells

ADDRESSES = """\
1: lo    inet 127.0.0.1/8 scope host lo
2: eth0    inet 192.168.1.5/24 brd 192.168.1.255 scope global eth0
3: tailscale0    inet 100.64.0.2/32 scope global tailscale0"""
# As NixOS needs it: it takes no dot for part of an instance.
LEFT, KEPT = r"192\x2e168\x2e1\x2e4:2283", r"192\x2e168\x2e1\x2e5:2283"
LOOPBACK = r"\x5b::1\x5d:2283"


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A server at home with two addresses, whose module has the sockets."""
    machine = Machine(tmp_path, request.param)
    machine.prepare()
    machine.remember(addresses=ADDRESSES, units="immich-exposure-lan.service")
    return machine


def sync(machine: Machine, host: str, port: str = "2283") -> Outcome:
    machine.forget_commands()
    return machine.run("lan", "sync", host, port)


def started(machine: Machine) -> list[str]:
    lines = machine.commands("systemctl")
    return [line.split("lan@", 1)[1].replace(r"\x2e", ".") for line in lines if " start " in line]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("0.0.0.0", ["100.64.0.2:2283.socket", "192.168.1.5:2283.socket"]),
        ("::", ["100.64.0.2:2283.socket", "192.168.1.5:2283.socket", r"\x5b::\x5d:2283.socket"]),
        ("localhost", [f"{LOOPBACK}.socket"]),
        ("::1", [f"{LOOPBACK}.socket"]),
        ("127.0.0.1", []),
        ("192.168.1.5", ["192.168.1.5:2283.socket"]),
        ("fd00::5", [r"\x5bfd00::5\x5d:2283.socket"]),
        ("photos.lan", ["192.168.1.5:2283.socket", r"\x5bfd00::5\x5d:2283.socket"]),
    ],
)
def test_sockets_stand_where_immich_would_listen(machine: Machine, host: str, expected: list[str]) -> None:
    machine.remember(
        hosts="192.168.1.5 STREAM a\n192.168.1.5 DGRAM\nfd00::5 STREAM\n127.0.0.2 STREAM\nfd00::5 RAW"
    )
    assert sync(machine, host) == Outcome(0, "", "")
    assert started(machine) == expected


@pytest.mark.parametrize("word", ["closed", "closed by hand"])
def test_a_closed_home_has_no_socket(machine: Machine, word: str) -> None:
    machine.write(machine.state / "lan", f"{word}\n")
    machine.remember(sockets=f"immich-exposure-lan@{LOOPBACK}.socket loaded active listening x")
    assert sync(machine, "0.0.0.0") == Outcome(0, "", "")
    assert started(machine) == []
    stopped = f"systemctl stop immich-exposure-lan@{LOOPBACK}.socket immich-exposure-lan@{LOOPBACK}.service"
    assert stopped in machine.commands("systemctl"), "what is connected must end as well"


@pytest.mark.parametrize("word", ["open", "open by hand", "", "nonsense"])
def test_any_other_word_is_open(machine: Machine, word: str) -> None:
    machine.write(machine.state / "lan", f"{word}\n")
    sync(machine, "192.168.1.5")
    assert started(machine) == ["192.168.1.5:2283.socket"]


def test_a_server_without_an_exposure_is_open_at_home(machine: Machine) -> None:
    for file in sorted(machine.state.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    machine.state.rmdir()
    sync(machine, "192.168.1.5")
    assert started(machine) == ["192.168.1.5:2283.socket"]
    assert not machine.state.exists()


def test_a_dot_in_an_instance_is_escaped(machine: Machine) -> None:
    sync(machine, "192.168.1.5")
    assert machine.commands("systemctl")[-1] == f"systemctl start immich-exposure-lan@{KEPT}.socket"


def test_addresses_come_and_go(machine: Machine) -> None:
    machine.remember(
        sockets=f"""\
immich-exposure-lan@{LEFT}.socket loaded active listening Immich at home
immich-exposure-lan@{KEPT}.socket loaded active listening Immich at home""",
        active=f"immich-exposure-lan@{KEPT}.socket",
    )
    sync(machine, "0.0.0.0")
    assert started(machine) == ["100.64.0.2:2283.socket"]
    stopped = [line for line in machine.commands("systemctl") if " stop " in line]
    assert stopped == [f"systemctl stop immich-exposure-lan@{LEFT}.socket immich-exposure-lan@{LEFT}.service"]


def test_an_address_that_is_taken_fails_nothing(machine: Machine) -> None:
    machine.fake("systemctl", '[ "$1" != start ] && [ "$1" != is-active ]')
    outcome = sync(machine, "192.168.1.5")
    assert outcome.status == 0
    assert "cannot be reached at home on 192.168.1.5:2283" in outcome.stderr
    assert machine.commands("systemctl")[-1].startswith("systemctl reset-failed ")


def test_it_waits_for_no_lock(machine: Machine) -> None:
    """The funnel's script holds it, and waits for this."""
    sync(machine, "0.0.0.0")
    assert machine.commands("flock") == []
    assert not (machine.root / "run/lock").exists() or not list((machine.root / "run/lock").iterdir())


@pytest.mark.parametrize(
    "arguments",
    [(), ("sync",), ("sync", "0.0.0.0"), ("sync", "$(id)", "2283"), ("sync", "::", "0"), ("open",)],
)
def test_arguments_are_checked(machine: Machine, arguments: tuple[str, ...]) -> None:
    assert_sentence(machine.run("lan", *arguments))
    assert started(machine) == []


# ---- The owner's command


def lan_word(machine: Machine) -> str | None:
    place = machine.state / "lan"
    return place.read_text() if place.exists() else None


RESTART = "systemctl restart immich-exposure-lan.service"


def test_the_owner_opens_and_closes(machine: Machine) -> None:
    for verb, word in (("close", "closed"), ("open", "open"), ("close", "closed")):
        machine.forget_commands()
        said = f"Immich is {word} at home until you say otherwise\n"
        assert machine.run("exposure", "lan", verb) == Outcome(0, "", said)
        assert lan_word(machine) == f"{word} by hand\n"
        assert RESTART in machine.commands("systemctl")


@pytest.mark.parametrize(("funnel", "word"), [("open", "closed"), ("closed", "open")])
def test_the_owner_gives_it_back_to_the_funnel(machine: Machine, funnel: str, word: str) -> None:
    if funnel == "open":
        machine.write(machine.state / "funnel", "443 8443\n")
    machine.write(machine.state / "lan", "open by hand\n")
    said = f"Immich is {word} at home while the funnel is {funnel}\n"
    assert machine.run("exposure", "lan", "auto") == Outcome(0, "", said)
    assert lan_word(machine) == f"{word}\n"


def test_there_must_be_something_to_open(machine: Machine) -> None:
    machine.remember(units="")
    assert_sentence(
        machine.run("exposure", "lan", "open"), "leaves home access to Immich alone", "set lan: close"
    )
    machine.remember(units="immich-exposure-lan.service")
    (machine.state / ".immich-exposure").unlink()
    assert_sentence(machine.run("exposure", "lan", "close"), "Nothing is exposed", 'run "pulumi up" first')
    for words in (("lan",), ("lan", "shut"), ("lan", "open", "now"), ("close", "now"), ("status", "x", "y")):
        assert machine.run("exposure", *words).status == 1
    assert lan_word(machine) is None


@pytest.mark.parametrize("verb", ["status", "close", "lan", "bans", "ban", "unban", "module", "nonsense", ""])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_only_explains(machine: Machine, verb: str, flag: str) -> None:
    machine.fake("id", "echo 1000")
    before = machine.files(machine.root)
    outcome = machine.run("exposure", *([verb] if verb else []), flag)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert f"immich-exposure {verb if verb not in ('nonsense', '') else 'VERB'}" in outcome.stdout
    assert machine.files(machine.root) == before
    assert machine.commands() == []


def test_help_after_arguments_only_explains(machine: Machine) -> None:
    for words in (("lan", "close"), ("unban", "all"), ("ban", "203.0.113.9")):
        assert machine.run("exposure", *words, "--help").status == 0
    assert machine.commands() == []
    assert lan_word(machine) is None


def test_nobody_banned_is_said(machine: Machine) -> None:
    assert machine.run("exposure", "bans") == Outcome(0, "", "Nobody is banned\n")
    machine.write(machine.state / "bans/manual/203.0.113.9", "")
    outcome = machine.run("exposure", "bans")
    assert outcome.stderr == "" and "203.0.113.9" in outcome.stdout
