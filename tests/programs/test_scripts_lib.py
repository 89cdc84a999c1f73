"""Cases of lib.sh: reading configuration.nix as Nix does, writing JSON, and giving way to another run."""

import fcntl
import json
import random
from pathlib import Path

import pytest

from tests.programs.harness import SCRIPTS, Machine, available_shells

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
    "interpolated": (
        "{ a = \"${./lan-immich.nix}\"; b = ''${f { x = ./lan-immich.nix; }}''; }\n",
        "commented",
        None,
    ),
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


# configuration.nix, and what it is with an import more; None where there is no list to add to.
LISTS: dict[str, tuple[str, str | None]] = {
    "plain": ("{ imports = [ ./a.nix ]; }\n", "{ imports = [ ./immich-exposure ./a.nix ]; }\n"),
    "empty": ("{ imports = []; }\n", "{ imports = [ ./immich-exposure]; }\n"),
    "no blank": ("{imports=[./a.nix];}", "{imports=[ ./immich-exposure ./a.nix];}"),
    "on the next line": (
        "{ config, ... }:\n{\n  imports =\n    [ # Include\n      ./hw.nix\n    ];\n}\n",
        "{ config, ... }:\n{\n  imports =\n    [ ./immich-exposure # Include\n      ./hw.nix\n    ];\n}\n",
    ),
    "carriage returns": (
        "{\r\n imports = [\r\n ./a\r\n ];\r\n}",
        "{\r\n imports = [ ./immich-exposure\r\n ./a\r\n ];\r\n}",
    ),
    "and more": ("{ imports = [ ./a ] ++ x; }\n", "{ imports = [ ./immich-exposure ./a ] ++ x; }\n"),
    "with": ("{ imports = with a.b; [ y ]; }\n", "{ imports = with a.b; [ ./immich-exposure y ]; }\n"),
    "added to something": (
        "{ imports = map f [ ./a ] ++ (x ++ [ ]) ++ [ ./b ]; }\n",
        "{ imports = map f [ ./a ] ++ (x ++ [ ]) ++ [ ./immich-exposure ./b ]; }\n",
    ),
    "added to something on the next line": (
        "{\n  imports = lib.optionals true [ ./a ] # ++ [ ]\n    ++[\n ./b ];\n}\n",
        "{\n  imports = lib.optionals true [ ./a ] # ++ [ ]\n    ++[ ./immich-exposure\n ./b ];\n}\n",
    ),
    "a let of its own": (
        "{ imports = let a = import ./npins; b = let c = [ ]; in c; in with b; [ a ]; }\n",
        "{ imports = let a = import ./npins; b = let c = [ ]; in c; in with b; [ ./immich-exposure a ]; }\n",
    ),
    "after a let": (
        "{ ... }@x: with lib; let a = { imports = [ ]; }; in rec { imports = [ ./a ]; }\n",
        "{ ... }@x: with lib; let a = { imports = [ ]; }; in rec { imports = [ ./immich-exposure ./a ]; }\n",
    ),
    "after nested ones": (
        "{ a.b = { imports = [ ]; }; c = [ { imports = [ ]; } ]; imports = [ ./a ]; }\n",
        "{ a.b = { imports = [ ]; }; c = [ { imports = [ ]; } ]; imports = [ ./immich-exposure ./a ]; }\n",
    ),
    "default arguments": (
        "{ imports ? [ ], x ? { imports = [ ]; }, ... }: { imports = [ ./a ]; }\n",
        "{ imports ? [ ], x ? { imports = [ ]; }, ... }: { imports = [ ./immich-exposure ./a ]; }\n",
    ),
    "comments": (
        "# { imports = [\n/* { imports = [ */ { /* x */ imports /* y */ = # z\n [/* c */ ./a ]; }\n",
        "# { imports = [\n/* { imports = [ */ { /* x */ imports /* y */ = # z\n"
        " [ ./immich-exposure /* c */ ./a ]; }\n",
    ),
    "strings": (
        '{ a = "imports = [ \\" ${x "}" {} } $${"; imports = [ ./a ]; }\n',
        '{ a = "imports = [ \\" ${x "}" {} } $${"; imports = [ ./immich-exposure ./a ]; }\n',
    ),
    "indented strings": (
        "{ b = ''\n imports = [ ''' ''${ ${y} ''\\n $${\n''; imports = [ ./a ]; }\n",
        "{ b = ''\n imports = [ ''' ''${ ${y} ''\\n $${\n''; imports = [ ./immich-exposure ./a ]; }\n",
    ),
    "braces in interpolations": (
        '{ a = "${f { x = "}"; }} { "; imports = [ ./a ]; }\n',
        '{ a = "${f { x = "}"; }} { "; imports = [ ./immich-exposure ./a ]; }\n',
    ),
    "names with quotes, keywords in paths": (
        "{ a' = b''; c = let d = ./in; in ./let/in.nix; imports = [ ./a ]; }\n",
        "{ a' = b''; c = let d = ./in; in ./let/in.nix; imports = [ ./immich-exposure ./a ]; }\n",
    ),
    "absent": ("{ }\n", None),
    "nothing at all": ("", None),
    "computed": ("{ imports = map f [ ./a ]; }\n", None),
    "computed more than once": (
        "{ imports = map f [ ./a ] ++ (x ++ [ ]) ++ f [ ]; d = [ ] ++ [ ]; }\n",
        None,
    ),
    "a let of its own without a list": ("{ imports = let a = x ++ [ ]; in map f a; b = c: [ ]; }\n", None),
    "a let that does not end": ("{ imports = let a = 1; [ ./a ]; }\n", None),
    "another option's": ("{ foo.imports = [ ]; }\n", None),
    "in a list": ("{ lib, ... }: lib.mkMerge [ { imports = [ ]; } ]\n", None),
    "in a let": ("{ ... }: let imports = [ ]; in { inherit imports; }\n", None),
    "in a nested set": ("{ a = { imports = [ ]; }; }\n", None),
    "a comparison": ("{ a = imports == [ ]; }\n", None),
    "commented": ("{ # imports = [ ]\n }\n", None),
    "other words": ("{ my-imports = [ ]; imports' = [ ]; }\n", None),
}


