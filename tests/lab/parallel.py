"""Tests of all tiers, several at once: ``python -m tests.lab.parallel [all | FILE or HOUSE ...]``.

A test of the lab mostly waits. So each file, and each house of the walk, is one job: a pytest of its own in a
bubble of its own (lab/bubble.py). A few workers take one job after the other. Beside them two workers take
what needs no lab, file by file. What failed is printed in full, and the last line counts everything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from lab.house import house, houses
from tests.lab.operator import PROJECT
from toolchain import ToolchainError, system

HERE = Path(__file__).parent
WALK = HERE / "test_houses.py"
FAULTS = HERE / "test_faults.py"
UNIT = PROJECT / "tests" / "unit"
SERVER = PROJECT / "tests" / "server"
KINDS = ("failed", "passed", "skipped")
WORKERS = 4
WITHOUT_A_LAB = 2


@dataclass(frozen=True)
class Job:
    """One pytest, in a bubble of its own when it boots a lab."""

    name: str
    arguments: tuple[str, ...]
    lab: bool = True


@dataclass(frozen=True)
class Result:
    """How a job ended: its exit status, what it printed, and how many tests went how."""

    job: Job
    status: int
    printed: str
    counts: dict[str, int]
    seconds: float

    @property
    def line(self) -> str:
        """One line for a person."""
        word = "ok  " if self.status == 0 else "FAIL"
        return f"{word} {self.job.name:<24} {told(self.counts)} in {self.seconds:.0f} s"


def told(counts: dict[str, int]) -> str:
    """``2 failed, 12 passed``, without the kinds that did not occur."""
    return ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]) or "no tests"


def all_jobs() -> list[Job]:
    """Every file and every house, those that take long first."""
    files = sorted((path for path in HERE.glob("test_*.py") if path != WALK), key=_length, reverse=True)
    walks = [
        Job(f"house {name}", (str(WALK), f"--house={name}")) for name in houses() if not house(name).by_hand
    ]
    return [*(Job(path.stem, (str(path),)) for path in files), *walks]


def jobs_without_a_lab() -> list[Job]:
    """The unit tier in one piece, and every file of the server tier."""
    files = sorted(SERVER.glob("test_*.py"), key=_size, reverse=True)
    return [
        Job("unit", (str(UNIT),), lab=False),
        *(Job(path.stem, (str(path),), lab=False) for path in files),
    ]


def _size(path: Path) -> int:
    return path.stat().st_size


def _length(path: Path) -> tuple[bool, int]:
    """A file of the lab by how long it takes: the rows of the fault matrix stand in another file."""
    return path == FAULTS, _size(path)


def chosen(jobs: Sequence[Job], words: Sequence[str]) -> list[Job]:
    """The jobs that a word names: a file with or without its folder and ending, a house, or ``all``.

    Without a word, those that boot a lab.
    """
    if list(words) == ["all"]:
        return list(jobs)
    names = {Path(word).stem for word in words}
    found = [job for job in jobs if (job.name.removeprefix("house ") in names if names else job.lab)]
    if unknown := names - {job.name.removeprefix("house ") for job in found}:
        raise SystemExit(f"There is no file and no house named {', '.join(sorted(unknown))}.")
    return found


def run(job: Job) -> Result:
    """Run one job to its end."""
    with tempfile.TemporaryDirectory(prefix="immich-lab-job-") as folder:
        report = Path(folder, "report.xml")
        pytest = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *job.arguments]
        options = ["-p", "no:cacheprovider", f"--basetemp={folder}/tests"]
        began = time.monotonic()
        bubble = [sys.executable, "-m", "lab", "bubble", "--"] if job.lab else []
        done = subprocess.run(
            [*bubble, *pytest, *options],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Result(job, done.returncode, done.stdout, counted(report), time.monotonic() - began)


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


def main(words: Sequence[str]) -> int:
    """Run the jobs, tell each when it has ended, and then all together; returns the exit status."""
    jobs = chosen([*all_jobs(), *jobs_without_a_lab()], words)
    with suppress(ToolchainError):  # no registry can be reached from a bubble; the tests skip without
        system.ensure(system.BROWSER)
    began = time.monotonic()
    workers = int(os.environ.get("LAB_WORKERS", WORKERS))
    results: list[Result] = []
    with ThreadPoolExecutor(workers) as labs, ThreadPoolExecutor(WITHOUT_A_LAB) as without:
        for future in as_completed([(labs if job.lab else without).submit(run, job) for job in jobs]):
            results.append(future.result())
            if results[-1].status:
                print(results[-1].printed, flush=True)
            print(results[-1].line, flush=True)
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
