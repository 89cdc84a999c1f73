"""Cases of lib.sh: reading configuration.nix as Nix does, writing JSON, and giving way to another run."""

import fcntl
import json
from pathlib import Path

import pytest

from tests.unit.scripts.harness import SCRIPTS, Machine, available_shells

LIBRARY = (SCRIPTS / "lib.sh").read_text()

# configuration.nix, state of ./lan-immich.nix, and what swapping makes of it
IMPORTS = {
    "plain": (
        "{ imports = [ ./lan-immich.nix ]; }\n",
        "active",
        "{ imports = [ ./expose-immich.nix ]; }\n",
    ),
    "own line, commented neighbour": (
        "{\n  imports = [\n    # ./expose-immich.nix\n    ./lan-immich.nix # ./lan-immich.nix\n  ];\n}\n",
        "active",
        "{\n  imports = [\n    # ./expose-immich.nix\n    ./expose-immich.nix # ./lan-immich.nix\n  ];\n}\n",
    ),
    "line comment": ("{ imports = [\n # ./lan-immich.nix\n]; }\n", "commented", None),
    "block comment": ("{ imports = [ /* ./lan-immich.nix */ ]; }\n", "commented", None),
    "block comment over lines": ("{ imports = [ /* x\n ./lan-immich.nix\n*/ ]; }\n", "commented", None),
    "after a block comment": (
        "{ /* # */ imports = [./lan-immich.nix]; }\n",
        "active",
        "{ /* # */ imports = [./expose-immich.nix]; }\n",
    ),
    "hash in a string": (
        '{ a = "#"; imports = [ ./lan-immich.nix ]; }\n',
        "active",
        '{ a = "#"; imports = [ ./expose-immich.nix ]; }\n',
    ),
    "escaped quote": (
        '{ a = "\\"#"; b = [ ./lan-immich.nix ]; }\n',
        "active",
        '{ a = "\\"#"; b = [ ./expose-immich.nix ]; }\n',
    ),
    "in a string": ('{ a = "./lan-immich.nix"; }\n', "commented", None),
    "in an indented string": ("{ a = ''\n  it''''s ''${x} ./lan-immich.nix\n''; }\n", "commented", None),
    "after an indented string": (
        "{ a = ''\n  # /*\n''; imports = [ ./lan-immich.nix ]; }\n",
        "active",
        "{ a = ''\n  # /*\n''; imports = [ ./expose-immich.nix ]; }\n",
    ),
    "other names": (
        "{ imports = [ ./lan-immich.nix.bak ../lan-immich.nix ./x./lan-immich.nix ]; }\n",
        "absent",
        None,
    ),
    "twice": (
        "[ ./lan-immich.nix ./lan-immich.nix ]\n",
        "active",
        "[ ./expose-immich.nix ./expose-immich.nix ]\n",
    ),
    "no newline at the end": (
        "{ imports = [ ./lan-immich.nix ]; }",
        "active",
        "{ imports = [ ./expose-immich.nix ]; }",
    ),
    "carriage returns, blanks, bytes": (
        "{ # \u00fc\r\n\r\n imports = [\t./lan-immich.nix ];  \r\n}\n\n\n",
        "active",
        "{ # \u00fc\r\n\r\n imports = [\t./expose-immich.nix ];  \r\n}\n\n\n",
    ),
    "absent": ("{ }\n", "absent", None),
    "empty": ("", "absent", None),
}