@pytest.mark.parametrize("case", LISTS)
def test_an_import_is_added_where_nix_looks_for_it(machine: Machine, case: str) -> None:
    before, after = LISTS[case]
    place, added, back = machine.config / "configuration.nix", machine.root / "added", machine.root / "back"
    place.write_bytes(before.encode())
    insert = f'{LIBRARY}\ninsert_import "$1" ./immich-exposure >"$2"'
    assert machine.run_text(insert, str(place), str(added)).status == (1 if after is None else 0)
    assert added.read_bytes() == (after or "").encode()
    if after is not None:
        drop = f'{LIBRARY}\ndrop_import "$1" ./immich-exposure >"$2"'
        assert machine.run_text(drop, str(added), str(back)).status == 0
        # The blank that keeps two words apart may stay.
        assert back.read_bytes() in {before.encode(), *_with_a_blank(before)}


def _with_a_blank(text: str) -> list[bytes]:
    """The text with one blank more somewhere."""
    return [f"{text[:at]} {text[at:]}".encode() for at in range(len(text))]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{ imports = [\n  ./a\n  ./immich-exposure\n  ./b\n]; }\n", "{ imports = [\n  ./a\n  ./b\n]; }\n"),
        ("{ imports = [ ./immich-exposure/nix ./immich-exposure.nix ]; }", None),
        ('{ imports = [ # ./immich-exposure\n ]; x = "./immich-exposure"; }\n', None),
        ("[ ./immich-exposure ./b ./immich-exposure ]", "[ ./b ]"),
        ("[\n\n./immich-exposure # ours\n]", "[\n\n # ours\n]"),
    ],
)
def test_only_our_import_is_taken_out(machine: Machine, before: str, after: str | None) -> None:
    place = machine.config / "configuration.nix"
    place.write_text(before)
    drop = f'{LIBRARY}\ndrop_import "$1" ./immich-exposure'
    assert machine.run_text(drop, str(place)).stdout == (before if after is None else after)


PIECES = [
    "{", "}", "[", "]", "(", ")", "imports", "=", ";", "with lib;", "let", "in", "#", "/*", "*/", '"', "''",
    "${", "$", "'", "\\", "\n", "\r\n", "\r", "\t", " ", "./lan-immich.nix", "./immich-exposure", "./a.nix",
    "{ imports = [", "\nimports = [", "inherit", "\xfc", "$${", "''${", "'''", "''\\", ":", "a", ".", "x'",
    "\x01", "\x7f", "-", "~",
]  # fmt: skip


