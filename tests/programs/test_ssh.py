"""Failures of the connection are told as sentences with a remedy; ssh is called strictly."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from components.remote import conversation, ssh
from components.remote.remote_script import Server
from components.remote.shared_connection import SharedConnections
from components.remote.ssh import SshError, explain, known_hosts_name, run_script, ssh_argv

SERVER = Server(
    host="pi.lan", port=2222, user="admin", host_key="ssh-ed25519 AAAA", private_key_file="/k/id_ed25519"
)

FakeSsh = Callable[[str], Path]


@pytest.fixture
def fake_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeSsh:
    """Return what puts a program named ssh on PATH, and where it writes its standard input and arguments."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(ssh, "SHARED", SharedConnections())
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def make(body: str) -> Path:
        program = tmp_path / "ssh.new"
        # The master of a connection would write there as well, whenever it comes to it.
        no_master = 'case " $* " in *" -M "*) exit 1 ;; esac'
        kept = f'cat >{tmp_path}/input\nprintf "%s\\n" "$@" >{tmp_path}/arguments'
        program.write_text(f"#!/bin/sh\n{no_master}\n{kept}\n{body}\n")
        program.chmod(0o755)
        program.replace(tmp_path / "ssh")  # the one of before may still run
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("code", "stderr", "words"),
    [
        (
            255,
            "@@@ REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed.\n",
            "another host key",
        ),
        (255, "admin@pi.lan: Permission denied (publickey).\n", "refuses the SSH key for the user admin"),
        (
            255,
            "ssh: connect to host pi.lan port 2222: No route to host\n",
            "cannot be reached by SSH on port 2222",
        ),
        (1, "sudo: a password is required\n", "cannot use sudo without a password"),
        (1, "admin is not in the sudoers file.\n", "cannot use sudo without a password"),
        (1, "sudo: sorry, you must have a tty to run sudo\n", '"Defaults:admin !requiretty"; there, or use'),
        (
            1,
            "sudo: unable to resolve host pi: Name not known\nerror: The port is taken; free it.\n",
            "error: The port is taken; free it.",
        ),
        (1, "working\nThe port is taken; choose another one.\n", "The port is taken; choose another one."),
        (7, "", "ended with status 7"),
        (137, "sudo: unable to resolve host pi: Name not known\n", "ended with status 137"),
        (137, "sudo: Rechnername pi kann nicht aufgelöst werden\n", "ended with status 137"),
        (1, "sudo: setrlimit(RLIMIT_CORE): Operation not permitted\n", "ended with status 1"),
        (1, "sudo: unable to send audit message: Operation not permitted\n", "ended with status 1"),
        (1, "sudo: unable to mkdir /run/sudo/ts: No space left on device\n", "ended with status 1"),
        (1, "sudo: /etc/sudoers.d/x:3:1: syntax error\n", "ended with status 1"),
        (1, "sudo: /etc/sudoers.d/x:3:1: syntax error\nsudo: a password is required\n", "without a password"),
        (
            1,
            "Sorry, user admin is not allowed to execute '/bin/sh -s' as root on pi.\n",
            "may not use sudo on pi.lan",
        ),
    ],
)
def test_each_failure_is_a_sentence(code: int, stderr: str, words: str) -> None:
    message = explain(SERVER, code, stderr)
    assert words in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        (
            "Sorry, try again.\nsudo: 3 incorrect password attempts\n",
            "does not accept the sudoPassword",
        ),
        ("sudo: no password was provided\n", "does not accept the sudoPassword for the user admin"),
        (
            "sudo: Authentication failed, try again.\nsudo: Maximum 3 incorrect authentication attempts\n",
            "does not accept the sudoPassword for the user admin",
        ),
        ("admin is not in the sudoers file.\n", "admin may not use sudo on pi.lan"),
        ("sudo: sorry, you must have a tty to run sudo\n", "(Defaults requiretty), and a run has none; set"),
        ("sudo: unable to resolve host pi\nerror: The disk is full.\n", "error: The disk is full."),
    ],
)
def test_with_a_password_sudos_words_mean_something_else(stderr: str, words: str) -> None:
    message = explain(replace(SERVER, sudo_password="geheim"), 1, stderr)
    assert words in message
    assert "geheim" not in message


