"""Bad input with the real engine: one sentence with the remedy, nothing changes anywhere, the funnel is
closed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from pki import AuthorityProfile, DeviceProfile, Keystore, Platform
from tests.lab.operator import PASSPHRASE, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.snapshot import folder_digest, output, snapshot
from tests.server.waiting import wait_until

pytestmark = pytest.mark.lab

ANOTHER_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
PASSPHRASE_OF_NOBODY = "another passphrase, long enough"


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator who has exposed nothing yet."""
    operator = Operator(tmp_path_factory.mktemp("refusals"), lab.info(), stack="refusals")
    operator.init()
    yield operator
    operator.destroy()


@contextmanager
def nothing_changes(lab: Lab, operator: Operator, stranger: str = REFUSED) -> Iterator[None]:
    """Assert that server and keystore are the same afterwards, and what a stranger then sees."""
    keystore = Path(operator.settings["keystore"])
    server, keys = snapshot(lab), folder_digest(keystore)
    yield
    after = snapshot(lab)
    assert (after.files, after.generation, after.serve) == (server.files, server.generation, server.serve)
    assert folder_digest(keystore) == keys
    assert seen(lab, "/") == stranger


@contextmanager
def changed(operator: Operator, **changes: Any) -> Iterator[None]:
    """Have other settings for a while."""
    sound = dict(operator.settings)
    operator.set(**changes)
    try:
        yield
    finally:
        operator.settings = sound


def assert_told(printed: str, *words: str) -> None:
    """Assert that each of these words stands in a line that ends as a sentence or an example does."""
    assert "Traceback" not in printed, printed
    lines = printed.partition("\nDiagnostics:\n")[2].splitlines()
    for word in words:
        told = [line for line in lines if word in line]
        assert told, f"nothing says {word!r}:\n{printed}"
        assert all(line.endswith((".", "?", "`")) for line in told), told


def refused(lab: Lab, operator: Operator, *words: str, stranger: str = REFUSED) -> str:
    """Run ``pulumi up``, which must fail with these words and change nothing; return what was printed."""
    with nothing_changes(lab, operator, stranger):
        printed = operator.fails()
    assert_told(printed, *words)
    return printed


# -- the configuration ----------------------------------------------------------------------------------


def test_all_problems_of_a_configuration_are_told_at_once(lab: Lab, operator: Operator) -> None:
    mistakes: dict[str, Any] = {
        "hots": "pi.lan",
        "sshPort": 99999,
        "hostKey": "SHA256:abcdef",
        "devices": [
            {"name": "../phone", "platform": "ios"},
            {"name": "Tablet", "platform": "android"},
            {"name": "tablet", "platform": "amiga"},
        ],
    }
    with changed(operator, **mistakes):
        printed = refused(
            lab,
            operator,
            "- hots is not a known key: did you mean 'host'?",
            "- sshPort = 99999: must be",
            "- hostKey = 'SHA256:abcdef': is a fingerprint",
            "- devices[0].name = '../phone': must be",
            "- devices[2].platform = 'amiga': must be one of",
            "- devices[2].name = 'tablet': clashes with the device 'Tablet'",
        )
    assert "has 6 problems" in printed
    assert printed.count("Example: `") == 5, "each but the unknown key has an example"


def test_a_passphrase_in_plain_text(lab: Lab, operator: Operator) -> None:
    stack_file = operator.folder / f"Pulumi.{operator.stack}.yaml"
    set_plain = ("config", "set", "--plaintext", "keystorePassphrase", "--config-file", str(stack_file))
    operator.pulumi(*set_plain, "--stack", operator.stack, stdin=PASSPHRASE)
    try:
        assert PASSPHRASE in stack_file.read_text(encoding="utf-8")
        printed = refused(lab, operator, "keystorePassphrase = [secret]: must be stored encrypted")
    finally:
        operator.set_passphrase(PASSPHRASE)
    assert PASSPHRASE not in printed


# -- the way to the server ------------------------------------------------------------------------------


