"""The scripts against a real tailscaled and the real command: what the fake of the other tests only imitates.

A network namespace of its own, with no way to the outside, holds tailscaled and the lab's control server.
"""

import json
import os
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import toolchain
from tests.programs.harness import (
    CONFIRM_FUNNEL,
    DOMAIN,
    FUNNEL_STATE,
    OPEN_FUNNEL,
    Machine,
    Outcome,
    assert_sentence,
    result,
)
from tests.server.waiting import wait_until

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

ADDRESS = "10.213.9.1"
SPACES = ("immich-scripts-test", "immich-scripts-peer")
UP = (f"--login-server=http://{ADDRESS}:29080", "--hostname=immich", "--timeout=30s")
FUNNEL = {"TCPForward": "127.0.0.1:8443", "ProxyProtocol": 1}


@dataclass(frozen=True)
class Tailnet:
    """A running tailscaled: the folder of its socket, and how to run its command."""

    folder: Path

    def command(self, *words: str) -> list[str]:
        """The command line of `tailscale words`, inside the namespace."""
        inside = ["ip", "netns", "exec", SPACES[0]]
        program = str(toolchain.program("tailscale"))
        return [*inside, program, f"--socket={self.folder}/tailscaled.sock", *words]

    def tailscale(self, *words: str) -> str:
        """What `tailscale words` prints; fails the test when it fails."""
        done = subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serving(self) -> dict[str, Any]:
        """The whole serve configuration."""
        answer: dict[str, Any] = json.loads(self.tailscale("funnel", "status", "--json"))
        return answer

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Disconnect the node for a while, as `tailscale down` does."""
        self.tailscale("down")
        try:
            yield
        finally:
            self.tailscale("up", *UP)

    def grant(self, **granted: int) -> None:
        """Tell the control server what the node is granted: ``https`` and ``funnel``, 0 or 1."""
        self._admin("/caps?" + urllib.parse.urlencode({"https": 1, "funnel": 1, **granted}))
        wanted = {name for name, value in {"https": 1, "funnel": 1, **granted}.items() if value}
        wait_until(lambda: wanted == self._granted(), f"only {wanted} granted", 20)

    def _granted(self) -> set[str]:
        node = json.loads(self.tailscale("status", "--json", "--peers=false"))["Self"]
        return {"https", "funnel"} & set(node.get("CapMap") or {})

    def _admin(self, path: str) -> None:
        ask = [
            "curl",
            "--silent",
            "--show-error",
            "--fail",
            "--request",
            "POST",
            f"http://127.0.0.1:29081{path}",
        ]
        subprocess.run(["ip", "netns", "exec", SPACES[0], *ask], check=True, capture_output=True, timeout=20)


def network() -> None:
    """One namespace for all, joined to an empty one: with a loopback alone tailscaled waits for ever."""
    commands = [
        *(f"ip netns add {space}" for space in SPACES),
        f"ip link add scripts0 netns {SPACES[0]} type veth peer name scripts1 netns {SPACES[1]}",
        f"ip -n {SPACES[0]} address add {ADDRESS}/24 dev scripts0",
        f"ip -n {SPACES[0]} link set lo up",
        f"ip -n {SPACES[0]} link set scripts0 up",
        f"ip -n {SPACES[1]} link set scripts1 up",
        f"ip -n {SPACES[0]} route add default via 10.213.9.2",
    ]
    for command in commands:
        subprocess.run(command.split(), check=True, capture_output=True, timeout=20)


def end(process: subprocess.Popen[bytes]) -> None:
    """A tailscaled that still serves a command in a terminal can take its time."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def tailnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tailnet]:
    """A connected node, everything granted."""
    folder = tmp_path_factory.mktemp("tailnet")
    inside = ["ip", "netns", "exec", SPACES[0]]
    (folder / "control").mkdir()
    control = [str(toolchain.program("lab-internet")), "-addr", ADDRESS, "-ingress", f"{ADDRESS}:443"]
    control += ["-state", str(folder / "control"), "-acme-ca", str(folder / "acme.pem")]
    control += ["-roots", str(folder / "roots.pem"), "-ready-file", str(folder / "ready")]
    daemon = [
        str(toolchain.program("tailscaled")),
        "--tun=userspace-networking",
        "--port=0",
        "--no-logs-no-support",
    ]
    daemon += [f"--statedir={folder}/state", f"--socket={folder}/tailscaled.sock"]
    environment = {
        **os.environ,
        "SSL_CERT_FILE": str(folder / "acme.pem"),
        "TS_DEBUG_ACME_DIRECTORY_URL": f"https://{ADDRESS}:29140/dir",
    }
    running: list[subprocess.Popen[bytes]] = []
    try:
        network()
        with (folder / "log").open("wb") as log:
            for line, ready in ((control, "ready"), (daemon, "tailscaled.sock")):
                running.append(
                    subprocess.Popen(
                        [*inside, *line], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                )
                wait_until((folder / ready).exists, f"{line[0]} ready", 30)
        node = Tailnet(folder)
        node.tailscale("up", "--auth-key=tskey-auth-lab", *UP)
        yield node
    finally:
        for process in reversed(running):
            end(process)
        for space in SPACES:
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True, timeout=20)