@pytest.mark.parametrize("said", ["bash: line 1: sudo: command not found", "sh: 1: sudo: not found"])
def test_a_server_without_sudo_is_told_of_root(said: str) -> None:
    message = explain(SERVER, 127, f"{said}\n")
    assert message.startswith("There is no sudo on ") and "sshUser root" in message


@pytest.mark.parametrize(("user", "head"), [("admin", "geheim\ngeheim\n#immich-exposure\n"), ("root", "")])
def test_a_password_goes_in_front_of_the_script(fake_ssh: FakeSsh, user: str, head: str) -> None:
    seen = fake_ssh("echo out")
    server = replace(SERVER, user=user, sudo_password="geheim")
    run_script(server, server.line("status"), "the script")
    assert (seen / "input").read_text() == f"{head}the script"
    assert "geheim" not in (seen / "arguments").read_text()


def test_ssh_trusts_the_pinned_key_alone_and_never_asks() -> None:
    argv = ssh_argv(SERVER, Path("/run/known_hosts"))
    assert argv[-1] == "pi.lan"
    for option in (
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=/run/known_hosts",
        "GlobalKnownHostsFile=/dev/null",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
    ):
        assert option in argv
    assert argv[argv.index("-i") + 1] == "/k/id_ed25519"


def test_known_hosts_names_the_port_unless_it_is_22() -> None:
    assert known_hosts_name(SERVER) == "[pi.lan]:2222"


def test_the_script_goes_by_standard_input(fake_ssh: FakeSsh) -> None:
    seen = fake_ssh("printf out")
    assert run_script(SERVER, "sudo -n sh -s -- status", "the script") == "out"
    assert (seen / "input").read_text() == "the script"
    arguments = (seen / "arguments").read_text()
    assert arguments.endswith("\nsudo -n sh -s -- status\n") and "the script" not in arguments


def test_a_dead_agent_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    with pytest.raises(SshError, match="SSH_AUTH_SOCK"):
        run_script(SERVER, "true", "")


def test_no_key_file_and_no_agent_is_told_before_ssh_runs(
    fake_ssh: FakeSsh,
) -> None:
    seen = fake_ssh("true")
    with pytest.raises(SshError, match="sshPrivateKeyFile is not set, and no SSH agent is running"):
        run_script(replace(SERVER, private_key_file=None), "true", "")
    assert not (seen / "arguments").exists()


def test_a_refused_agent_is_not_told_as_a_refused_file() -> None:
    denied = "admin@pi.lan: Permission denied (publickey).\n"
    assert "keys of the SSH agent" in explain(replace(SERVER, private_key_file=None), 255, denied)
    assert "keys of the SSH agent" not in explain(SERVER, 255, denied)


def test_an_agent_with_many_keys_is_the_cause_and_not_the_machine() -> None:
    tired = "Received disconnect from 192.168.1.20 port 22:2: Too many authentication failures\n"
    message = explain(replace(SERVER, private_key_file=None), 255, tired)
    assert "sshPrivateKeyFile" in message and "ssh-add -d" in message and "machine is on" not in message


def test_the_agent_is_not_to_blame_if_no_key_of_it_was_tried() -> None:
    """A server whose MaxAuthTries is 1 hangs up after the first key that it refuses."""
    tired = "Received disconnect from 192.168.1.20 port 22:2: Too many authentication failures\n"
    message = explain(SERVER, 255, tired)
    assert "refuses the SSH key for the user admin" in message and "agent" not in message


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            'WARNING: UNPROTECTED PRIVATE KEY FILE!\nLoad key "/k/id_ed25519": bad permissions\n',
            "chmod 600 /k/id_ed25519",
        ),
        ('Load key "/k/id_ed25519": error in libcrypto\n', "(error in libcrypto)"),
        ('Load key "/k/id_ed25519": invalid format\n', "(invalid format)"),
    ],
)
def test_a_key_file_that_ssh_does_not_take_is_not_the_servers_fault(said: str, words: str) -> None:
    message = explain(SERVER, 255, f"{said}admin@pi.lan: Permission denied (publickey).\n")
    assert words in message and "authorizedKeys" not in message and message.endswith(".")