def test_a_changed_host_key(lab: Lab, operator: Operator) -> None:
    with changed(operator, hostKey=ANOTHER_HOST_KEY):
        refused(lab, operator, "shows another host key than the configured hostKey; compare it on the server")


def test_a_wrong_ssh_key(lab: Lab, operator: Operator, tmp_path: Path) -> None:
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(make, check=True)
    with changed(operator, sshPrivateKeyFile=str(tmp_path / "key")):
        refused(lab, operator, "refuses the SSH key for the user admin; add the public key")


def test_a_server_that_does_not_answer(lab: Lab, operator: Operator) -> None:
    with changed(operator, sshPort=2222):
        printed = refused(lab, operator, "cannot be reached by SSH on port 2222")
    assert "check host, sshPort" in printed


@contextmanager
def sudo_asks_for_a_password(lab: Lab) -> Iterator[None]:
    """Change the rule from outside the server, since nobody on it could change it back."""
    sudoers = lab.places.root / "etc" / "sudoers"
    sound = sudoers.read_text(encoding="utf-8")
    assert "NOPASSWD:" in sound
    sudoers.write_text(sound.replace("NOPASSWD:", ""), encoding="utf-8")
    try:
        yield
    finally:
        sudoers.write_text(sound, encoding="utf-8")


def test_a_user_without_sudo(lab: Lab, operator: Operator) -> None:
    with nothing_changes(lab, operator), sudo_asks_for_a_password(lab):
        printed = operator.fails()
    assert_told(printed, "The user admin cannot use sudo without a password on")
    assert "set sudoPassword with `pulumi config set --secret sudoPassword`" in printed


def tries(lab: Lab) -> int:
    """Return how many passwords sudo has refused on this server so far."""
    done = lab.console("journalctl --quiet --output=cat --identifier=sudo")
    found = re.findall(r"(\d+) incorrect password attempt", done.stdout)
    return sum(map(int, found))


def test_a_wrong_sudo_password_costs_one_try(lab: Lab, operator: Operator) -> None:
    """NixOS locks an account after as many as its owner says."""
    before = tries(lab)
    operator.set_secret("sudoPassword", "not the password")
    try:
        with nothing_changes(lab, operator), sudo_asks_for_a_password(lab):
            printed = operator.fails()
    finally:
        operator.drop_secret("sudoPassword")
    assert_told(printed, "does not accept the sudoPassword for the user admin")
    assert tries(lab) == before + 1


# -- the server -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something wrong with the server: how it comes about, how it goes, and what must be said."""

    name: str
    breaks: Callable[[Lab], object]
    repairs: Callable[[Lab], object]
    words: tuple[str, ...]

    @contextmanager
    def there(self, lab: Lab) -> Iterator[None]:
        """Break the server, and mend it also when it broke but half."""
        try:
            self.breaks(lab)
            yield
        finally:
            self.repairs(lab)


def shell(name: str, breaks: str, repairs: str, words: str) -> Fault:
    """Return a fault made and mended by commands on the server."""
    return Fault(name, lambda lab: checked(lab, breaks), lambda lab: checked(lab, repairs), (words,))


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

    return Fault(f"Tailscale {number}", lie, lambda lab: checked(lab, f"rm -f {wrapper}"), (words,))


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


def tailscaled(verb: str, answers: bool) -> Callable[[Lab], object]:
    """Return a switch of Tailscale's daemon that waits until it is so."""

    def switch(lab: Lab) -> None:
        checked(lab, f"systemctl {verb} tailscaled")
        ask = "sudo tailscale status --json --peers=false | grep BackendState"
        wait_until(lambda: ("Running" in output(lab, ask)) is answers, f"tailscaled after {verb}", 30)

    return switch


def take_port(lab: Lab) -> None:
    """Let another program listen on the proxy port."""
    checked(lab, "systemd-run -q --unit=port-taker python3 -m http.server 8443 --bind 127.0.0.1")
    wait_until(lambda: output(lab, "ss -Hltn sport = :8443") != "", "the port is taken", 30)


