"""A home on the lab in which faults are injected, while a stranger keeps sending requests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import Lab, LabError
from lab.house import DEFAULT_HOUSE, house
from pki import Keystore, ProbeCredential
from tests.lab.operator import PASSPHRASE, Operator, PulumiFailedError
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.whole_server import Look, look, root, settle
from tests.server.waiting import wait_until

STATE = "/var/lib/immich-exposure"
PRIVATE = "/api/users/me"
PUBLIC = "/api/server/config"
PING = "/api/server/ping"
LINE_SECONDS = 120
STRANGER_EVERY_SECONDS = 0.3
YEAR = 365 * 86400

WRONG_CLOCK = """set -e
cp /usr/bin/date /var/cache/date.real
cat >/var/cache/date <<'END'
#!/bin/sh
case "$*" in +%s) echo {seconds} ;; *) exec /var/cache/date.real "$@" ;; esac
END
chmod 755 /var/cache/date
mount --bind /var/cache/date /usr/bin/date
"""
"""A container has its host's clock, so the command that the scripts ask is another one."""

RIGHT_CLOCK = "umount /usr/bin/date; rm /var/cache/date /var/cache/date.real"


class Fault(AssertionError):
    """A row did not go as it must; the message says what was seen."""


class NotReachedError(Fault):
    """A run ended by itself, with this exit status, before it came to where it was to be killed."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Stranger:
    """Asks for a private path again and again, and remembers every other answer than a refusal."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.words: list[str] = []
        self.got_in: list[str] = []

    def _ask(self) -> None:
        number = 0
        while not self._stopped.wait(STRANGER_EVERY_SECONDS):
            number += 1
            try:
                word = seen(self._lab, PRIVATE, source=f"203.0.113.{100 + number % 100}")
            except (LabError, OSError, ValueError):
                continue  # there is no server to ask at this moment
            if not self.words or self.words[-1] != word:
                self.words.append(word)
            if word not in (FORBIDDEN, REFUSED, "502", "503", "504"):
                self.got_in.append(word)

    def __enter__(self) -> Stranger:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._thread.join(30)


