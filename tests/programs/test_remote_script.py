"""What is sent to the server: one text, nothing secret, nothing changed on the way."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from components.remote.remote_script import (
    HEREDOC_END,
    PayloadFile,
    Server,
    password_line,
    script_text,
    sudo_line,
    with_password,
)

SHELLS = [shell for shell in ("dash", "bash", "sh") if shutil.which(shell)]
SERVER = Server(host="pi", port=22, user="admin", host_key="ssh-ed25519 AAAA", private_key_file=None)


def test_arguments_are_quoted_for_the_shell() -> None:
    assert sudo_line("enrol", "a b; rm -rf /", 7) == "sudo -n sh -s -- enrol 'a b; rm -rf /' 7"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_payload_arrives_byte_for_byte(shell: str) -> None:
    text = "line with $HOME and `date`\n\\n \\\\ 'single' \"double\"\n\n\ttab ünïcode\n"
    payload = script_text("files", (PayloadFile("folder/a file", text),))
    start = payload.index("payload() {")
    end = payload.index(f"\n{HEREDOC_END}\n}}\n", start) + len(f"\n{HEREDOC_END}\n}}\n")
    program = 'put() { printf "%s|%s|" "$1" "$2"; cat; }\n' + payload[start:end] + "payload\n"
    done = subprocess.run([shell, "-s"], input=program, capture_output=True, text=True, check=True)
    assert done.stdout == f"0644|folder/a file|{text}"


def test_a_payload_that_would_not_arrive_whole_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        script_text("files", (PayloadFile("a", "no end"),))
    with pytest.raises(ValueError, match="marks its end"):
        script_text("files", (PayloadFile("a", f"one\n{HEREDOC_END}\ntwo\n"),))


def test_the_library_comes_first_and_the_script_last() -> None:
    text = script_text("funnel")
    assert text.index("die()") < text.index("tailscale funnel")


def test_the_connection_pins_the_host_key_and_gives_up_soon() -> None:
    connection = SERVER.connection()
    assert connection.host_key == "ssh-ed25519 AAAA"
    assert connection.dial_error_limit == 2
    assert connection.private_key is None


# Ways to root


def test_each_user_has_a_way_to_root() -> None:
    assert SERVER.line("close", 443) == "sudo -n sh -s -- close 443"
    assert replace(SERVER, user="root").line("close", 443) == "sh -s -- close 443"
    assert replace(SERVER, sudo_password="geheim").line("close", 443) == password_line("close", 443)
    assert "geheim" not in repr(replace(SERVER, sudo_password="geheim"))


def test_a_line_says_whose_run_it_is() -> None:
    named = replace(SERVER, stack_id="ours")
    assert named.line("close", 443) == "sudo -n sh -s -- --stack=ours close 443"
    assert named.way_back(named.line("close")) == "sudo -n sh -s -- --leaving=ours close"
    for way in (replace(named, user="root"), replace(named, sudo_password="geheim")):
        assert way.line("close", 443).endswith(" --stack=ours close 443")
        assert way.way_back(way.line("close", 443)).endswith(" --leaving=ours close 443")
    assert SERVER.way_back(SERVER.line("close")) == SERVER.line("close")


# sudo stands aside here: it reads the line of the password, or leaves it where none is needed.
SUDO = """#!/bin/sh
[ "$1 $2 $3 $4" = "-k -S -p " ] || exit 9
shift 4
case $SUDO_READS in yes) IFS= read -r password; printf '%s' "$password" >"$SUDO_SAW" ;; esac
exec "$@"
"""


@pytest.mark.parametrize("reads", ["yes", "no"])
@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_begins_after_the_password_whether_sudo_took_it_or_not(
    tmp_path: Path, shell: str, reads: str
) -> None:
    password = r"it's \"$HOME\" \n #immich-exposure  "
    (tmp_path / "sudo").write_text(SUDO)
    (tmp_path / "sudo").chmod(0o755)
    (tmp_path / "sh").symlink_to(shutil.which(shell) or "")
    script = 'printf "%s|" "$@"; cat <<\'END\'\nlast line\nEND\n'
    done = subprocess.run(
        [shell, "-c", password_line("enrol", "a b", 7)],
        input=with_password(password, script),
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SUDO_READS": reads,
            "SUDO_SAW": str(tmp_path / "saw"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "enrol|a b|7|last line\n"
    if reads == "yes":
        assert (tmp_path / "saw").read_text() == password


@pytest.mark.parametrize("shell", SHELLS)
def test_a_wrong_password_is_tried_once(tmp_path: Path, shell: str) -> None:
    """sudo asks three times, and some servers lock an account after three tries."""
    tries = tmp_path / "tries"
    (tmp_path / "sudo").write_text(
        f'#!/bin/sh\nwhile IFS= read -r password; do echo "$password" >>{tries}; done\n'
        'echo "sudo: 1 incorrect password attempt" >&2; exit 1\n'
    )
    (tmp_path / "sudo").chmod(0o755)
    done = subprocess.run(
        [shell, "-c", password_line("close", 443)],
        input=with_password("geheim", "echo it ran\n"),
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, tries.read_text()) == (1, "", "geheim\n")
    assert done.stderr == "sudo: 1 incorrect password attempt\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_sudo_that_swallows_the_mark_is_no_success(tmp_path: Path, shell: str) -> None:
    """One that asks for a second factor, say. Closing a funnel would seem done, and nothing had run."""
    greedy = SUDO.replace('exec "$@"', 'IFS= read -r more; exec "$@"')
    (tmp_path / "sudo").write_text(greedy)
    (tmp_path / "sudo").chmod(0o755)
    done = subprocess.run(
        [shell, "-c", password_line("close", 443)],
        input=with_password("geheim", "echo it ran\n"),
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SUDO_READS": "yes", "SUDO_SAW": str(tmp_path / "saw")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: sudo read more than a password, so nothing was run")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder on the server that is ours."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/.immich-exposure").write_text("ours\n")
    (tmp_path / "sudo").write_text(SUDO)
    (tmp_path / "sudo").chmod(0o755)
    return tmp_path / "state"


PROGRAM = b"\x7fELF\n\0\r\n#immich-exposure\n" + bytes(range(256)) * 999


def receive(
    folder: Path, content: bytes, sha256: str, *, reads: str = "no", stack: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Send a file to the folder as a user whose sudo asks for a password, or does not."""
    line = replace(SERVER, sudo_password="geheim", stack_id=stack).receive_line(
        f"{folder}/edge-{sha256}", sha256
    )
    return subprocess.run(
        ["sh", "-c", line],
        input=with_password("geheim", "").encode() + content,
        env={"PATH": f"{folder.parent}:/usr/bin:/bin", "SUDO_READS": reads, "SUDO_SAW": f"{folder}/../saw"},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("reads", ["yes", "no"])
def test_a_file_arrives_byte_for_byte(folder: Path, reads: str) -> None:
    sha256 = hashlib.sha256(PROGRAM).hexdigest()
    assert receive(folder, PROGRAM, sha256, reads=reads).returncode == 0
    program = folder / f"edge-{sha256}"
    assert program.read_bytes() == PROGRAM and program.stat().st_mode & 0o777 == 0o755


def test_a_file_that_is_cut_short_is_none(folder: Path) -> None:
    done = receive(folder, PROGRAM[:-1], hashlib.sha256(PROGRAM).hexdigest())
    assert done.returncode == 1 and b"did not arrive completely; run this again." in done.stderr
    assert [path.name for path in folder.iterdir()] == [".immich-exposure"]


def test_a_file_goes_into_no_folder_of_somebody_elses(folder: Path) -> None:
    (folder / ".immich-exposure").unlink()
    done = receive(folder, PROGRAM, hashlib.sha256(PROGRAM).hexdigest())
    assert done.returncode == 1 and b"is missing, or not ours." in done.stderr
    assert list(folder.iterdir()) == []


def test_a_file_goes_to_no_server_of_another_stack(folder: Path) -> None:
    sha256 = hashlib.sha256(PROGRAM).hexdigest()
    (folder / "owner").write_text("ours a/b/c\n")
    done = receive(folder, PROGRAM, sha256, stack="theirs")
    assert done.returncode == 1 and b"exposed by another stack" in done.stderr
    assert not list(folder.glob("edge-*"))
    assert receive(folder, PROGRAM, sha256, stack="ours").returncode == 0


def test_the_program_of_before_stays_and_older_ones_go(folder: Path) -> None:
    programs = [bytes([number]) * 9 for number in range(4)]
    for moment, content in enumerate(programs):
        sha256 = hashlib.sha256(content).hexdigest()
        assert receive(folder, content, sha256).returncode == 0
        os.utime(folder / f"edge-{sha256}", (moment, moment))
    assert {path.read_bytes() for path in folder.glob("edge-*")} == set(programs[2:])


@pytest.mark.parametrize(("user", "head"), [("admin", "sudo -n sh -c "), ("root", "sh -c ")])
def test_a_file_needs_no_password_where_root_is_open(user: str, head: str) -> None:
    assert replace(SERVER, user=user).receive_line("/x/edge-1", "1").startswith(head)
