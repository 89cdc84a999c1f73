"""`python -m handover` as a process with a terminal of its own."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handover.__main__ import _pairs, _report
from handover.address import AddressError, given_address, lan_address
from handover.files import read_handover
from handover.server import Outcome
from tests.unit.pki.facts import PASSPHRASE
from toolchain.paths import PROJECT

PATIENCE = 20.0


class Terminal:
    """The command in a terminal: standard output is one, standard input a pipe, as under make."""

    def __init__(self, arguments: Sequence[str], stdin: str) -> None:
        self._leader, follower = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "handover", *arguments],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=follower,
            stderr=subprocess.PIPE,
        )
        os.close(follower)
        assert self.process.stdin is not None
        self.process.stdin.write(stdin.encode())
        self.process.stdin.close()
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read the terminal until it shows the pattern."""
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < deadline and self.process.poll() is None, self.shown + self.errors()
            if select.select([self._leader], [], [], 0.1)[0]:
                self.shown += self._decoder.decode(os.read(self._leader, 65536))
        return found

    def errors(self) -> str:
        """Wait for the end and return what was logged."""
        assert self.process.stderr is not None
        self.process.wait(PATIENCE)
        return self.process.stderr.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self._leader)


@pytest.fixture
def terminal(keystore: Path) -> Iterator[Terminal]:
    """The command, waiting for the phone on loopback; the passphrase came through the pipe."""
    running = Terminal(
        ["--keystore", str(keystore), "--device", "phone", "--address", "127.0.0.1"], PASSPHRASE + "\n"
    )
    yield running
    running.close()


def post(url: str) -> bytes:
    """Fetch as a phone does whose owner went on past the warning."""
    context = ssl._create_unverified_context()
    with urllib.request.urlopen(url, data=b"", context=context, timeout=PATIENCE) as answer:
        body: bytes = answer.read()
    return body


def test_a_phone_fetches_its_bundle_and_the_terminal_shows_the_password_then(
    terminal: Terminal, keystore: Path
) -> None:
    password = read_handover(keystore, "phone", PASSPHRASE).password
    url = terminal.wait_for(r"https://127\.0\.0\.1:\d+/[\w-]{22}(?=\s)").group()
    terminal.wait_for(r"(?:[0-9A-F]{2} ){7}[0-9A-F]{2}\s+(?:[0-9A-F]{2} ){7}")
    assert password not in terminal.shown
    assert post(f"{url}/phone.p12") == (keystore / "devices" / "phone.p12").read_bytes()
    terminal.wait_for(password)
    with pytest.raises(urllib.error.HTTPError, match="410"):
        post(f"{url}/phone.p12")
    terminal.process.send_signal(signal.SIGINT)
    logged = terminal.errors()
    assert terminal.process.returncode == 0
    assert "was fetched by 127.0.0.1" in logged and "(410)" in logged
    for secret in (password, PASSPHRASE, url.rpartition("/")[2]):
        assert secret not in logged
    assert PASSPHRASE not in terminal.shown


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_by_hand(terminal: Terminal, by: signal.Signals) -> None:
    url = terminal.wait_for(r"https://127\.0\.0\.1:\d+/[\w-]{22}(?=\s)").group()
    terminal.process.send_signal(by)
    logged = terminal.errors()
    assert terminal.process.returncode == 130
    assert logged == ""
    with pytest.raises(urllib.error.URLError):
        post(url)


def test_an_iphone_that_needs_only_the_bundle_is_a_success(keystore: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(keystore, tmp_path / "keystore"))
    (copy / "devices" / "phone.mobileconfig").write_bytes(b"a profile")
    arguments = ["--keystore", str(copy), "--device", "phone", "--address", "127.0.0.1"]
    running = Terminal(arguments, PASSPHRASE + "\n")
    try:
        url = running.wait_for(r"https://127\.0\.0\.1:\d+/[\w-]{22}(?=\s)").group()
        post(f"{url}/phone.p12")
        running.wait_for(read_handover(copy, "phone", PASSPHRASE).password)
        running.process.send_signal(signal.SIGINT)
        running.errors()
        assert running.process.returncode == 0, "make would say Error"
    finally:
        running.close()


@pytest.mark.parametrize(
    ("fetched", "came", "status", "said"),
    [
        (["phone.p12"], True, 0, "phone.p12 was fetched, phone.mobileconfig was not"),
        ([], True, 3, "The 10 minutes are over. Nothing was fetched."),
        ([], False, 3, "Nobody came. The device must be in the same network"),
        ([], False, 3, "let it in at port 8765; choose another port with make handover PORT=..."),
    ],
)
def test_when_the_time_is_over_it_is_said_what_came_of_it(
    capsys: pytest.CaptureFixture[str], fetched: list[str], came: bool, status: int, said: str
) -> None:
    names = ("phone.p12", "phone.mobileconfig")
    handover: Any = SimpleNamespace(files=[SimpleNamespace(file_name=name) for name in names])
    server: Any = SimpleNamespace(
        download=SimpleNamespace(delivered_names=fetched), anybody_came=came, port=8765
    )
    assert _report(Outcome.TIME_OVER, server, handover, 10) == status
    assert said in " ".join(capsys.readouterr().out.split())


