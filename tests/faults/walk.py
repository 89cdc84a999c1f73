"""Random walks: ``python -m tests.faults.walk [--seed N] [--steps N] [--minutes N]``.

A walk strings together what owners, their machines and other people do to an exposure, drawn from a seed, and
looks from outside after each step. Whatever came before, the final ``up`` puts everything in order, and
``destroy`` returns the server to how it was. The same seed draws the same steps. A walk that fails becomes a
row of the matrix (rows.py).
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pki import ProbeCredential
from tests.faults.home import (
    PRIVATE,
    RIGHT_CLOCK,
    STATE,
    WRONG_CLOCK,
    YEAR,
    Fault,
    Home,
    NotReachedError,
    Stranger,
    home,
)
from tests.faults.matrix import FAILURES
from tests.faults.rows import DESTROY, FIRST_UP, LITTLE_ROOM, UPDATE
from tests.lab.operator import Operator, PulumiFailedError
from tests.lab.outside import REFUSED, seen
from tests.lab.whole_server import root, settle
from tests.server.waiting import wait_until
from toolchain.paths import PROJECT

STEPS = 12
NAMES = ("phone", "laptop", "tablet", "watch")
OWN_LINE = "  # mine: step {}"
TIMED_UNITS = ("immich-exposure-lease.service", "immich-exposure-devices.service")


@dataclass
class Walk:
    """Where a walk is: what the owner wants, what was proven, and who must never get in again."""

    home: Home
    draw: random.Random
    proven: str = ""
    standing: bool = False
    """Something of ours may be on the server."""
    by_hand: bool = False
    """The owner has closed the funnel on the server."""
    in_doubt: bool = True
    """Something has happened since the last ``up`` that ended well, so the funnel may be closed."""
    devices: list[str] = field(default_factory=lambda: ["phone", "laptop"])
    leaving: dict[str, ProbeCredential] = field(default_factory=dict)
    """Taken out of the config: the next ``up`` shuts them out."""
    revoked: set[str] = field(default_factory=set)
    """Names that were revoked on the server and are still in the config."""
    lost: list[ProbeCredential] = field(default_factory=list)
    own_lines: list[str] = field(default_factory=list)
    changes: int = 0

    # -- what must hold after each step -----------------------------------------------------------------

    def look(self) -> None:
        """Raise ``Fault`` when something does not hold."""
        self.look_from_outside()
        self.look_at_theirs()
        if not self.in_doubt:
            self.need_exposed()

    def look_from_outside(self) -> None:
        """Raise ``Fault`` unless the funnel is closed or proven, and whoever is lost is out."""
        if self.home.lease() == "confirmed" and self._is_open() and self.behind() != self.proven:
            raise Fault("what the open funnel exposes was never proven, and nothing will close it")
        if self.by_hand and self._is_open():
            raise Fault("the funnel that its owner has closed is open")
        for credential in self.lost:
            self.home.need_out(credential)

    def need_exposed(self) -> None:
        """Raise ``Fault`` unless strangers, visitors and a device see what they must."""
        inside = [name for name in self.devices if name not in self.revoked]
        if inside:
            self.home.need_exposed(self.draw.choice(inside))

    def look_at_theirs(self) -> None:
        """Raise ``Fault`` when something of the owner's has changed."""
        text = root(self.home.lab, "cat /etc/nixos/configuration.nix")
        for line in self.own_lines:
            if line.strip() not in text:
                raise Fault(f"the owner's line {line!r} is gone from configuration.nix")
        if "pong" not in root(self.home.lab, "curl -s http://127.0.0.1:2283/api/server/ping"):
            wait_until(
                lambda: "pong" in root(self.home.lab, "curl -s http://127.0.0.1:2283/api/server/ping"),
                "Immich answers at home",
                60,
            )

    def behind(self) -> str:
        """A digest of what decides who gets in."""
        unit = "/run/current-system/etc/systemd/system/immich-edge.service"
        files = f"{STATE}/settings/edge.env {STATE}/device-ca.crt {STATE}/domain.env {unit}"
        return root(self.home.lab, f"cat {files} 2>/dev/null | sha256sum")

    def _is_open(self) -> bool:
        return seen(self.home.lab, PRIVATE) != REFUSED

    # -- what the owner does ----------------------------------------------------------------------------

    def up(self) -> None:
        """An ``up``, which must end well unless the owner has closed the funnel."""
        self.home.operator.devices(*self.devices)
        try:
            self.home.up()
        except PulumiFailedError as refused:
            if not (self.by_hand and "immich-exposure open" in str(refused)):
                raise
            self._withdrawn()
            self.in_doubt = True
            return
        self._ended_well()

    def _ended_well(self) -> None:
        self._withdrawn()
        self.standing = True
        self.proven = self.behind()
        self.in_doubt = self.by_hand

    def _withdrawn(self) -> None:
        self.lost += self.leaving.values()
        self.leaving.clear()

    def change(self) -> None:
        """Change a setting: by a reload, or by a rebuild."""
        self.changes += 1
        setting = self.draw.choice(("bans", "uploads", "lan"))
        if setting == "bans":
            self.home.operator.set(bans={"maxRetry": 10 + self.changes})
        elif setting == "uploads":
            uploads = not self.home.operator.settings.get("uploads", False)
            self.home.operator.set(uploads=uploads, uploadLimits=LITTLE_ROOM if uploads else None)
        else:
            lan = "close" if self.home.operator.settings.get("lan") == "keep" else "keep"
            self.home.operator.set(lan=lan)
        self.up()

    def add(self) -> None:
        """Name another device, and let it in."""
        out = [name for name in NAMES if name not in self.devices]
        if out:
            self.devices.append(self.draw.choice(out))
        self.up()

    def take_out(self) -> None:
        """A phone is lost: its name goes from the config, and it is out."""
        self._lose_one()
        self.up()

    def _lose_one(self) -> None:
        if len(self.devices) > 1:
            name = self.draw.choice(self.devices)
            if self.home.has_credential(name):
                self.leaving[name] = self.home.credential(name)
            self.devices.remove(name)
            self.revoked.discard(name)

    def revoke(self) -> None:
        """A phone is lost, and its owner is at the server."""
        inside = [name for name in self.devices if self._is_in(name)]
        if not inside or len(self.devices) - len(self.revoked) < 2:
            return
        name = self.draw.choice(inside)
        self.lost.append(self.home.credential(name))
        self.home.sh(f"immich-exposure revoke {name}")
        self.revoked.add(name)
        self.in_doubt = True

    def _is_in(self, name: str) -> bool:
        return name not in self.revoked and bool(
            root(self.home.lab, f"grep -lx {name} {STATE}/devices/* 2>/dev/null || :")
        )

    def close(self) -> None:
        """The owner closes the funnel on the server."""
        if self._has_command():
            self.home.sh("immich-exposure close")
            self.by_hand = self.in_doubt = True

    def open(self) -> None:
        """The owner lets it open again; what was not proven waits for the next ``up``."""
        if self._has_command():
            self.home.lab.console("immich-exposure open")
            self.by_hand = False

    def _has_command(self) -> bool:
        there = root(self.home.lab, f"ls {STATE}/.immich-exposure /run/current-system/sw/bin/immich-exposure")
        return len(there.split()) == 2

    def renew(self) -> None:
        """The timer of the certificate looks."""
        self.home.lab.console("systemctl start immich-exposure-certificate.service")

    def destroy(self) -> None:
        """Everything is taken back."""
        self.home.operator.destroy()
        self.standing = self.by_hand = False
        self.in_doubt = True
        self.proven = ""
        self._withdrawn()
        self.home.need_closed()

    def second_operator(self) -> None:
        """Somebody else's stack comes to this server, and is told whose it is."""
        if not root(self.home.lab, f"cat {STATE}/owner 2>/dev/null || :"):
            return
        with tempfile.TemporaryDirectory(prefix="immich-walk-second-") as folder:
            second = Operator(Path(folder), self.home.lab.info(), stack="second")
            second.init()
            said = second.fails()
        if "already exposed" not in said:
            raise Fault(f"a second stack was not told whose server it is:\n{said}")

    # -- what happens to it -----------------------------------------------------------------------------

    def killed_up(self) -> None:
        """The operator's machine dies, or the server loses its power, in an ``up`` that changes something."""
        self.changes += 1
        self.home.operator.set(bans={"maxRetry": 10 + self.changes}, lan=self.draw.choice(("keep", "close")))
        self.home.operator.devices(*self.devices)
        self._killed("up", {**FIRST_UP, **UPDATE})

    def killed_destroy(self) -> None:
        """The same in a ``destroy``."""
        self._killed("destroy", DESTROY)

    def _killed(self, verb: str, points: dict[str, str]) -> None:
        point = self.draw.choice(sorted(points))
        death = self.draw.choice(("operator", "power"))
        self.say(f"at {point!r}, {death}")
        self.in_doubt = True
        try:
            process = self.home.run_until(verb, points[point])
        except NotReachedError as ended:
            if ended.status == 0 and verb == "up":
                self._ended_well()
            elif ended.status == 0:
                self.standing = self.by_hand = False
                self._withdrawn()
            elif not (self.by_hand and "immich-exposure open" in str(ended)):
                raise
            return
        if death == "operator":
            self.home.operator_dies(process)
        else:
            self.home.power_fails(process)
        self._withdrawn()  # it is the first thing that any run does
        self.standing = True
        if verb == "destroy" and self.by_hand:  # the note of it may be gone, with all the rest
            notes = f"{STATE}/closed-by-hand /run/immich-exposure-closed-by-hand"
            self.by_hand = root(self.home.lab, f"ls {notes} 2>/dev/null || :") != ""

    def power(self) -> None:
        """The server loses its power and boots again."""
        self.home.lab.power_off()
        self.home.need_closed()
        self.home.power_returns()

    def reboot(self) -> None:
        """The server is rebooted."""
        self.home.lab.reboot()
        settle(self.home.lab)

    def read_only(self) -> None:
        """The disk turns read-only for a while, and an ``up`` comes in between."""
        if not root(self.home.lab, f"ls {STATE}/.immich-exposure 2>/dev/null || :"):
            return
        self.home.sh(f"mount --bind {STATE} {STATE}; mount -o remount,ro,bind {STATE}")
        self.home.operator.devices(*self.devices)
        with_nothing = self.home.try_up()
        self.look()
        self.home.sh(f"umount {STATE}")
        self.in_doubt = True
        self.say("up failed" if with_nothing else "up had nothing to do")

    def full_disk(self) -> None:
        """The whole disk is full for a while: whoever is lost is out, and the funnel can be closed."""
        self._lose_one()
        self.home.operator.devices(*self.devices)
        self.in_doubt = True
        with full(self.home.lab.places.disk):
            failed = self.home.try_up()
            self._withdrawn()
            self.look_from_outside()
            if self._has_command() and self.draw.random() < 0.5:
                self.say("and its owner closes the funnel")
                self.home.lab.console("immich-exposure close")
                self.by_hand = True
                self.home.need_closed()
        self.say("up failed" if failed else "up had room for what it did")

    def clock(self) -> None:
        """The server's clock is wrong for a while; the timers run meanwhile, and an ``up`` is refused."""
        seconds, name = self.draw.choice(((20, "1970"), (int(time.time()) + 20 * YEAR, "20 years ahead")))
        self.say(f"it says {name}")
        self.home.sh(WRONG_CLOCK.format(seconds=seconds))
        if self.home.sh("date +%s") != str(seconds):
            raise Fault("the server's clock could not be set wrong")
        try:
            for unit in TIMED_UNITS:
                self.home.lab.console(f"systemctl start {unit}")
            self.home.operator.devices(*self.devices)
            if not self.home.try_up():
                raise Fault("an up was not refused though the server's clock was wrong by years")
            self.in_doubt = True
            self.look_from_outside()
        finally:
            self.home.sh(RIGHT_CLOCK)

    def state_deleted(self) -> None:
        """Somebody deletes the folder of the exposure, and with it the note of a funnel closed by hand."""
        if self.revoked:
            self.up()  # of who was revoked there, somebody must have heard
        self.home.sh(f"rm -rf {STATE}")
        self.by_hand = False
        self.in_doubt = True

    def funnel_reset(self) -> None:
        """The funnel is switched off by Tailscale's own command."""
        self.home.sh("tailscale funnel reset")
        self.in_doubt = True

    def funnel_by_hand(self) -> None:
        """The funnel is switched on by Tailscale's own command, with nobody's proof."""
        self.home.sh("tailscale funnel --bg --yes --proxy-protocol 1 --tcp 443 tcp://127.0.0.1:8443 || :")
        self.home.sh("systemctl start immich-exposure-lease.service || :")
        if not self.standing:
            self.home.sh("tailscale funnel reset")
        self.in_doubt = True

    def services_stopped(self) -> None:
        """Services of ours are stopped or killed."""
        self.home.lab.console("systemctl stop immich-bans; systemctl kill --signal=KILL immich-edge")
        self.in_doubt = True

    def device_by_hand(self) -> None:
        """Somebody puts a device's file there."""
        self.home.lab.console(f"echo friend >{STATE}/devices/{'ab' * 32}")
        self.in_doubt = True

    def own_edit(self) -> None:
        """The owner edits configuration.nix and rebuilds."""
        line = OWN_LINE.format(len(self.own_lines))
        self.home.sh(f"sed -i '1s/$/\\n{line}/' /etc/nixos/configuration.nix")
        self.own_lines.append(line)
        self.home.sh("nixos-rebuild switch")

    # -- the walk ---------------------------------------------------------------------------------------

    def say(self, words: str) -> None:
        """Tell of a step what its name does not."""
        print(f"      {words}", flush=True)

    def mended(self) -> None:
        """Two commands bring everything to order, whatever came before."""
        if self.by_hand:
            self.open()
        self.up()
        self.look()
        if self.own_lines:
            self.home.sh("sed -i '/^  # mine: /d' /etc/nixos/configuration.nix; nixos-rebuild switch")
            self.own_lines.clear()
        self.destroy()
        self.home.need_as_before()


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Leave no room on the file system that the whole server lies on."""

    def fill() -> bool:  # refused where more was written meanwhile
        said = os.statvfs(disk)
        return _resize(disk, str((said.f_blocks - said.f_bfree) * said.f_frsize))

    wait_until(fill, "the disk is full")
    try:
        yield
    finally:
        _resize(disk, "50%")


def _resize(disk: Path, size: str) -> bool:
    command = ["mount", "-o", f"remount,size={size}", str(disk)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


WEIGHTS: dict[Callable[[Walk], None], int] = {
    Walk.up: 2,
    Walk.change: 4,
    Walk.add: 2,
    Walk.take_out: 2,
    Walk.revoke: 2,
    Walk.close: 2,
    Walk.open: 2,
    Walk.renew: 1,
    Walk.destroy: 1,
    Walk.second_operator: 1,
    Walk.killed_up: 5,
    Walk.killed_destroy: 2,
    Walk.power: 1,
    Walk.reboot: 1,
    Walk.read_only: 1,
    Walk.full_disk: 1,
    Walk.clock: 1,
    Walk.state_deleted: 1,
    Walk.funnel_reset: 1,
    Walk.funnel_by_hand: 1,
    Walk.services_stopped: 1,
    Walk.device_by_hand: 1,
    Walk.own_edit: 1,
}
"""How often a step is drawn, against the others."""


def walk(seed: int, steps: int, folder: Path) -> str:
    """Walk on a lab of its own; returns what was wrong, or nothing."""
    print(f"walk: seed {seed}, {steps} steps", flush=True)
    with home(folder) as place, Stranger(place.lab) as stranger:
        here = Walk(place, random.Random(seed))
        wrong = ""
        try:
            here.up()
            for number in range(1, steps + 1):
                [step] = here.draw.choices(list(WEIGHTS), list(WEIGHTS.values()))
                print(f"{number:4}  {step.__name__}", flush=True)
                step(here)
                here.look()
            print("      and two commands bring it to order", flush=True)
            here.mended()
        except FAILURES as error:
            wrong = str(error)
        if stranger.got_in:
            wrong = f"a stranger got in: {stranger.got_in}; {wrong}"
    return wrong


def in_a_bubble(seed: int, steps: int) -> int:
    """Walk in a process and a bubble of its own; returns its exit status."""
    command = [sys.executable, "-m", "tests.faults.walk", "--in-bubble", "--seed", str(seed)]
    bubble = [sys.executable, "-m", "lab", "bubble", "--", *command, "--steps", str(steps)]
    return subprocess.run(bubble, cwd=PROJECT, stdin=subprocess.DEVNULL, check=False).returncode


def main(words: list[str]) -> int:
    """Walk once, or for so many minutes from one seed to the next; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.walk", description="random walks")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="[a new one]")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each walk [{STEPS}]")
    parser.add_argument("--minutes", type=int, default=0, help="go on with the next seeds for so long [0]")
    parser.add_argument("--in-bubble", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.in_bubble:
        with tempfile.TemporaryDirectory(prefix="immich-walk-") as folder:
            wrong = walk(given.seed, given.steps, Path(folder))
        print(f"WRONG with seed {given.seed}:\n{wrong}" if wrong else "right", flush=True)
        return 1 if wrong else 0
    end = time.monotonic() + 60 * given.minutes
    seed, failed = given.seed, []
    while True:
        if in_a_bubble(seed, given.steps):
            failed.append(seed)
        seed += 1
        if time.monotonic() > end:
            break
    print(f"walk: {seed - given.seed - len(failed)} right, {len(failed)} wrong {failed or ''}".rstrip())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
