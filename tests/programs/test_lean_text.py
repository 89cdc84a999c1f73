"""What travels is what the shell reads of a script: no comment, and no function that nobody calls."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from components.remote.lean_text import UnreadableScriptError, reachable, stripped
from components.remote.remote_script import SERVER_FILES, script_text

SCRIPTS = sorted((SERVER_FILES / "scripts").glob("*.sh"))
LIBRARY = (SERVER_FILES / "scripts/lib.sh").read_text()
FUNCTION = re.compile(r"^([a-z_]+)\(\) \{", re.MULTILINE)


def as_bash_reads_it(text: str) -> str:
    """Return a script as bash prints it back: all that it has understood of it, in its own layout."""
    done = subprocess.run(
        ["bash", "--norc"],
        input=f"f() {{\n{text}\n}}\ndeclare -f f\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_shell_reads_the_same(script: Path) -> None:
    text = script.read_text()
    assert as_bash_reads_it(stripped(text)) == as_bash_reads_it(text)
    assert stripped(stripped(text)) == stripped(text)


def test_reading_it_back_shows_a_difference() -> None:
    assert as_bash_reads_it("a='x\n  y'") != as_bash_reads_it("a='x\ny'")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("# one\n\n  a\n\t# two\n", "a\n"),
        ("if a; then\n  b # said\nfi\n", "if a; then\nb # said\nfi\n"),
        ("a='\n  # no comment\n\n  b'\n  c\n", "a='\n  # no comment\n\n  b'\nc\n"),
        ('a="\n  # $(b "c\n  d")\n"\n  e\n', 'a="\n  # $(b "c\n  d")\n"\ne\n'),
        ("cat <<'END'\n  # kept\n\nEND\n  a\n", "cat <<'END'\n  # kept\n\nEND\na\n"),
        ("cat <<-END | b\n\tit's\n\tEND\n  a\n", "cat <<-END | b\n\tit's\n\tEND\na\n"),
        ("a \\\n  # b\n  c\n", "a \\\n  # b\nc\n"),
        ("a # it's\n  b\n", "a # it's\nb\n"),
        ("a=${b#'#'} c=$((1 << 2)) d=$#\n  e\n", "a=${b#'#'} c=$((1 << 2)) d=$#\ne\n"),
        ("case a in\n  b) c ;;\nesac\n", "case a in\nb) c ;;\nesac\n"),
        ("a=$(\n  # b\n  c\n)\n", "a=$(\nc\n)\n"),
        ('a="it\'s"\n  b\n', 'a="it\'s"\nb\n'),
        ("a=\\'\n  b\n", "a=\\'\nb\n"),
    ],
)
def test_what_means_something_stays(text: str, left: str) -> None:
    assert stripped(text) == left
    assert as_bash_reads_it(left) == as_bash_reads_it(text)


@pytest.mark.parametrize("text", ["a='b\n", 'a="b\n', "cat <<END\na\n", "a=$(b\n", "a \\\n"])
def test_a_text_that_does_not_end_is_not_sent(text: str) -> None:
    with pytest.raises(UnreadableScriptError, match="has no end"):
        stripped(text)


# What nobody calls

SMALL = """set -eu
# used says more about unused.
used() { deeper 1; }
deeper() {
  say "$TEXT"
}
unused() {
  never 'a
}
'
}
always_first=1
never() { :; }
TEXT='one
two'
OTHER='three
four'
trap quietly EXIT
quietly() { :; }
"""


def test_what_is_named_by_nobody_stays_at_home() -> None:
    assert reachable(SMALL, "used") == (
        'set -eu\nused() { deeper 1; }\ndeeper() {\nsay "$TEXT"\n}\nalways_first=1\n'
        "TEXT='one\ntwo'\ntrap quietly EXIT\nquietly() { :; }\n"
    )
    assert "unused()" in reachable(SMALL, 'x="unused"')
    assert reachable(SMALL, "unused", "used", "OTHER") == stripped(SMALL)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_function_that_is_named_is_there(script: Path) -> None:
    if script.stem == "lib":
        return
    text = script_text(script.stem)
    there = set(FUNCTION.findall(text))
    named = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text))
    assert set(FUNCTION.findall(LIBRARY)) & named == set(FUNCTION.findall(LIBRARY)) & there
    assert set(FUNCTION.findall(script.read_text())) <= there
    for constant in ("JSON_READER", "NIX_SCANNER", "SAYS_BESIDES"):
        assert text.count(constant) == 0 or f"{constant}='" in text
