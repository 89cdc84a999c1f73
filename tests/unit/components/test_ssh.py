"""Failures of the connection are told as sentences with a remedy; ssh is called strictly."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from components.remote_script import Server
from components.ssh import SshError, explain, known_hosts_name, run_script, ssh_argv

SERVER = Server(
    host="pi.lan", port=2222, user="admin", host_key="ssh-ed25519 AAAA", private_key_file="/k/id_ed25519"
)


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
        (
            1,
            "sudo: unable to resolve host pi: Name not known\nerror: The port is taken; free it.\n",
            "error: The port is taken; free it.",
        ),
        (1, "working\nThe port is taken; choose another one.\n", "The port is taken; choose another one."),
        (7, "", "ended with status 7"),
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
            "does not take the sudoPassword",
        ),
        ("sudo: no password was provided\n", "does not take the sudoPassword for the user admin"),
        ("admin is not in the sudoers file.\n", "admin may not use sudo on pi.lan"),
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


@pytest.mark.parametrize(("user", "head"), [("admin", "geheim\n#immich-exposure\n"), ("root", "")])
def test_a_password_goes_in_front_of_the_script(
    mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch, user: str, head: str
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    run = mocker.patch("subprocess.run", return_value=subprocess.CompletedProcess([], 0, b"out", b""))
    server = replace(SERVER, user=user, sudo_password="geheim")
    run_script(server, server.line("status"), "the script")
    assert run.call_args.kwargs["input"] == f"{head}the script".encode()
    assert not any("geheim" in word for word in run.call_args.args[0])


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


def test_the_script_goes_by_standard_input(mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    run = mocker.patch("subprocess.run", return_value=subprocess.CompletedProcess([], 0, b"out", b""))
    assert run_script(SERVER, "sudo -n sh -s -- status", "the script") == "out"
    assert run.call_args.kwargs["input"] == b"the script"
    assert run.call_args.args[0][-1] == "sudo -n sh -s -- status"
    assert "the script" not in run.call_args.args[0]


def test_a_dead_agent_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    with pytest.raises(SshError, match="SSH_AUTH_SOCK"):
        run_script(SERVER, "true", "")


def test_no_key_file_and_no_agent_is_told_before_ssh_runs(
    mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    run = mocker.patch("subprocess.run")
    with pytest.raises(SshError, match="sshPrivateKeyFile is not set, and no SSH agent runs"):
        run_script(replace(SERVER, private_key_file=None), "true", "")
    run.assert_not_called()


def test_a_refused_agent_is_not_told_as_a_refused_file() -> None:
    denied = "admin@pi.lan: Permission denied (publickey).\n"
    assert "keys of the SSH agent" in explain(replace(SERVER, private_key_file=None), 255, denied)
    assert "keys of the SSH agent" not in explain(SERVER, 255, denied)


def test_a_hanging_server_is_named(mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    mocker.patch("subprocess.run", side_effect=subprocess.TimeoutExpired(["ssh"], 300))
    with pytest.raises(SshError, match="within 300 seconds"):
        run_script(SERVER, "true", "")