def test_who_was_let_in_is_not_told_to_be_refused(fake_ssh: FakeSsh) -> None:
    """Once the script has begun, whatever sudo said was a warning, in any language."""
    fake_ssh(f"echo 'sudo: Hostname pi unbekannt' >&2; echo '{ssh._BEGUN}' >&2; exit 1")
    with pytest.raises(SshError, match="^the command ended with status 1 and said nothing"):
        run_script(SERVER, "sudo -n sh -s", "true", tell=lambda _line: None)


def test_a_hanging_server_is_named(fake_ssh: FakeSsh) -> None:
    fake_ssh("exec sleep 60")
    with pytest.raises(SshError, match="within 1 seconds"):
        run_script(SERVER, "true", "", timeout_seconds=1)


BANNER = "# Tailscale SSH requires an additional check.\n# To authenticate, visit: "


def test_a_login_page_of_tailscale_is_shown_at_once_and_waited_for_a_while(
    fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "https://login.tailscale.com/a/1a2b3c"
    monkeypatch.setattr(ssh, "LOGIN_SECONDS", 0.5)
    fake_ssh(f"printf '%s' '{BANNER}' >&2; echo '{page}' >&2; exec sleep 60")
    with pytest.raises(SshError, match=f"visit {page} and run the same command again"):
        run_script(SERVER, "true", "")
    assert capsys.readouterr().err.endswith(f"waits until you have logged in at {page}\n")


@pytest.mark.parametrize(
    "first", ["# Authentication checked with Tailscale SSH.", "Building the configuration"]
)
def test_who_has_logged_in_has_all_the_time_there_is(
    fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """A first build takes longer than a login may."""
    monkeypatch.setattr(ssh, "LOGIN_SECONDS", 1.5)
    page = "https://login.tailscale.com/a/1a2b3c"
    fake_ssh(f"echo '{BANNER}{page}' >&2; sleep 0.4; echo '{first}' >&2; sleep 2; echo done")
    assert run_script(SERVER, "true", "", timeout_seconds=math.inf) == "done\n"


def test_no_other_login_page_is_shown(fake_ssh: FakeSsh, capsys: pytest.CaptureFixture[str]) -> None:
    fake_ssh(f"echo '{BANNER}https://login.tailscale.com.evil.example/a/1a2b3c' >&2; exec sleep 60")
    with pytest.raises(SshError, match="the page that `ssh admin@pi.lan` names") as refusal:
        run_script(SERVER, "true", "", timeout_seconds=1)
    assert "evil" not in str(refusal.value) + capsys.readouterr().err


HOSTILE = r"\033]52;c;cm0gLXJmIH4K\007\033[2J\033[1;1HEnter the passphrase:\033[8m\342\200\256\302\233\061m"


def test_a_server_writes_nothing_but_words_into_the_terminal(fake_ssh: FakeSsh) -> None:
    fake_ssh(f"printf '{HOSTILE}\\nerror: {HOSTILE} It is fine.\\n' >&2; exit 1")
    with pytest.raises(SshError) as refusal:
        run_script(SERVER, "true", "")
    assert str(refusal.value) == "error: Enter the passphrase: It is fine."


def test_a_server_that_never_stops_talking_is_cut_short(
    fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "ANSWER_LIMIT", 1 << 20)
    fake_ssh("exec cat /dev/zero")
    with pytest.raises(SshError, match="no script of this project prints"):
        run_script(SERVER, "true", "")


def test_of_many_errors_the_last_counts(fake_ssh: FakeSsh) -> None:
    fake_ssh(
        "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo 'error: The disk is full.' >&2; exit 1"
    )
    with pytest.raises(SshError) as refusal:
        run_script(SERVER, "true", "")
    assert str(refusal.value) == "error: The disk is full."


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "error: The edge does not load.\nGoing back to the previous generation",
            "The edge does not load.",
        ),
        (
            "error: The edge does not load.\nGoing back\nerror: The way back failed.\nIt is written down.",
            "The edge does not load. The way back failed.",
        ),
        ("error: It is full.\nerror: It is full.", "It is full."),
    ],
)
def test_what_a_script_says_while_it_takes_back_hides_no_cause(
    fake_ssh: FakeSsh, said: str, told: str
) -> None:
    """The lines of progress were told when they came, and errors are left to the exception."""
    fake_ssh(f"echo '{said}' >&2; exit 1")
    with pytest.raises(SshError) as refusal:
        run_script(SERVER, "true", "")
    assert str(refusal.value) == f"error: {told}"


