"""Bad input with the real engine: one sentence with the remedy, nothing changed anywhere, the funnel shut."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Lab
from pki import AuthorityProfile, DeviceProfile, Keystore, Platform
from tests.lab.operator import PASSPHRASE, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.snapshot import folder_digest, output, snapshot
from tests.server.waiting import wait_until

pytestmark = pytest.mark.lab

ANOTHER_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
PASSWORD_OF_NOBODY = "another passphrase, long enough"


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator who has exposed nothing yet."""
    operator = Operator(tmp_path_factory.mktemp("refusals"), lab.info(), stack="refusals")
    operator.init()
    yield operator
    operator.destroy()


def refused(lab: Lab, operator: Operator, *words: str) -> str:
    """Run ``pulumi up``, which must fail with these words and change nothing; return what was printed."""
    server, keys = snapshot(lab), folder_digest(operator.keystore)
    printed = operator.fails()
    for word in words:
        assert word in printed, printed
    assert "Traceback" not in printed, printed
    after = snapshot(lab)
    assert (after.files, after.generation, after.serve) == (server.files, server.generation, server.serve)
    assert folder_digest(operator.keystore) == keys
    assert seen(lab, "/") == REFUSED
    return printed


# -- the configuration ----------------------------------------------------------------------------------


def test_all_problems_of_a_configuration_are_told_at_once(lab: Lab, operator: Operator) -> None:
    sound = dict(operator.settings)
    operator.set(
        hots="pi.lan",
        sshPort=99999,
        hostKey="SHA256:abcdef",
        devices=[
            {"name": "../phone", "platform": "ios"},
            {"name": "Tablet", "platform": "android"},
            {"name": "tablet", "platform": "amiga"},
        ],
    )
    printed = refused(
        lab, operator, "has 6 problems", "did you mean", "sshPort", "hostKey", "../phone", "amiga"
    )
    assert "clashes with the device 'Tablet'" in printed
    operator.settings = sound


# -- the way to the server ------------------------------------------------------------------------------


def test_a_changed_host_key(lab: Lab, operator: Operator) -> None:
    sound = operator.settings["hostKey"]
    operator.set(hostKey=ANOTHER_HOST_KEY)
    refused(lab, operator, "shows another host key than the configured hostKey; compare it on the server")
    operator.set(hostKey=sound)


def test_a_wrong_ssh_key(lab: Lab, operator: Operator, tmp_path: Path) -> None:
    sound = operator.settings["sshPrivateKeyFile"]
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(make, check=True)
    operator.set(sshPrivateKeyFile=str(tmp_path / "key"))
    refused(lab, operator, "refuses the SSH key for the user admin; add the public key")
    operator.set(sshPrivateKeyFile=sound)


def test_a_server_that_does_not_answer(lab: Lab, operator: Operator) -> None:
    operator.set(sshPort=2222)
    refused(lab, operator, "cannot be reached by SSH on port 2222", "check host, sshPort")
    operator.set(sshPort=22)


def test_a_dead_agent(lab: Lab, operator: Operator, tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(agent))
    operator.environment["SSH_AUTH_SOCK"] = str(agent)
    refused(lab, operator, "SSH_AUTH_SOCK names an agent that does not answer; start the agent")
    del operator.environment["SSH_AUTH_SOCK"]


def test_a_user_without_sudo(lab: Lab, operator: Operator) -> None:
    sudoers = lab.places.root / "etc" / "sudoers"
    sound = sudoers.read_text(encoding="utf-8")
    server, keys = snapshot(lab), folder_digest(operator.keystore)
    sudoers.write_text(sound.replace("NOPASSWD:", ""), encoding="utf-8")
    try:
        printed = operator.fails()
    finally:
        sudoers.write_text(sound, encoding="utf-8")
    assert "cannot use sudo without a password" in printed
    assert snapshot(lab).files == server.files
    assert folder_digest(operator.keystore) == keys


# -- the server -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something wrong with the server: how it comes about, how it goes, and what must be said."""

    name: str
    breaks: Callable[[Lab], object]
    repairs: Callable[[Lab], object]
    words: str