NOT_NIXOS = shell(
    "not NixOS", "mv /etc/NIXOS /etc/NIXOS.x", "mv /etc/NIXOS.x /etc/NIXOS", "The server is not NixOS"
)
STOPPED = Fault(
    "tailscaled stopped",
    tailscaled("stop", False),
    tailscaled("start", True),
    ("Tailscale does not answer on the server; start it with systemctl start tailscaled",),
)
LOGGED_OUT = Fault("logged out", expire(1), expire(0), ("run sudo tailscale up on the server",))
NOTHING_GRANTED = Fault(
    "neither HTTPS nor a funnel",
    caps(0, 0),
    caps(1, 1),
    ("HTTPS certificates are not enabled in the tailnet", "add the node attribute 'funnel' for it"),
)
NO_ADMIN = shell(
    "Immich without admin",
    "touch /var/lib/immich-stub/uninitialized",
    "rm -f /var/lib/immich-stub/uninitialized",
    "create the administrator account first",
)
PORT_TAKEN = Fault(
    "port taken",
    take_port,
    lambda lab: checked(lab, "systemctl stop port-taker"),
    ("Port 8443 is taken on the server",),
)
FUNNEL_PORT_TAKEN = shell(
    "funnel port taken",
    "tailscale serve --bg --tcp 443 tcp://localhost:22",
    "tailscale serve --tcp=443 off",
    "already serves something else on port 443",
)
TOO_OLD = version("1.98.8", "Tailscale 1.98.8 is too old; set services.tailscale.package")
REJECTING = version("1.102.0", "Tailscale 1.102.0 rejects every funnel connection; use 1.102.2 or newer")

TOGETHER = [
    [NOT_NIXOS],
    [STOPPED, NO_ADMIN, PORT_TAKEN],
    [LOGGED_OUT, REJECTING],
    [NOTHING_GRANTED, FUNNEL_PORT_TAKEN, TOO_OLD],
]


@pytest.mark.parametrize("faults", TOGETHER, ids=lambda faults: ", ".join(fault.name for fault in faults))
def test_a_server_that_is_not_ready(lab: Lab, operator: Operator, faults: list[Fault]) -> None:
    """All that is in the way is told at once; `test_preflight_rules.py` has each fault alone."""
    words = [word for fault in faults for word in fault.words]
    with ExitStack() as there:
        for fault in faults:
            there.enter_context(fault.there(lab))
        printed = refused(lab, operator, *words)
    assert printed.count("\n    - ") == len(words), "one fault is one sentence"


def test_a_configuration_folder_that_is_not_there(lab: Lab, operator: Operator) -> None:
    with changed(operator, configDir="/etc/nowhere"):
        refused(lab, operator, "There is no /etc/nowhere/configuration.nix on the server; set configDir")


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


def test_a_damaged_file(lab: Lab, operator: Operator, keystore: Path) -> None:
    """`test_keystore_refusals.py` has every file and damage, without a server."""
    path = keystore / "devices/phone.p12"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(byte ^ 0x15 for byte in content[middle : middle + 8])
    path.write_bytes(content)
    printed = refused(lab, operator, str(path))
    assert re.search(r"error: .*\b(Restore|restore it|Delete)\b", printed), printed


def test_a_key_of_another_authority(lab: Lab, operator: Operator, keystore: Path, tmp_path: Path) -> None:
    other = Keystore(tmp_path / "other", PASSPHRASE, stack=operator.stack)
    other.adopt_or_create_authority(AuthorityProfile())
    (keystore / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    refused(lab, operator, f"{keystore / 'ca.key'} is not the key of {keystore / 'ca.crt'}. Restore both")


def test_a_keystore_of_another_stack(lab: Lab, operator: Operator, tmp_path: Path) -> None:
    other = Keystore(tmp_path / "other", PASSPHRASE, stack="somebody-elses")
    other.adopt_or_create_authority(AuthorityProfile())
    before = folder_digest(tmp_path / "other")
    with changed(operator, keystore=str(tmp_path / "other")):
        refused(
            lab, operator, f"belongs to the stack 'somebody-elses', not to {operator.stack!r}. Set `keystore`"
        )
    assert folder_digest(tmp_path / "other") == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB of the operator's."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Write a file until there is no room."""
    with (disk / "filling").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)