class Home:
    """A lab of its own with one operator; ``before`` is the server before anything of ours came."""

    def __init__(self, folder: Path, *, stack: str = "faults") -> None:
        self.lab = Lab(report=lambda _line: None)
        self.lab.down()
        self.lab.up(house(DEFAULT_HOUSE))
        self._stack = stack
        self.begin(folder)
        settle(self.lab)
        self.before: Look = look(self.lab)

    def begin(self, folder: Path) -> None:
        """Let another operator come, with nothing of what was before."""
        self.operator = Operator(folder, self.lab.info(), stack=self._stack)
        self.operator.init()
        self.printed = ""
        self.noted: list[str] = []
        """What was measured meanwhile, for whoever reads what the row prints."""
        self.is_as_before = False
        """Whether the server was seen to be as before anything of ours came; nothing happens after that."""

    def close(self) -> None:
        """Take the lab down."""
        self.lab.down()

    # -- runs that die ----------------------------------------------------------------------------------

    def run_until(self, verb: str, line: str) -> subprocess.Popen[str]:
        """Start ``pulumi VERB`` and return it as soon as it has printed a line that holds this expression.

        Raises ``NotReachedError`` when the run ends before, and ``Fault`` when it takes too long.
        """
        process = self.operator.start(verb)
        assert process.stdout is not None
        deadline = time.monotonic() + LINE_SECONDS
        self.printed = ""
        for printed in process.stdout:
            self.printed += printed
            if re.search(line, printed):
                return process
            if time.monotonic() > deadline:
                kill(process)
                raise Fault(f"pulumi {verb} took too long to print a line with {line!r}:\n{self.printed}")
        status = process.wait()
        raise NotReachedError(f"pulumi {verb} printed no line with {line!r}:\n{self.printed}", status)

    def operator_dies(self, process: subprocess.Popen[str]) -> None:
        """Kill the CLI with all that it started; what runs on the server runs on until it has ended."""
        kill(process)
        self.unlock_stack()
        wait_until(lambda: not self._script_runs(), "the script on the server has ended", 120)

    def power_fails(self, process: subprocess.Popen[str]) -> None:
        """The server loses its power, the operator gives up, and the power comes back."""
        self.lab.power_off()
        kill(process)
        self.unlock_stack()
        self.power_returns()

    def power_returns(self) -> None:
        """Boot the server that lost its power."""
        self.lab.reboot()
        settle(self.lab)

    def unlock_stack(self) -> None:
        """Do what the documentation says after a run that was killed."""
        self.operator.pulumi("cancel", "--yes", "--stack", self.operator.stack, ok=range(256))

    def _script_runs(self) -> bool:
        return root(self.lab, "pgrep -f '^sh -s -- ' || :") != ""

    # -- what must hold ---------------------------------------------------------------------------------

    def device(self, name: str = "phone") -> str:
        """What a device sees."""
        found = self._credentials(name)
        return self.sees(found[0]) if found else "no credential"

    def credential(self, name: str) -> ProbeCredential:
        """What this device has now, kept aside for when the keystore has let go of it."""
        [found] = self._credentials(name)
        aside = Path(tempfile.mkdtemp(prefix=f"held-{name}-", dir=self.operator.folder))
        kept = [shutil.copy(path, aside) for path in (found.certificate_path, found.key_path)]
        return ProbeCredential(name, *map(Path, kept))

    def has_credential(self, name: str) -> bool:
        """Whether the keystore has one that counts today."""
        return bool(self._credentials(name))

    def _credentials(self, name: str) -> list[ProbeCredential]:
        return [one for one in Keystore(self.operator.keystore).probe_credentials() if one.name == name]

    def sees(self, credential: ProbeCredential) -> str:
        """What whoever holds this certificate and key sees."""
        return seen(self.lab, PING, credential=credential, passphrase=PASSPHRASE)

    def need_out(self, lost: ProbeCredential) -> None:
        """Raise ``Fault`` if whoever holds a lost device's certificate and key still gets in."""
        if (saw := self.sees(lost)) == "200":
            raise Fault(f"the lost device {lost.name} sees {saw}")

    def need_exposed(self, device: str = "phone") -> None:
        """Raise ``Fault`` unless the exposure stands as it must."""
        wanted = {"a stranger": FORBIDDEN, "a visitor": "200", device: "200", "the lease": "confirmed"}
        deadline = time.monotonic() + 30
        while True:
            saw = {
                "a stranger": seen(self.lab, PRIVATE),
                "a visitor": seen(self.lab, PUBLIC),
                device: self.device(device),
                "the lease": self.lease(),
            }
            if saw == wanted:
                break
            if time.monotonic() > deadline:
                raise Fault(f"exposed, but {[f'{who} sees {what}' for who, what in saw.items()]}")
            time.sleep(1)
        units = "immich-edge immich-bans immich-exposure-lease.timer"
        if (states := root(self.lab, f"systemctl is-active {units}").split()) != ["active"] * 3:
            raise Fault(f"exposed, but the units are {states}")

    def need_closed(self) -> None:
        """Raise ``Fault`` unless nobody gets anything from outside."""
        if (saw := seen(self.lab, PRIVATE)) != REFUSED:
            raise Fault(f"closed, but a stranger sees {saw}")

    def need_as_before(self) -> None:
        """Raise ``Fault`` unless the whole server is as it was before anything of ours came."""
        settle(self.lab)
        if told := look(self.lab).since(self.before, times=False):
            raise Fault(f"after destroy the server is not as it was:\n{told}")
        self.need_closed()
        self.is_as_before = True

    def need_closed_or_proven(self, proven: str) -> None:
        """Raise ``Fault`` when a funnel without an end leads to anything but what was proven before."""
        if self.lease() == "confirmed" and seen(self.lab, PRIVATE) != REFUSED and self.edge() != proven:
            raise Fault("what the open funnel exposes was never proven, and nothing will close it")

    def lease(self) -> str:
        """The first word of the lease."""
        return root(self.lab, f"cut -d ' ' -f 1 {STATE}/lease 2>/dev/null || :")

    def edge(self) -> str:
        """A digest of what answers a visitor."""
        files = f"{STATE}/settings/edge.env {STATE}/device-ca.crt {STATE}/domain.env"
        return root(self.lab, f"cat {files} /run/current-system/activate 2>/dev/null | sha256sum")

    # -- what the owner does ----------------------------------------------------------------------------

    def up(self) -> str:
        """``pulumi up``."""
        return self.operator.up()

    def try_up(self) -> bool:
        """``pulumi up``, which may fail; returns whether it did."""
        try:
            self.operator.up()
        except PulumiFailedError:
            return True
        return False

    def destroy(self) -> None:
        """``pulumi destroy``, and then the server is as it was."""
        self.operator.destroy()
        self.need_as_before()

    def sh(self, command: str) -> str:
        """Run a command as root on the server; raises ``Fault`` when it fails."""
        done = self.lab.console(command)
        if done.returncode:
            raise Fault(f"{command} on the server: {done.stdout}{done.stderr}")
        return done.stdout.strip()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and its whole session."""
    send(process, signal.SIGKILL)
    process.wait()


def send(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to a process and its whole session: the engine gives its plugins groups of their own."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getsid(int(entry.name)) == process.pid:
                os.kill(int(entry.name), number)
        except ProcessLookupError:
            continue


@contextmanager
def home(folder: Path) -> Iterator[Home]:
    """A home for one row."""
    place = Home(folder)
    try:
        yield place
    finally:
        place.close()