@pytest.fixture
def machine(tmp_path: Path, tailnet: Tailnet) -> Machine:
    """A server whose `tailscale` is the real one, serving nothing yet."""
    tailnet.tailscale("funnel", "reset")
    machine = Machine(tmp_path, "dash")
    machine.unfake("ip")
    machine.fake("tailscale", f'exec {" ".join(tailnet.command())} "$@"')
    machine.remember(active="immich-exposure-lease.timer")
    machine.prepare()
    return machine


def funnel(machine: Machine, verb: str) -> Outcome:
    ports = () if verb == "enforce" else ("443", "8443")
    return machine.run("funnel", verb, *ports)


def opened(machine: Machine) -> Outcome:
    return machine.run_text(OPEN_FUNNEL, "443", "8443", "300")


def state(machine: Machine) -> object:
    return result(machine.run_text(FUNNEL_STATE, "443", "8443"))["state"]


def test_open_confirm_and_close_alone(machine: Machine, tailnet: Tailnet) -> None:
    assert result(opened(machine))["url"] == f"https://{DOMAIN}/"
    assert tailnet.serving() == {"TCP": {"443": FUNNEL}, "AllowFunnel": {f"{DOMAIN}:443": True}}
    assert state(machine) == "open"
    result(machine.run_text(CONFIRM_FUNNEL, "always"))
    for _ in range(2):
        assert funnel(machine, "close").status == 0
        assert tailnet.serving() == {}


@pytest.mark.parametrize("shared", [False, True])
def test_a_funnel_that_names_localhost_is_ours_to_mend_and_to_close(
    machine: Machine, tailnet: Tailnet, shared: bool
) -> None:
    if shared:
        tailnet.tailscale("serve", "--bg", "--tcp", "5432", "tcp://localhost:5432")
    others = tailnet.serving()
    by_name = ("funnel", "--bg", "--proxy-protocol", "1", "--tcp", "443", "tcp://localhost:8443")
    tailnet.tailscale(*by_name)
    assert state(machine) == "altered"
    result(opened(machine))
    assert tailnet.serving()["TCP"]["443"] == FUNNEL
    assert state(machine) == "open"
    tailnet.tailscale(*by_name)
    assert funnel(machine, "close").status == 0
    assert tailnet.serving() == others


def test_close_leaves_every_other_tools_entry(machine: Machine, tailnet: Tailnet) -> None:
    tailnet.tailscale("serve", "--bg", "--tcp", "5432", "tcp://localhost:5432")
    tailnet.tailscale("funnel", "--bg", "--tcp", "10000", "tcp://localhost:3000")
    tailnet.tailscale("serve", "--bg", "--https", "8444", "http://localhost:3000")
    others = tailnet.serving()
    result(opened(machine))
    assert tailnet.serving()["TCP"]["443"] == FUNNEL
    for _ in range(2):
        assert funnel(machine, "close").status == 0
        assert tailnet.serving() == others


def test_close_removes_the_flag_that_off_leaves_behind(machine: Machine, tailnet: Tailnet) -> None:
    tailnet.tailscale("serve", "--bg", "--tcp", "5432", "tcp://localhost:5432")
    others = tailnet.serving()
    result(opened(machine))
    tailnet.tailscale("funnel", "--tcp=443", "off")
    assert tailnet.serving()["AllowFunnel"] == {f"{DOMAIN}:443": True}
    assert state(machine) == "altered"
    assert funnel(machine, "close").status == 0
    assert tailnet.serving() == others


@pytest.mark.parametrize("shared", [False, True])
def test_close_when_the_attribute_was_taken_away(machine: Machine, tailnet: Tailnet, shared: bool) -> None:
    if shared:
        tailnet.tailscale("serve", "--bg", "--tcp", "5432", "tcp://localhost:5432")
    others = tailnet.serving()
    result(opened(machine))
    tailnet.grant(funnel=0)
    try:
        assert funnel(machine, "close").status == 0
        assert tailnet.serving() == others
        assert_sentence(opened(machine), "no funnel attribute; add")
        assert tailnet.serving() == others
    finally:
        tailnet.grant()


