"""How `pulumi up` grows with the number of devices, with the real engine against the lab.

    python -m tests.bench.devices [--sizes 10,50,200] [--keys N]

For each size, from an empty server: the first `up` and the size of Pulumi's state after it, an `up` without a
change, one device more, `destroy`. A family has ten devices; what is looked for is that nothing grows faster
than their number. Afterwards keys alone, and credentials in a keystore, are made in several threads at once,
which shows whether that uses all cores: time of the processor over time on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import Lab
from pki import AuthorityProfile, DeviceProfile, Keystore, KeyType
from pki.key import generate_key
from tests.lab.operator import PASSPHRASE, Operator

PATIENCE_SECONDS = 1800
STEPS = ("first up", "up, no change", "one device more", "destroy")


@dataclass(frozen=True)
class Spent:
    """What a step took: seconds on the clock, and of this machine's processors by it and its children."""

    wall: float
    cpu: float

    @property
    def share(self) -> str:
        """How many cores it kept busy; the system counts in hundredths of a second."""
        return f"{self.cpu / self.wall:.2f}" if self.wall > 0.2 else "-"


def spent(step: Callable[[], object]) -> Spent:
    """Run a step; processes count once they have ended."""
    before, started = os.times(), time.monotonic()
    step()
    after, wall = os.times(), time.monotonic() - started
    return Spent(wall, sum(after[:4]) - sum(before[:4]))


def story(lab: Lab, folder: Path, size: int) -> dict[str, Spent]:
    """Expose with so many devices and take it back; return what each step took."""
    operator = Operator(folder, lab.info(), stack=f"bench-{size}")
    operator.patience_seconds = PATIENCE_SECONDS
    operator.init()
    names = [f"device-{number:03}" for number in range(size)]
    operator.devices(*names)
    taken = {"first up": spent(operator.up)}
    state = json.dumps(json.loads(operator.export()), separators=(",", ":"))
    print(f"  {size:>4} devices: Pulumi's state has {len(state) // 1000} KB", flush=True)
    taken["up, no change"] = spent(operator.up)
    operator.devices(*names, "one-more")
    taken["one device more"] = spent(operator.up)
    taken["destroy"] = spent(operator.destroy)
    for step, one in taken.items():
        print(f"  {size:>4} devices: {step:<16} {one.wall:6.1f} s", file=sys.stderr, flush=True)
    return taken


def bursts(folder: Path, key_type: KeyType, count: int) -> dict[str, Spent]:
    """Make so many keys at once, then so many credentials, in as many threads as there are cores."""
    store = Keystore(folder, PASSPHRASE)
    store.adopt_or_create_authority(AuthorityProfile())

    def issue(number: int) -> None:
        name = f"device-{number}"
        store.adopt_or_issue_device(name, DeviceProfile(name, key_type=key_type))

    def in_threads(make: Callable[[int], object]) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(make, range(count)))

    return {
        "bare keys": spent(lambda: in_threads(lambda _: generate_key(key_type))),
        "credentials in a keystore": spent(lambda: in_threads(issue)),
    }


def report(stories: dict[int, dict[str, Spent]]) -> None:
    """Print seconds, seconds for a device, and the growth from the size before: 1.00 is in step with it."""
    print(f"{'step':<16} {'devices':>7} {'seconds':>8} {'each':>6} {'CPU/clock':>9}  growth")
    for step in STEPS:
        last: tuple[int, float] | None = None
        for size, taken in stories.items():
            wall, share = taken[step].wall, taken[step].share
            growth = f"{(wall / last[1]) / (size / last[0]):.2f}" if last else ""
            print(f"{step:<16} {size:>7} {wall:>8.1f} {wall / size:>6.2f} {share:>9}  {growth}")
            last = size, wall


def main() -> int:
    """Boot the lab, measure, report, and take the lab down."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.devices", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--sizes", default="10,50,200", help="numbers of devices (default 10,50,200)")
    parser.add_argument("--keys", type=int, default=16, help="credentials in a burst (default 16)")
    chosen = parser.parse_args()
    lab = Lab()
    lab.down()
    lab.up()
    try:
        with tempfile.TemporaryDirectory(prefix="immich-bench-") as folder:
            sizes = [int(size) for size in chosen.sizes.split(",")]
            report({size: story(lab, Path(folder) / str(size), size) for size in sizes})
            print(f"\n{chosen.keys} at once, {os.cpu_count()} cores")
            for key_type in KeyType:
                for what, taken in bursts(Path(folder) / key_type, key_type, chosen.keys).items():
                    print(f"  {key_type:<10} {what:<25} {taken.wall:6.1f} s, CPU/clock {taken.share}")
    finally:
        lab.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
