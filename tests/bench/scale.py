"""How many homes one operator's machine carries at once, with the real engine against labs side by side.

    python -m lab bubble -- python -m tests.bench.scale [--homes 1,2,4]

For each number of homes: all go up at once, then all without a change, then all are taken back. The labs
share the machine's cores with the operator, so the clock says little; what the operator's side alone takes,
time of the processor and memory, is what docs/scale.md computes with.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import Lab
from tests.lab.neighbour import neighbour
from tests.lab.operator import Operator

SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Spent:
    """What a step of all homes at once took: seconds on the clock and of the processor, and MiB."""

    wall: float
    cpu: float
    mebibytes: float


def spent(step: Callable[[Operator], object], operators: Sequence[Operator]) -> Spent:
    """Run a step for all at once."""
    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with _memory() as most, ThreadPoolExecutor(len(operators)) as pool:
        list(pool.map(step, operators))
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return Spent(wall, cpu, most[0] / 1024)


@contextmanager
def _memory() -> Iterator[list[int]]:
    """Sample the memory of all programs started meanwhile, in KiB; the first value is the most."""
    most, done = [0], threading.Event()
    before = set(_descendants(os.getpid()))

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            most[0] = max(most[0], sum(map(_kibibytes, set(_descendants(os.getpid())) - before)))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def _descendants(process: int) -> Iterator[int]:
    for folder in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = folder.read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from _descendants(child)


def _kibibytes(process: int) -> int:
    """The process's part of the memory it uses, with what it shares divided by all who do."""
    try:
        found = re.search(r"^Pss: +(\d+)", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def measure(operators: Sequence[Operator]) -> dict[str, Spent]:
    """Run each step for so many homes."""
    steps: dict[str, Callable[[Operator], object]] = {
        "up": Operator.up,
        "no change": Operator.up,
        "destroy": Operator.destroy,
    }
    return {name: spent(step, operators) for name, step in steps.items()}


def main() -> int:
    """Boot as many labs as are wanted at the most, measure each number, report."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.scale", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--homes", default="1,2,4")
    numbers = [int(word) for word in parser.parse_args().homes.split(",")]
    lab = Lab()
    lab.down()
    lab.up()
    try:
        with tempfile.TemporaryDirectory(prefix="immich-bench-") as name, ExitStack() as stack:
            folder = Path(name)
            infos = [lab.info()]
            for number in range(1, max(numbers)):
                place = folder / f"neighbour-{number}"
                place.mkdir()
                infos.append(stack.enter_context(neighbour(place)).info)
            operators = [
                Operator(folder / f"operator-{number}", info, stack=f"home-{number}")
                for number, info in enumerate(infos)
            ]
            for operator in operators:
                operator.init()
            print("homes  step        clock   processor  memory   (for each home)")
            for count in numbers:
                for step, one in measure(operators[:count]).items():
                    print(
                        f"{count:>5}  {step:<10} {one.wall:6.1f} s  {one.cpu / count:6.1f} s "
                        f"{one.mebibytes / count:6.0f} MiB",
                        flush=True,
                    )
    finally:
        lab.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
