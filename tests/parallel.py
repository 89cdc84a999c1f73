"""Tests of all tiers, several at once: ``python -m tests.parallel [all | FILE, HOUSE or ROW ...]``.

A test of the lab mostly waits. So each file, each house of the walk and each row of the fault matrix is one
job: a pytest of its own in a bubble of its own (lab/bubble.py). A few workers take one job after the other.
Beside them two workers take what needs no lab: the unit tier, and the other tiers file by file. Who has none
left of his kind helps the others. What they write goes to memory where there is enough of it. What failed is
printed in full, and the last line counts everything.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from lab.house import house, houses
from tests.faults.rows import all_rows
from toolchain import ToolchainError, system
from toolchain.paths import PROJECT

LAB = PROJECT / "tests" / "lab"
WALK = LAB / "test_houses.py"
FAULTS = LAB / "test_faults.py"
UNIT = PROJECT / "tests" / "unit"
BY_FILE = tuple(PROJECT / "tests" / tier for tier in ("programs", "server", "standins"))
"""The tiers without a lab of which each file is a job."""
KINDS = ("failed", "passed", "skipped")
WORKERS = 4
WITHOUT_A_LAB = 2
IN_MEMORY = Path("/dev/shm")
ROOM = 8 << 30
"""Bytes that must be free in it, and in memory; all jobs together have written a third of that."""
ONLY_AT_NIGHT = 5
"""The exit status of pytest when none of a file's tests are for now."""


@dataclass(frozen=True)
class Job:
    """One pytest, in a bubble of its own when it boots a lab. Each word of its name chooses it."""

    name: str
    arguments: tuple[str, ...]
    lab: bool = True

    @property
    def words(self) -> set[str]:
        """What chooses it: a word of its name, or the file."""
        return {*self.name.split(), Path(self.arguments[0].split("::")[0]).stem}


@dataclass(frozen=True)
class Result:
    """How a job ended: its exit status, what it printed, how many tests went how, and what it took."""

    job: Job
    status: int
    printed: str
    counts: dict[str, int]
    seconds: float
    processor_seconds: float

    @property
    def line(self) -> str:
        """One line for a person."""
        word = "ok  " if self.status == 0 else "FAIL"
        times = f"{self.seconds:.0f} s, {self.processor_seconds:.0f} s of a core"
        return f"{word} {self.job.name:<32} {told(self.counts)} in {times}"


def told(counts: dict[str, int]) -> str:
    """``2 failed, 12 passed``, without the kinds that did not occur."""
    return ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]) or "no tests"


def all_jobs() -> list[Job]:
    """Every file, house and row; those that take long first, so that all workers end together."""
    files = sorted(set(LAB.glob("test_*.py")) - {WALK, FAULTS}, key=_size, reverse=True)
    walks = [
        Job(f"house {name}", (str(WALK), f"--house={name}")) for name in houses() if not house(name).by_hand
    ]
    rows = [
        Job(f"row {row.name}", (f"{FAULTS}::test_it_ends_right[{row.name}]",))
        for row in all_rows()
        if row.often
    ]
    return [*(Job(path.stem, (str(path),)) for path in files), *walks, *rows]


def jobs_without_a_lab() -> list[Job]:
    """The unit tier, and every file of the other tiers, each with its tier's name."""
    files = sorted((path for tier in BY_FILE for path in tier.glob("test_*.py")), key=_size, reverse=True)
    jobs = (Job(f"{path.parent.name} {path.stem}", (str(path),), lab=False) for path in files)
    return [Job("unit", (str(UNIT),), lab=False), *jobs]


def _size(path: Path) -> int:
    return path.stat().st_size


def chosen(jobs: Sequence[Job], words: Sequence[str]) -> list[Job]:
    """The jobs that a word names: a file with or without its folder and ending, a house, a row, or ``all``.

    Without a word, those that boot a lab.
    """
    if list(words) == ["all"]:
        return list(jobs)
    names = {Path(word).stem for word in words}
    found = [job for job in jobs if (job.words & names if names else job.lab)]
    if unknown := names.difference(*(job.words for job in found)):
        raise SystemExit(f"There is no file, no house and no row named {', '.join(sorted(unknown))}.")
    return found