def run(arguments: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "handover", *arguments],
        cwd=PROJECT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_without_a_terminal_it_shows_no_password(keystore: Path) -> None:
    done = run(
        ["--keystore", str(keystore), "--device", "phone", "--address", "127.0.0.1"], PASSPHRASE + "\n"
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "only in a terminal" in done.stderr


def test_a_wrong_passphrase_ends_it_before_anything_listens(keystore: Path) -> None:
    running = Terminal(
        ["--keystore", str(keystore), "--device", "phone", "--address", "127.0.0.1"],
        "not the right passphrase\n",
    )
    try:
        assert "does not open with this passphrase" in running.errors()
        assert running.process.returncode == 1
    finally:
        running.close()


def test_a_passphrase_file_will_do(keystore: Path, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE + "\n")
    arguments = ["--keystore", str(keystore), "--device", "phone", "--address", "127.0.0.1"]
    running = Terminal([*arguments, "--passphrase-file", str(file)], "")
    try:
        running.wait_for("https://")
    finally:
        running.close()


@pytest.mark.parametrize("minutes", ["0", "61", "-1", "1.5", "ten", "²"])
def test_minutes_are_few(minutes: str) -> None:
    done = run(["--keystore", "x", "--device", "phone", "--minutes", minutes])
    assert done.returncode == 2
    assert "from 1 to 60" in done.stderr


def test_there_is_no_argument_for_a_secret() -> None:
    assert run(["--keystore", "x", "--device", "phone", "--passphrase", "secret"]).returncode == 2


# The address


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "localhost", "", "1.2"])
def test_an_address_that_is_not_one_of_one_network_is_refused(address: str) -> None:
    with pytest.raises(AddressError):
        given_address(address)


def test_an_address_of_another_machine_is_refused(keystore: Path) -> None:
    running = Terminal(
        ["--keystore", str(keystore), "--device", "phone", "--address", "192.0.2.7"], PASSPHRASE + "\n"
    )
    try:
        assert "one of this machine's own addresses" in " ".join(running.errors().split())
    finally:
        running.close()


class FakeProbe:
    """A UDP socket whose way to the outside begins at a given address, or which finds no way."""

    found: str | None = None

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> FakeProbe:
        return self

    def __exit__(self, *_: object) -> None: ...

    def connect(self, _: tuple[str, int]) -> None:
        if self.found is None:
            raise OSError(101, "Network is unreachable")

    def getsockname(self) -> tuple[str, int]:
        return (str(self.found), 12345)


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        ("192.168.1.20", True),
        ("10.0.0.7", True),
        ("8.8.8.8", False),
        ("100.64.3.2", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        (None, False),
    ],
)
def test_the_address_is_found_when_it_is_one_of_a_local_network(
    monkeypatch: pytest.MonkeyPatch, found: str | None, fits: bool
) -> None:
    monkeypatch.setattr(FakeProbe, "found", found)
    monkeypatch.setattr("handover.address.socket.socket", FakeProbe)
    if fits:
        assert str(lan_address()) == found
        return
    with pytest.raises(AddressError, match="--address"):
        lan_address()


def test_the_fingerprint_is_shown_as_phones_show_it() -> None:
    assert _pairs("0123456789abcdef" * 4).splitlines() == ["  01 23 45 67 89 AB CD EF"] * 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_port_can_be_chosen_and_a_taken_one_is_named(keystore: Path) -> None:
    port = free_port()
    arguments = [
        "--keystore",
        str(keystore),
        "--device",
        "phone",
        "--address",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    first = Terminal(arguments, PASSPHRASE + "\n")
    try:
        first.wait_for(rf"https://127\.0\.0\.1:{port}/")
        second = Terminal(arguments, PASSPHRASE + "\n")
        try:
            assert (
                f"port {port} of 127.0.0.1. Give --port (make handover PORT=...) another" in second.errors()
            )
            assert second.process.returncode == 1
        finally:
            second.close()
    finally:
        first.close()


@pytest.mark.parametrize("port", ["0", "1023", "65536", "x"])
def test_a_port_that_cannot_be_is_refused(keystore: Path, port: str) -> None:
    refused = Terminal(["--keystore", str(keystore), "--device", "phone", "--port", port], "")
    try:
        assert "must be a whole number from 1024 to 65535" in refused.errors()
        assert refused.process.returncode == 2
    finally:
        refused.close()
