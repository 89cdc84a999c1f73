"""Calls share a connection where they can, with real OpenSSH; where they cannot, nobody notices."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from components.remote import conversation, shared_connection, ssh
from components.remote.remote_script import Server
from components.remote.shared_connection import SharedConnections
from components.remote.ssh import SshError, run_script
from toolchain.paths import PROJECT

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(os.geteuid() != 0, reason="root alone can start a server that lets anybody in"),
]


class Daemon:
    """A server of OpenSSH on loopback, for root with a key, and what it says."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        (folder / "config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/key.pub\nStrictModes no\nLogLevel INFO\nPermitRootLogin yes\n"
            # Bash then takes itself for a shell within a shell, and reads none of root's start-up files,
            # which may wait for something.
            "SetEnv SHLVL=1\n" + "".join(f"{line}\n" for line in lines)
        )
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.log = self.folder / "log"
        self.process = subprocess.Popen(
            # Whatever it starts ends with it.
            ["unshare", "--pid", "--fork", "--kill-child", sshd(), "-D", "-e", "-f", self.folder / "config"],
            stdin=subprocess.DEVNULL,
            stderr=self.log.open("w"),
        )
        wait_until(lambda: "Server listening" in self.log.read_text())

    def stop(self) -> None:
        """End it with all its connections, as a power cut would."""
        self.process.kill()
        self.process.wait()

    @property
    def connections(self) -> int:
        """How many there have been."""
        return self.log.read_text().count("Accepted publickey")

    def server(self) -> Server:
        """Return how it is reached."""
        host_key = " ".join((self.folder / "host.pub").read_text().split()[:2])
        return Server(
            host="127.0.0.1",
            port=self.port,
            user="root",
            host_key=host_key,
            private_key_file=str(self.folder / "key"),
        )


def sshd() -> str:
    """Return the program; it must be called by its whole path."""
    return shutil.which("sshd", path="/usr/sbin:/run/current-system/sw/bin") or "sshd"


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for what must come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep sockets to this test, in a folder with a short name: other runs on the machine have theirs."""
    tmp_path_factory.getbasetemp()  # made where it belongs, also when nothing has asked for it before
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedConnections]:
    """What a process begins with."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    connections = SharedConnections()
    monkeypatch.setattr(ssh, "SHARED", connections)
    yield connections
    connections.end()
    wait_until(lambda: not sockets())


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A server that lets anybody have as many sessions as usual."""
    running = Daemon(tmp_path)
    yield running
    running.stop()


def say(server: Server, word: str, told: list[str] | None = None) -> str:
    """Let the server say a word."""
    return run_script(
        server, "sh -s", f"echo {word}; echo heard >&2\n", tell=([] if told is None else told).append
    )


def two_calls(daemon: Daemon) -> None:
    """Make the calls before those that share, and wait for what these share."""
    said = [run_script(daemon.server(), f"echo {word}", "") for word in ("one", "two")]
    assert said == ["one\n", "two\n"]
    wait_until(lambda: daemon.connections == 3 and sockets())


def sockets() -> list[Path]:
    """Return the sockets of all masters."""
    return list(Path(tempfile.gettempdir()).glob("ie-*/s"))


def test_from_the_third_call_on_there_is_one_connection(daemon: Daemon, shared: SharedConnections) -> None:
    two_calls(daemon)
    told: list[str] = []
    assert [say(daemon.server(), word, told) for word in ("three", "four", "five")][2] == "five\n"
    assert daemon.connections == 3
    assert told == ["heard"] * 3
    assert run_script(daemon.server(), "cat", "x" * 3_000_000) == "x" * 3_000_000
    with pytest.raises(SshError, match=r"^error: The disk is full\.$"):
        run_script(daemon.server(), "sh -s", "echo 'error: The disk is full.' >&2; exit 3\n")
    assert daemon.connections == 3
    wait_until(lambda: not sockets())
    # What failed may have broken it.
    assert say(daemon.server(), "again") == "again\n" and daemon.connections == 4


def test_a_script_that_has_begun_starts_it(daemon: Daemon, shared: SharedConnections) -> None:
    told: list[str] = []
    assert run_script(daemon.server(), "sh -s", "sleep 1; echo one\n", tell=told.append) == "one\n"
    wait_until(lambda: bool(sockets()))
    assert say(daemon.server(), "two") == "two\n" and daemon.connections == 2


def test_calls_at_the_same_time_share_it(daemon: Daemon, shared: SharedConnections) -> None:
    two_calls(daemon)
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda number: say(daemon.server(), str(number)), range(8)))
    assert said == [f"{number}\n" for number in range(8)]
    assert daemon.connections == 3


def test_a_process_that_calls_once_makes_one_connection(daemon: Daemon, shared: SharedConnections) -> None:
    """Of one whose script tells what it does a second call is expected."""
    assert run_script(daemon.server(), "echo one", "") == "one\n"
    time.sleep(0.5)
    assert daemon.connections == 1 and not sockets()


def test_where_one_session_is_all_that_is_given_nobody_notices(
    tmp_path: Path, shared: SharedConnections
) -> None:
    daemon = Daemon(tmp_path, "MaxSessions 1")
    try:
        two_calls(daemon)
        told: list[str] = []
        assert [say(daemon.server(), word, told) for word in ("three", "four")] == ["three\n", "four\n"]
        assert told == ["heard", "heard"]
        assert daemon.connections == 5
        wait_until(lambda: not sockets())
    finally:
        daemon.stop()


def test_after_a_power_cut_a_call_has_a_connection_of_its_own(
    daemon: Daemon, shared: SharedConnections
) -> None:
    two_calls(daemon)
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(run_script, daemon.server(), "exec sleep 60", "")
        time.sleep(1)
        daemon.stop()
        with pytest.raises(SshError, match="cannot be reached by SSH on port"):
            cut.result(timeout=20)
    with pytest.raises(SshError, match="cannot be reached by SSH on port"):
        say(daemon.server(), "nothing")
    daemon.start()
    assert say(daemon.server(), "three") == "three\n"


def masters() -> list[int]:
    """Return the processes of all masters."""
    pattern = f"^ssh -M -S {tempfile.gettempdir()}/"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False)
    return [int(word) for word in found.stdout.split()]


def test_a_master_that_was_stopped_is_ended_and_the_call_has_a_connection_of_its_own(
    daemon: Daemon, shared: SharedConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_connection, "GREETING_SECONDS", 1)
    two_calls(daemon)
    [master] = masters()
    os.kill(master, signal.SIGSTOP)
    assert say(daemon.server(), "three") == "three\n" and daemon.connections == 4
    assert not sockets()
    wait_until(lambda: not masters())
    assert say(daemon.server(), "four") == "four\n" and daemon.connections == 5


def test_a_call_whose_master_is_stopped_meanwhile_ends_with_a_sentence(
    daemon: Daemon, shared: SharedConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a script may take; one that is at work when the master is asked goes on."""
    monkeypatch.setattr(shared_connection, "GREETING_SECONDS", 1)
    monkeypatch.setattr(conversation, "LIFE_SECONDS", 0.5)
    two_calls(daemon)
    assert run_script(daemon.server(), "sleep 2; echo done", "", timeout_seconds=math.inf) == "done\n"
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(run_script, daemon.server(), "exec sleep 60", "", timeout_seconds=math.inf)
        time.sleep(1)
        [master] = masters()
        os.kill(master, signal.SIGSTOP)
        with pytest.raises(SshError, match="no longer answers on this machine"):
            cut.result(timeout=20)
    assert not sockets()
    assert say(daemon.server(), "three") == "three\n"