def test_close_alone_works_while_tailscale_is_stopped(machine: Machine, tailnet: Tailnet) -> None:
    result(opened(machine))
    with tailnet.stopped():
        assert funnel(machine, "close").status == 0
        assert tailnet.serving() == {}
        assert_sentence(opened(machine), "state Stopped")


def test_close_beside_others_waits_for_tailscale_to_be_back(machine: Machine, tailnet: Tailnet) -> None:
    """A stopped Tailscale changes no part of its configuration; nothing is open then, nor may be later."""
    tailnet.tailscale("serve", "--bg", "--tcp", "5432", "tcp://localhost:5432")
    others = tailnet.serving()
    result(opened(machine))
    with tailnet.stopped():
        for verb in ("close", "enforce"):
            outcome = funnel(machine, verb)
            assert (outcome.status, "as soon as it answers" in outcome.stderr) == (0, True)
    assert funnel(machine, "enforce").status == 0
    assert tailnet.serving() == others


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "straight",
    [
        ("--bg", "--tcp", "443", "tcp://localhost:2283"),
        ("--bg", "--tls-terminated-tcp", "443", "tcp://localhost:2283"),
        ("--bg", "2283"),
        ("--bg", "--https", "443", "--set-path", "/photos", "http://127.0.0.1:2283"),
        ("--bg", "https+insecure://localhost:8443"),
    ],
    ids=["raw", "tls", "web", "path", "edge"],
)
def test_a_funnel_straight_at_immich_is_closed(
    machine: Machine, tailnet: Tailnet, straight: tuple[str, ...], shared: bool
) -> None:
    if shared:
        tailnet.tailscale("serve", "--bg", "--tcp", "5432", "tcp://localhost:5432")
        tailnet.tailscale("funnel", "--bg", "--https", "10000", "http://localhost:3000")
    others = tailnet.serving()
    tailnet.tailscale("funnel", *straight)
    assert state(machine) == "altered"
    assert funnel(machine, "close").status == 0
    assert tailnet.serving() == others


def test_the_owners_own_funnel_to_immich_on_another_port(machine: Machine, tailnet: Tailnet) -> None:
    """It is taken down by the owner's word, path by path."""
    tailnet.tailscale("funnel", "--bg", "--https", "8443", "--set-path", "/notes", "http://localhost:3000")
    others = tailnet.serving()
    tailnet.tailscale("funnel", "--bg", "--https", "8443", "--set-path", "/photos", "http://localhost:2283")
    both = tailnet.serving()
    result(opened(machine))
    assert funnel(machine, "close").status == 0
    assert tailnet.serving() == both
    assert machine.run("exposure", "close").status == 0
    assert tailnet.serving() == others


def test_a_funnel_that_runs_in_a_terminal(machine: Machine, tailnet: Tailnet) -> None:
    """Alone it is reset; among others it can only be told of."""
    with subprocess.Popen(
        tailnet.command("funnel", "2283"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as terminal:
        try:
            wait_until(lambda: "Foreground" in tailnet.serving(), "the funnel stands", 20)
            tailnet.tailscale("serve", "--bg", "--tcp", "5432", "tcp://localhost:5432")
            assert_sentence(funnel(machine, "close"), "runs in somebody's terminal", "end it there")
            tailnet.tailscale("serve", "--tcp", "5432", "off")
            assert funnel(machine, "close").status == 0
            assert tailnet.serving() == {}
        finally:
            terminal.terminate()


def test_foreign_entry_on_the_port_stays(machine: Machine, tailnet: Tailnet) -> None:
    tailnet.tailscale("funnel", "--bg", "--https", "443", "http://localhost:3000")
    before = tailnet.serving()
    assert_sentence(opened(machine), "already serves something else")
    assert funnel(machine, "close").status == 0
    assert tailnet.serving() == before


def openssl(*words: str | Path) -> str:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_certificate_is_the_real_one(machine: Machine, tailnet: Tailnet) -> None:
    answer = result(machine.run("certificate", "issue"))
    assert answer["domain"] == DOMAIN
    assert (machine.state / "domain.env").read_text() == f"IMMICH_EXPOSURE_DOMAIN={DOMAIN}\n"
    certificate = machine.state / "tls/server.crt"
    chain = ["-CAfile", str(tailnet.folder / "roots.pem"), "-untrusted", str(certificate)]
    assert openssl("verify", *chain, "-verify_hostname", DOMAIN, certificate).endswith(": OK")
    shown = openssl("x509", "-in", certificate, "-noout", "-fingerprint", "-sha256")
    assert shown.split("=")[1].replace(":", "").lower() == answer["fingerprint"]
    assert (machine.state / "tls/server.key").stat().st_mode & 0o777 == 0o600
    before = machine.files(machine.state)
    assert result(machine.run("certificate", "issue")) == answer
    assert machine.files(machine.state) == before