def test_a_disk_that_takes_no_keys(lab: Lab, operator: Operator, small_disk: Path) -> None:
    """Authority and phone are there; the laptop's key finds no room, and then no leave to write."""
    keystore = small_disk / "keystore"
    store = Keystore(keystore, PASSPHRASE, stack=operator.stack)
    store.adopt_or_create_authority(AuthorityProfile())
    store.adopt_or_issue_device("phone", DeviceProfile("phone", platform=Platform.IOS))
    with changed(operator, keystore=str(keystore)):
        fill(small_disk)
        refused(
            lab, operator, f"The keystore {keystore} cannot be written because the disk is full. Free some"
        )
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        refused(lab, operator, f"The keystore {keystore} is on a read-only disk. Mount the disk for writing")
        operator.destroy()


# -- later than the preflight ---------------------------------------------------------------------------


def test_a_script_that_fails_has_the_last_word(lab: Lab, operator: Operator) -> None:
    """Tailscale refuses the DNS record that a certificate needs: told below the progress of the script."""
    operator.destroy()
    output(lab, "sudo find /var/lib/tailscale/certs -name '*.crt' -delete")  # what it has it does not ask for
    before = snapshot(lab)
    lab.internet("/setdns", fail="1")
    try:
        printed = operator.fails()
    finally:
        lab.internet("/setdns", fail="0")
    assert_told(printed, f"error: Tailscale could not get a certificate for {lab.domain} (")
    after = snapshot(lab)
    assert (after.generation, after.serve) == (before.generation, before.serve)
    assert seen(lab, "/") == REFUSED
    operator.destroy()
    assert snapshot(lab).files == before.files


# -- with everything repaired, and while exposed --------------------------------------------------------


@pytest.mark.usefixtures("keystore")
def test_with_everything_repaired_it_works(lab: Lab, operator: Operator) -> None:
    keys = keys_of(operator)
    operator.up()
    assert seen(lab, "/") == FORBIDDEN
    assert keys and keys_of(operator) == keys


def keys_of(operator: Operator) -> dict[str, str]:
    """Digests of the keys in the keystore."""
    return {
        name: digest for name, digest in folder_digest(operator.keystore).items() if name.endswith(".key")
    }


@pytest.fixture
def exposed(lab: Lab, operator: Operator) -> None:
    """See to it that the server is exposed."""
    if seen(lab, "/") != FORBIDDEN:
        operator.up()


@pytest.mark.usefixtures("exposed")
def test_bad_input_leaves_an_exposure_as_it_is(lab: Lab, operator: Operator) -> None:
    with changed(operator, bans={"maxRetry": 0}, devices=[{"name": "phone", "platform": "ios"}]):
        refused(lab, operator, "- bans.maxRetry = 0: must be", stranger=FORBIDDEN)


@pytest.mark.usefixtures("exposed")
def test_a_wrong_passphrase_leaves_an_exposure_as_it_is(lab: Lab, operator: Operator) -> None:
    ca_key = operator.keystore / "ca.key"
    told = f"{ca_key} does not open with this passphrase. Set `keystorePassphrase` to the one"
    operator.set_passphrase(PASSPHRASE_OF_NOBODY)
    try:
        printed = refused(lab, operator, told, stranger=FORBIDDEN)
    finally:
        operator.set_passphrase(PASSPHRASE)
    assert PASSPHRASE_OF_NOBODY not in printed


@pytest.mark.usefixtures("exposed")
def test_closing_needs_no_sound_configuration(lab: Lab, operator: Operator) -> None:
    keys = keys_of(operator)
    with changed(operator, bans="often", sshPort="x", hots="pi.lan"):
        operator.destroy()
    assert seen(lab, "/") == REFUSED
    assert "TCP" not in snapshot(lab).serve
    assert keys_of(operator) == keys