def test_a_long_answer_arrives_whole(fake_ssh: FakeSsh) -> None:
    fake_ssh("head -c 3000000 /dev/zero | tr '\\0' x; echo noise >&2")
    assert run_script(SERVER, "true", "y" * 300_000) == "x" * 3_000_000


def test_what_the_server_tells_is_passed_on_line_by_line_and_as_words(fake_ssh: FakeSsh) -> None:
    fake_ssh('exec sh "${0%/*}/input"')
    told: list[str] = []
    script = "printf 'one\\n\\033]0;x\\007two\\n\\nthree' >&2; echo out"
    assert run_script(SERVER, "true", script, tell=told.append) == "out\n"
    assert told == ["one", "two", "three"]


def test_after_minutes_of_silence_the_last_line_comes_again_and_an_error_does_not(
    fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal of 80 columns nothing else moves while the server builds."""
    monkeypatch.setattr(ssh, "SILENCE_SECONDS", 0.3)
    fake_ssh('exec sh "${0%/*}/input"')
    told: list[str] = []
    builds = "sleep 0.5; echo Building >&2; sleep 1.6; echo Activating >&2"
    script = f"{builds}; echo 'error: No.' >&2; sleep 0.5; exit 1"
    with pytest.raises(SshError, match="No."):
        run_script(SERVER, "true", script, tell=told.append)
    repeated = ["1 minute so far: Building", "2 minutes so far: Building", "4 minutes so far: Building"]
    assert told == ["Building", *repeated, "Activating", "error: No."]
    assert not [thread for thread in threading.enumerate() if "_watch" in thread.name]


def test_what_ssh_and_sudo_say_before_the_script_begins_is_not_passed_on(fake_ssh: FakeSsh) -> None:
    told: list[str] = []
    fake_ssh("echo 'We trust you have received the usual lecture' >&2; exec sh \"${0%/*}/input\"")
    run_script(SERVER, "true", "echo 'phone is out' >&2", tell=told.append)
    assert told == ["phone is out"]
    fake_ssh("echo '@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @' >&2; exit 255")
    with pytest.raises(SshError, match="compare it on the server itself"):
        run_script(SERVER, "true", "", tell=told.append)
    fake_ssh('exec sh "${0%/*}/input"')
    with pytest.raises(SshError, match="status 3 and said nothing"):
        run_script(SERVER, "true", "exit 3", tell=told.append)
    assert told == ["phone is out"]


PROVES = 'echo opened; read -r word || word=nothing; echo "$word" >"$1/word"; [ "$word" = proven ]'
"""Says a line, and ends well if it is told the word; what ssh runs gets its standard input as it is."""


def conversing(folder: Path, body: str, reply: Callable[[], bytes]) -> conversation.Said:
    argv = ["sh", "-c", f"IFS= read -r text; {body}", "sh", str(folder)]
    return conversation.Conversation(argv, b"text\n", 30, reply=reply).wait()


def test_a_reply_is_sent_once_the_script_has_spoken(tmp_path: Path) -> None:
    said = conversing(tmp_path, PROVES, lambda: b"proven\n")
    assert (said.status, said.stdout) == (0, b"opened\n")
    assert (tmp_path / "word").read_text() == "proven\n"


@pytest.mark.parametrize("error", [SshError("unsafe."), KeyboardInterrupt()])
def test_when_the_reply_fails_the_script_hears_nothing_and_the_failure_is_told(
    tmp_path: Path, error: BaseException
) -> None:
    def fail() -> bytes:
        raise error

    with pytest.raises(type(error)):
        conversing(tmp_path, PROVES, fail)
    assert (tmp_path / "word").read_text() == "nothing\n"


def test_a_script_that_ends_before_it_has_spoken_is_sent_nothing(tmp_path: Path) -> None:
    asked: list[bool] = []

    def reply() -> bytes:
        asked.append(True)
        return b"proven\n"

    said = conversing(tmp_path, "echo no >&2; exit 1", reply)
    assert (said.status, said.stderr, asked) == (1, b"no\n", [])