def shell(name: str, breaks: str, repairs: str, words: str) -> Fault:
    """Return a fault made and mended by commands on the server."""
    return Fault(name, lambda lab: checked(lab, breaks), lambda lab: checked(lab, repairs), words)


def checked(lab: Lab, command: str) -> None:
    """Run a command as root on the server; it must succeed."""
    done = lab.ssh(f"sudo sh -c '{command}'")
    assert done.returncode == 0, done.stderr


def version(number: str, words: str) -> Fault:
    """Return a Tailscale that says to be of another version and is the real one otherwise."""
    wrapper = "/usr/local/sbin/tailscale"
    real = "/usr/local/bin/tailscale"

    def lie(lab: Lab) -> None:
        text = f'#!/bin/sh\n[ "$1" != version ] || {{ echo {number}; exit 0; }}\nexec {real} "$@"\n'
        assert (
            lab.ssh(f"sudo tee {wrapper} >/dev/null && sudo chmod 755 {wrapper}", text=text).returncode == 0
        )

    return Fault(f"Tailscale {number}", lie, lambda lab: checked(lab, f"rm {wrapper}"), words)


def caps(https: int, funnel: int) -> Callable[[Lab], object]:
    """Return a switch of what the tailnet grants; it waits until the server has learnt of it."""

    def switch(lab: Lab) -> None:
        lab.internet("/caps", https=str(https), funnel=str(funnel))
        wanted = {name for name, on in (("https", https), ("funnel", funnel)) if on}
        status = "sudo tailscale status --json --peers=false"
        read = f"{status} | grep -oE '\"(https|funnel)\": null' | cut -d'\"' -f2"
        wait_until(lambda: set(output(lab, read).split()) == wanted, f"the node has just {wanted}", 30)

    return switch


def expire(expired: int) -> Callable[[Lab], object]:
    """Return a switch of the node's key: expired means logged out."""

    def switch(lab: Lab) -> None:
        lab.internet("/expire", name=lab.domain, expired=str(expired))
        state = "NeedsLogin" if expired else "Running"
        read = "sudo tailscale status --json --peers=false | grep BackendState"
        wait_until(lambda: state in output(lab, read), f"the node is {state}", 30)

    return switch


def immich(verb: str, answers: bool) -> Callable[[Lab], object]:
    """Return a switch of Immich that waits until it is so."""

    def switch(lab: Lab) -> None:
        checked(lab, f"systemctl {verb} immich-server")
        ask = "curl -s --max-time 2 http://127.0.0.1:2283/api/server/ping"
        wait_until(lambda: ('"pong"' in output(lab, ask)) is answers, f"Immich after {verb}", 30)

    return switch