@pytest.fixture(params=available_shells())
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A pretend server, once for each shell."""
    return Machine(tmp_path, request.param)


@pytest.mark.parametrize("case", IMPORTS)
def test_imports_are_read_and_swapped_as_nix_sees_them(machine: Machine, case: str) -> None:
    before, state, after = IMPORTS[case]
    place = machine.config / "configuration.nix"
    place.write_bytes(before.encode())
    assert machine.run_text(f'{LIBRARY}\nimport_state "$1" ./lan-immich.nix', str(place)).stdout == state
    swapped, back = machine.root / "swapped", machine.root / "back"
    swap = f'{LIBRARY}\nswap_import "$1" "$2" "$3" >"$4"'
    names = ["./lan-immich.nix", "./expose-immich.nix"]
    assert machine.run_text(swap, str(place), *names, str(swapped)).status == 0
    assert swapped.read_bytes() == (before if after is None else after).encode()
    if after is not None:
        assert machine.run_text(swap, str(swapped), *reversed(names), str(back)).status == 0
        assert back.read_bytes() == before.encode()


def test_missing_configuration_imports_nothing(machine: Machine) -> None:
    assert machine.run_text(f'{LIBRARY}\nimport_state "$1" ./x.nix', "/nowhere").stdout == "absent"


@pytest.mark.parametrize(
    "text", ["", "plain", 'quote " backslash \\ \\n', "tab\tand\nlines", "ümlaut $HOME `id` %s"]
)
def test_text_becomes_a_json_string(machine: Machine, text: str) -> None:
    outcome = machine.run_text(f'{LIBRARY}\njson_string "$1"', text)
    assert json.loads(outcome.stdout) == text


def test_control_characters_never_reach_the_json(machine: Machine) -> None:
    outcome = machine.run_text(f'{LIBRARY}\njson_string "$1"', "a\x1b[31mb\x7f\x01")
    assert json.loads(outcome.stdout) == "a[31mb"


def test_a_second_run_waits_and_then_says_so(machine: Machine) -> None:
    lock = machine.root / "run/lock/immich-exposure.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        # As short as the test can afford: what counts is that it gives way and names the lock.
        outcome = machine.run_text(f"{LIBRARY}\nlock\necho got it".replace("flock -w 300", "flock -w 0"))
    assert outcome.status == 1
    assert outcome.error == (
        "Another run is still changing this server and holds /run/lock/immich-exposure.lock; "
        "wait until it has ended and run this again."
    )
    assert machine.run_text(f"{LIBRARY}\nlock\necho got it").stdout == "got it\n"


def test_nobody_but_root_can_hold_the_lock(machine: Machine) -> None:
    for script, arguments in (("devices", ("withdraw", "phone")), ("funnel", ("close", "443", "8443"))):
        machine.run(script, *arguments)
        lock = machine.root / "run/lock/immich-exposure.lock"
        assert lock.stat().st_mode & 0o777 == 0o600
        lock.unlink()


def test_failure_runs_the_undo_and_keeps_the_status(machine: Machine) -> None:
    undo = f"{LIBRARY}\nundone() {{ say undone; false; say still going; }}\nUNDO=undone\n"
    assert machine.run_text(f"{undo}exit 7").status == 7
    assert machine.run_text(f"{undo}exit 7").stderr == "undone\nstill going\n"
    assert machine.run_text(f"{undo}say fine").stderr == "fine\n"
    for signal, status in (("HUP", 129), ("INT", 130), ("TERM", 143)):
        outcome = machine.run_text(f"{undo}kill -{signal} $$\nsleep 1")
        assert (outcome.status, outcome.stderr) == (status, "undone\nstill going\n")


def test_lost_connection_does_not_stop_a_script(machine: Machine) -> None:
    outcome = machine.run_text(
        f'{LIBRARY}\nexec 2>&-\nkill -PIPE $$\nsay nobody hears\ntouch "$1"', f"{machine.root}/done"
    )
    assert outcome.status == 0
    assert (machine.root / "done").exists()


@pytest.mark.parametrize("value", ["", "0", "65536", "x", "1;id", "-1", "99999999999999999999"])
def test_ports_are_numbers(machine: Machine, value: str) -> None:
    outcome = machine.run_text(f'{LIBRARY}\nport proxyPort "$1"', value)
    assert outcome.status == 1
    assert outcome.error.startswith("The proxyPort must ")