def scratch(memory: Path = IN_MEMORY) -> Path:
    """The folder for what jobs write: in memory, where nobody waits for a disk, else on the disk.

    What dies at each of its steps, a keystore or a server, has each step on the disk before the next
    (fsync): that is two thirds of the time that such tests take, and a third of the processor's.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=memory) as file:
            os.setxattr(file.name, "user.note", b"the houses' files bear such")
        disk = os.statvfs(memory)
        available = (
            int(re.findall(r"^MemAvailable: +(\d+)", Path("/proc/meminfo").read_text(), re.M)[0]) << 10
        )
    except (OSError, IndexError):
        return Path(tempfile.gettempdir())
    return memory if min(disk.f_bavail * disk.f_frsize, available) >= ROOM else Path(tempfile.gettempdir())


def environment(place: Path, compiled: str | None) -> dict[str, str]:
    """What a job has: where it writes, and where all of them keep what Python has compiled.

    To compile this project and the SDK again is more than half of what the start of a lab takes.
    """
    shared = {} if compiled is None else {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, "TMPDIR": str(place), **shared}


def run(job: Job, place: Path | None = None, compiled: str | None = None) -> Result:
    """Run one job to its end; what it writes goes below ``place``, compiled modules into the other folder."""
    place = place or Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="lab-job-", dir=place) as folder:
        report = Path(folder, "report.xml")
        pytest = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *job.arguments]
        options = ["-p", "no:cacheprovider", f"--basetemp={folder}/tests"]
        began = time.monotonic()
        bubble = [sys.executable, "-m", "lab", "bubble", "--"] if job.lab else []
        with Path(folder, "printed").open("w+", encoding="utf-8") as printed:
            process = subprocess.Popen(
                [*bubble, *pytest, *options],
                cwd=PROJECT,
                env=environment(place, compiled),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
            _, ended, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(ended)
            printed.seek(0)
            text = printed.read()
        lasted = time.monotonic() - began
        status = 0 if process.returncode == ONLY_AT_NIGHT else process.returncode
        return Result(job, status, text, counted(report), lasted, used.ru_utime + used.ru_stime)


def work(queues: Sequence[deque[Job]], place: Path, compiled: str) -> list[Result]:
    """Take one job after the other, of the first queue as long as it has any; tell each when it has ended."""
    results: list[Result] = []
    for queue in queues:
        while queue:
            try:
                job = queue.popleft()
            except IndexError:  # another worker was quicker
                break
            result = run(job, place, compiled)
            results.append(result)
            print(*([result.printed] if result.status else []), result.line, sep="\n", flush=True)
    return results


def counted(report: Path) -> dict[str, int]:
    """Read pytest's report; a job that left none counts as one failure."""
    if not report.exists():
        return {"failed": 1, "passed": 0, "skipped": 0}
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    counts = dict.fromkeys(KINDS, 0)
    for suite in suites:
        failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
        skipped = int(suite.attrib["skipped"])
        counts["failed"] += failed
        counts["skipped"] += skipped
        counts["passed"] += int(suite.attrib["tests"]) - failed - skipped
    return counts


def main(arguments: Sequence[str]) -> int:
    """Run the jobs, tell each when it has ended, and then all together; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.parallel", description="Run tests, several at once, each in a lab of its own."
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="NAME",
        help="a file (test_renewal.py), a house (book), a row of the fault matrix (reboot), or all for every "
        "tier; without a name, everything that boots a lab",
    )
    jobs = chosen([*all_jobs(), *jobs_without_a_lab()], parser.parse_args(arguments).words)
    with suppress(ToolchainError):  # no registry can be reached from a bubble; the tests skip without
        system.ensure(system.BROWSER)
    began = time.monotonic()
    place = scratch()
    given = os.environ.get("LAB_WORKERS")
    workers = int(given or WORKERS)
    labs = deque(job for job in jobs if job.lab)
    others = deque(job for job in jobs if not job.lab)
    # who says how many labs at once means all of them
    hands = [(labs, others)] * workers + [(others,) if given else (others, labs)] * WITHOUT_A_LAB
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(prefix="compiled-", dir=place, ignore_cleanup_errors=True) as compiled,
        ThreadPoolExecutor(len(hands)) as pool,
    ):
        for future in [pool.submit(work, queues, place, compiled) for queues in hands]:
            results += future.result()
    total = {kind: sum(result.counts[kind] for result in results) for kind in KINDS}
    failed = [result.job.name for result in results if result.status]
    seconds = time.monotonic() - began
    print(f"{len(jobs)} jobs in {seconds:.0f} s, {workers} labs at once", flush=True)
    if failed:
        print(f"these failed: {', '.join(failed)}", flush=True)
    print(", ".join(f"{total[kind]} {kind}" for kind in ("passed", "failed", "skipped")), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