CONFIGURATION = "/etc/nixos/configuration.nix"
FAULTS = [
    shell("not NixOS", "mv /etc/NIXOS /etc/NIXOS.x", "mv /etc/NIXOS.x /etc/NIXOS", "The server is not NixOS"),
    version("1.98.8", "Tailscale 1.98.8 is too old; set services.tailscale.package"),
    version("1.102.0", "Tailscale 1.102.0 rejects every funnel connection; use 1.102.2 or newer"),
    version("1.102.1", "Tailscale 1.102.1 rejects every funnel connection; use 1.102.2 or newer"),
    Fault("logged out", expire(1), expire(0), "run sudo tailscale up on the server"),
    Fault(
        "no HTTPS",
        caps(0, 1),
        caps(1, 1),
        "HTTPS certificates are not enabled in the tailnet",
    ),
    Fault("no funnel", caps(1, 0), caps(1, 1), "add the node attribute 'funnel' for it"),
    Fault("Immich off", immich("stop", False), immich("start", True), "Immich does not answer on port 2283"),
    shell(
        "Immich without admin",
        "touch /var/lib/immich-stub/uninitialized",
        "rm /var/lib/immich-stub/uninitialized",
        "create the administrator account first",
    ),
    shell(
        "port taken",
        "systemd-run -q --unit=port-taker python3 -m http.server 8443 --bind 127.0.0.1; sleep 1",
        "systemctl stop port-taker",
        "Port 8443 is taken on the server",
    ),
    shell(
        "funnel port taken",
        "tailscale serve --bg --tcp 443 tcp://localhost:22",
        "tailscale serve --tcp=443 off",
        "already serves something else on port 443",
    ),
    shell(
        "no LAN module",
        f"cp {CONFIGURATION} /tmp/kept; sed -i s,./lan-immich.nix,, {CONFIGURATION}",
        f"cp /tmp/kept {CONFIGURATION}",
        "add ./lan-immich.nix (the module that runs Immich on the LAN)",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_server_that_is_not_ready(lab: Lab, operator: Operator, fault: Fault) -> None:
    fault.breaks(lab)
    try:
        printed = refused(lab, operator, fault.words)
    finally:
        fault.repairs(lab)
    assert printed.count("\n    - ") == 1, "one fault is one sentence"


def test_two_faults_are_told_at_once(lab: Lab, operator: Operator) -> None:
    immich("stop", False)(lab)
    lie = version("1.98.8", "")
    lie.breaks(lab)
    try:
        refused(lab, operator, "Immich does not answer", "Tailscale 1.98.8 is too old")
    finally:
        lie.repairs(lab)
        immich("start", True)(lab)


def test_a_configuration_folder_that_is_not_there(lab: Lab, operator: Operator) -> None:
    operator.set(configDir="/etc/nowhere")
    refused(lab, operator, "There is no /etc/nowhere/configuration.nix on the server; set configDir")
    operator.set(configDir=None)


# -- the keystore ---------------------------------------------------------------------------------------


@pytest.fixture
def keystore(operator: Operator) -> Iterator[Path]:
    """A sound keystore of this stack, put back whatever a test does to it; nothing of it is in the state."""
    operator.destroy()
    if not operator.keystore.exists():
        store = Keystore(operator.keystore, PASSPHRASE, stack=operator.stack)
        store.adopt_or_create_authority(AuthorityProfile())
        for name, platform in (("phone", Platform.IOS), ("laptop", Platform.LINUX)):
            store.adopt_or_issue_device(name, DeviceProfile(name, platform=platform))
    kept = {path: path.read_bytes() for path in operator.keystore.rglob("*") if path.is_file()}
    yield operator.keystore
    for path, content in kept.items():
        path.write_bytes(content)


def test_a_wrong_passphrase(lab: Lab, operator: Operator, keystore: Path) -> None:
    operator.set_passphrase(PASSWORD_OF_NOBODY)
    printed = refused(lab, operator, "passphrase")
    assert PASSWORD_OF_NOBODY not in printed
    operator.set_passphrase(PASSPHRASE)


@pytest.mark.parametrize(
    "name",
    [
        "ca.crt",
        "ca.key",
        "devices/phone.crt",
        "devices/phone.key",
        "devices/phone.p12",
        "devices/phone.password",
    ],
)
def test_a_damaged_file(lab: Lab, operator: Operator, keystore: Path, name: str) -> None:
    path = keystore / name
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(byte ^ 0x15 for byte in content[middle : middle + 8])
    path.write_bytes(content)
    refused(lab, operator, path.name)


def test_a_key_of_another_authority(lab: Lab, operator: Operator, keystore: Path, tmp_path: Path) -> None:
    other = Keystore(tmp_path / "other", PASSPHRASE, stack=operator.stack)
    other.adopt_or_create_authority(AuthorityProfile())
    (keystore / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    refused(lab, operator, "ca.key")


def test_a_keystore_of_another_stack(lab: Lab, operator: Operator, tmp_path: Path) -> None:
    other = Keystore(tmp_path / "other", PASSPHRASE, stack="somebody-elses")
    other.adopt_or_create_authority(AuthorityProfile())
    operator.set(keystore=str(tmp_path / "other"))
    before = folder_digest(tmp_path / "other")
    refused(lab, operator, "somebody-elses")
    assert folder_digest(tmp_path / "other") == before
    operator.set(keystore=str(operator.keystore))


def test_with_everything_repaired_it_works(lab: Lab, operator: Operator, keystore: Path) -> None:
    fingerprints = folder_digest(keystore / "devices")
    operator.up()
    assert seen(lab, "/") == FORBIDDEN
    kept = folder_digest(keystore / "devices")
    assert {name: kept[name] for name in fingerprints} == fingerprints