def test_no_file_ever_loses_a_byte(tmp_path: Path) -> None:
    """What is added, swapped or taken out is a path word; every other byte stays, whatever the file holds."""
    machine = Machine(tmp_path, available_shells()[0])
    dice = random.Random(8)
    folder = machine.root / "random"
    folder.mkdir()
    texts = [
        "".join(dice.choice(PIECES) for _ in range(dice.randrange(40))).encode("latin-1") for _ in range(2000)
    ]
    for number, text in enumerate(texts):
        (folder / f"{number}").write_bytes(text)
    loop = f"""{LIBRARY}
        cd "$1"
        at=0
        while [ $at -lt {len(texts)} ]; do
          insert_import $at ./immich-exposure >$at.inserted || rm $at.inserted
          if [ $((at % 5)) = 0 ]; then
            swap_import $at ./lan-immich.nix ./immich-exposure >$at.swapped
            drop_import $at ./immich-exposure >$at.dropped
          fi
          at=$((at + 1))
        done"""
    outcome = machine.run_text(loop, str(folder), seconds=600)
    assert outcome.status == 0, outcome.stderr
    inserted = 0
    for number, text in enumerate(texts):
        place = folder / f"{number}.inserted"
        if place.exists():
            inserted += 1
            assert _is_insertion(text, place.read_bytes()), text
        if number % 5:
            continue
        swapped = (folder / f"{number}.swapped").read_bytes()
        assert _without_paths(swapped) == _without_paths(text), text
        dropped = (folder / f"{number}.dropped").read_bytes()
        assert b"".join(_without_paths(dropped).split()) == b"".join(_without_paths(text).split()), text
    assert inserted > 20, "the dice must meet some lists"


def _is_insertion(text: bytes, grown: bytes) -> bool:
    """Our import, and perhaps a blank, behind a bracket of the text."""
    brackets = [at for at in range(1, len(text) + 1) if text[:at].endswith(b"[")]
    return any(
        grown == text[:at] + b" ./immich-exposure" + blank + text[at:]
        for at in brackets
        for blank in (b"", b" ")
    )


def _without_paths(text: bytes) -> bytes:
    return text.replace(b"./lan-immich.nix", b"").replace(b"./immich-exposure", b"")


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
    for script, arguments in (("devices", ("expire",)), ("funnel", ("close", "443", "8443"))):
        machine.run(script, *arguments)
        lock = machine.root / "run/lock/immich-exposure.lock"
        assert lock.stat().st_mode & 0o777 == 0o600
        lock.unlink()


@pytest.mark.parametrize("place", ["127.0.0.1:2283", "[::1]:3001", "192.168.1.5:2283"])
def test_immich_is_asked_where_the_module_says(machine: Machine, place: str) -> None:
    """As curl wants it, an address of IPv6 in brackets."""
    says = f'{{"digest":"abc","home":"{place}","immich":"{place}","lan":"close","managed":true}}'
    machine.remember(module=says)
    for asked in ("", "ask_module\n"):
        assert machine.run_text(f"{LIBRARY}\n{asked}immich_behind").stdout == f"{place}\n"
        assert machine.run_text(f"{LIBRARY}\n{asked}module_word managed").stdout == "true\n"
        assert machine.run_text(f"{LIBRARY}\n{asked}module_word none").stdout == ""
    assert machine.commands("immich-exposure") == ["immich-exposure module"] * 6
    machine.remember(module="")
    assert machine.run_text(f"{LIBRARY}\nimmich_behind").stdout == "127.0.0.1:2283\n"


def test_a_run_works_where_there_is_room(machine: Machine) -> None:
    """A folder may still be made where no file fits in; a lease must end then as well."""
    where = f'{LIBRARY}\nprintf %s "${{WORK%/*}}"'
    assert machine.run_text(where).stdout == f"{machine.root}/run"
    (machine.root / "dev/shm").mkdir(parents=True)
    full = 'case $(readlink /proc/$$/fd/1) in {}) exit 1 ;; esac; exec /usr/bin/head "$@"'
    machine.fake("head", full.format(f"{machine.root}/run/*"))
    assert machine.run_text(where).stdout == f"{machine.root}/dev/shm"
    machine.fake("head", full.format(f"{machine.root}/run/* | {machine.root}/dev/shm/*"))
    assert machine.run_text(where).stdout == str(machine.temporary)
    machine.fake("head", "exit 1")
    outcome = machine.run_text(where)
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.error.startswith("Nothing can be written to /run, /dev/shm or /tmp")


def test_a_lock_that_cannot_be_opened_is_told(machine: Machine) -> None:
    machine.write(machine.root / "run/lock", "no folder can be made here\n")
    outcome = machine.run_text(f"{LIBRARY}\nlock\necho got it")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert (
        outcome.error
        == "/run/lock/immich-exposure.lock cannot be opened; make room in /run/lock and run this again."
    )


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