def test_another_host_key_is_refused_however_many_calls_went_well(
    daemon: Daemon, shared: SharedConnections
) -> None:
    two_calls(daemon)
    other = replace(daemon.server(), host_key=f"{daemon.server().host_key[:-4]}AAAA")
    with pytest.raises(SshError, match="shows another host key"):
        say(other, "nothing")


def test_nobody_keeps_it_for_long(
    daemon: Daemon, shared: SharedConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider whose engine was killed lives on. What is under way comes to its end."""
    monkeypatch.setattr(shared_connection, "LIFE_SECONDS", 2)
    monkeypatch.setattr(conversation, "LIFE_SECONDS", 0.5)
    two_calls(daemon)
    assert run_script(daemon.server(), "sh -s", "sleep 4; echo done\n") == "done\n"
    assert daemon.connections == 3
    wait_until(lambda: not sockets())
    assert say(daemon.server(), "again") == "again\n" and daemon.connections == 4


KILLED = """
import os, signal, sys, time
from pathlib import Path
from components.remote.remote_script import Server
from components.remote.ssh import run_script
server = Server("127.0.0.1", int(sys.argv[1]), "root", sys.argv[2], sys.argv[3])
for _ in range(2):
    run_script(server, "true", "")
Path(sys.argv[4]).touch()
time.sleep(60)
"""


def test_the_connection_ends_with_the_process_however_that_ends(daemon: Daemon, tmp_path: Path) -> None:
    server, ready = daemon.server(), tmp_path / "ready"
    assert server.private_key_file is not None
    arguments = [str(daemon.port), server.host_key, server.private_key_file, str(ready)]
    environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], cwd=PROJECT, env=environment, start_new_session=True
    )
    try:
        wait_until(lambda: ready.exists() and daemon.connections == 3 and sockets(), 30)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wait_until(lambda: not list(Path(tempfile.gettempdir()).iterdir()))
