"""How long the main job takes beside the same steps by hand: the same scripts, sent one by one over SSH.

    python -m tests.bench.main_job [--rounds N]

Both run in turn against the same lab, so that the ratios mean something whatever the machine. Both issue the
same certificates and wait for the same answer from outside. A person's typing is not in the figures by hand.
An ``up`` without any change is compared with a program that has as many commands on the server and nothing
else (``minimal/``).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from components.config.home import Immich, Lan
from components.exposure_check import PROVEN
from components.remote.module_files import entry_and_module, in_folder
from components.remote.remote_script import PayloadFile, script_text, sudo_line
from lab import Lab, LabError, ssh
from pki import AuthorityProfile, DeviceProfile, Keystore
from tests.lab.operator import PASSPHRASE, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.server.waiting import wait_until
from toolchain.paths import PROJECT

SETTINGS_OF_THE_SERVER = "/var/lib/immich-exposure/settings"
CONFIG_DIR = "/etc/nixos"
MINIMAL = PROJECT / "tests" / "bench" / "minimal"
IMMICH = Immich(address=None, port=2283, managed=True)


class ByHand:
    """A person with a shell: each step is one SSH connection."""

    def __init__(self, lab: Lab, folder: Path, settings: tuple[PayloadFile, ...]) -> None:
        self.lab = lab
        self.folder = folder
        self.settings = settings

    def expose(self) -> None:
        """Go through the chapter and wait until a stranger sees the refusal."""
        store = Keystore(self.folder, PASSPHRASE)
        authority = store.adopt_or_create_authority(AuthorityProfile())
        phones = [store.adopt_or_issue_device(name, DeviceProfile(name)) for name in ("phone", "laptop")]
        self._run("state", "--stack=by-hand", "begin", "by-hand", "no", "phone", "laptop")
        self._run("settings", "install", payload=self.settings)
        self._run("certificate", "issue")
        self._run("trust", "install", payload=(PayloadFile("device-ca.crt", authority.certificate_pem),))
        self._run("files", "install", CONFIG_DIR, payload=in_folder(entry_and_module(IMMICH, Lan.CLOSE)))
        self._run("module", "managed", CONFIG_DIR, 8443, "-", 2283, "no")
        lines = [f"{each.fingerprint} {int(each.not_after.timestamp())} {each.name}\n" for each in phones]
        self._run("devices", "install", payload=(PayloadFile("devices", "".join(lines)),))
        self._prove()

    def take_back(self) -> None:
        """Undo the chapter from its end."""
        self._run("funnel", "close", 443, 8443)
        self._run("devices", "clear")
        self._run("module", "restore", CONFIG_DIR)
        self._run("files", "remove", CONFIG_DIR)
        self._run("state", "remove")
        shutil.rmtree(self.folder)

    def _prove(self) -> None:
        line = sudo_line("prove", 443, 8443, 600, "always", CONFIG_DIR, "by-hand")
        words = ssh.command(self.lab.places, line)
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proof:
            assert proof.stdin and proof.stdout
            proof.stdin.write(script_text("funnel"))
            proof.stdin.flush()
            proof.stdout.readline()  # it is open
            wait_until(lambda: seen(self.lab, "/") == FORBIDDEN, "a stranger sees the refusal")
            proof.stdin.write(PROVEN)
            proof.stdin.close()
            proof.stdout.read()
        if proof.returncode:
            raise LabError("funnel prove failed by hand.")

    def _run(
        self, script: str, verb: str, *arguments: str | int, payload: tuple[PayloadFile, ...] = ()
    ) -> None:
        done = self.lab.ssh(sudo_line(verb, *arguments), text=script_text(script, payload))
        if done.returncode:
            raise LabError(f"{script} {verb} failed by hand: {done.stderr}")


def seconds(step: Callable[[], object]) -> float:
    """Run a step and return how long it took."""
    started = time.monotonic()
    step()
    return time.monotonic() - started


def measure(lab: Lab, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Run both ways in turn and return the seconds of each step by name."""
    operator = Operator(folder / "operator", lab.info(), stack="bench")
    operator.init()
    settings = settings_of(operator, lab)
    minimal = Operator(folder / "minimal", lab.info(), stack="bench", project=MINIMAL)
    minimal.init()
    times: dict[str, list[float]] = {}

    def note(name: str, step: Callable[[], object]) -> None:
        times.setdefault(name, []).append(seconds(step))
        print(f"  {name:<28} {times[name][-1]:6.2f} s", file=sys.stderr, flush=True)

    for number in range(rounds):
        by_hand = ByHand(lab, folder / f"by-hand-{number}", settings)
        note("by hand: expose", by_hand.expose)
        note("by hand: take back", by_hand.take_back)
        operator.devices("phone", "laptop")
        note("pulumi up", operator.up)
        minimal.set(steps=steps_on_the_server(operator))
        print(f"  {minimal.settings['steps']} steps on the server", file=sys.stderr)
        minimal.up()
        for _ in range(3):
            note("pulumi up, no change", operator.up)
            note("minimal program, no change", minimal.up)
        operator.set(features={"map": False})
        note("pulumi up, a setting changed", operator.up)
        operator.devices("phone", "laptop", f"tablet-{number}")
        note("pulumi up, one device more", operator.up)
        note("pulumi destroy", operator.destroy)
        operator.set(features=None)
        assert seen(lab, "/") == REFUSED
        shutil.rmtree(operator.keystore)
    minimal.destroy()
    return times


def steps_on_the_server(operator: Operator) -> int:
    """Return how many resources of the stack run something on the server."""
    resources = json.loads(operator.export())["deployment"]["resources"]
    return sum(bool({"connection", "hostKey"} & each.get("inputs", {}).keys()) for each in resources)


def settings_of(operator: Operator, lab: Lab) -> tuple[PayloadFile, ...]:
    """Return the settings that an exposure sends, so that both ways send the same."""
    operator.up()
    files = tuple(
        PayloadFile(name, lab.console(f"cat {SETTINGS_OF_THE_SERVER}/{name}").stdout)
        for name in ("edge.env", "bans.conf")
    )
    operator.destroy()
    shutil.rmtree(operator.keystore)
    return files


def report(times: dict[str, list[float]]) -> None:
    """Print medians, and ratios to the same work by hand."""
    median = {name: statistics.median(values) for name, values in times.items()}
    expose, take_back = median["by hand: expose"], median["by hand: take back"]
    bases = {
        "by hand: expose": expose,
        "by hand: take back": take_back,
        "pulumi destroy": take_back,
    }
    print(f"{'step':<28} {'median':>8} {'spread':>15}  ratio to the work by hand")
    for name, values in times.items():
        spread = f"{min(values):.2f}-{max(values):.2f}"
        print(f"{name:<28} {median[name]:>6.2f} s {spread:>15}  {median[name] / bases.get(name, expose):.2f}")
    setting, nothing = median["pulumi up, a setting changed"], median["pulumi up, no change"]
    print(f"a setting changed takes {setting / nothing:.2f} of an up without any change")
    pairs = zip(times["pulumi up, no change"], times["minimal program, no change"], strict=True)
    ratio = statistics.median(ours / least for ours, least in pairs)
    print(f"an up without any change takes {ratio:.2f} of the minimal program's")


def main() -> int:
    """Boot the lab, measure, report, and take the lab down."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.main_job", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    lab = Lab()
    lab.down()
    lab.up()
    try:
        with tempfile.TemporaryDirectory(prefix="immich-bench-") as folder:
            report(measure(lab, Path(folder), rounds))
    finally:
        lab.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
