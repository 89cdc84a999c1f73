"""The fault matrix: ``python -m tests.faults.matrix [ROW ...]``; without arguments, all rows.

Several labs run rows in parallel, each in a bubble (lab/bubble.py). A lab goes on with the next row as long
as the whole server is as it was before the last one. A row that fails prints what was seen. The last verdict
of each row is kept, so that one that was wrong can be run again alone; docs/faults.md is generated from the
verdicts once every row has one, or with ``--table``.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from lab import LabError
from tests.faults.home import Fault, Home, Stranger, home
from tests.faults.rows import Row, all_rows
from tests.lab.operator import PulumiFailedError
from tests.server.waiting import HarnessError
from toolchain import paths
from toolchain.paths import PROJECT

TABLE = PROJECT / "docs" / "faults.md"
RECORD = paths.HOME / "faults.jsonl"
"""A verdict a line, as they were given."""

WALKS = """
## Random walks

    make walk SEED=7 STEPS=20

A walk chains random steps: what owners do (up, changes, adding, removing and renewing devices, revoking
on the server, close, open, destroy, their own edits and rebuilds), what others do (a second stack,
Tailscale's commands by hand, a device file added by hand, a deleted folder) and what happens to them
(killed runs, power cuts, reboots, dying services, a disk that is read-only or full, a clock at 1970 or
twenty years ahead). The seed determines the steps; without one it is random. A walk has 12 steps by
default. After each step, the test looks from outside: the funnel is closed or proven, lost devices are
out, and the owner's own configuration and Immich at home are there. At the end `up` repairs everything
and `destroy` restores the server as it was. `make test` runs a short walk, `make nightly` an hour of
them. A walk that fails becomes a row above.
"""

WORKERS = 4
ROW_SECONDS = 900
FAILURES = (
    Fault,
    PulumiFailedError,
    LabError,
    HarnessError,
    AssertionError,
    TimeoutError,
    subprocess.TimeoutExpired,
)


@dataclass(frozen=True)
class Verdict:
    """How a row went: what a stranger saw, in order, and what was wrong (nothing when all was right)."""

    row: str
    outside: list[str]
    wrong: str
    seconds: float
    day: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).date().isoformat())
    noted: list[str] = field(default_factory=list)
    as_before: bool = False
    """Whether the whole server was then seen to be as before the row."""


def play(row: Row, folder: Path) -> Verdict:
    """Play one row on a lab of its own."""
    with home(folder) as place:
        return play_on(place, row)


def play_on(place: Home, row: Row) -> Verdict:
    """Play one row on a server that has nothing of ours."""
    began = time.monotonic()
    with Stranger(place.lab) as stranger:
        wrong = ""
        try:
            row.play(place)
        except FAILURES as error:
            wrong = str(error)
    if stranger.got_in:
        wrong = f"a stranger got in: {stranger.got_in}; {wrong}"
    return Verdict(
        row.name,
        stranger.words,
        wrong,
        time.monotonic() - began,
        noted=place.noted,
        as_before=place.is_as_before,
    )


def play_what_comes(rows: dict[str, Row]) -> None:
    """Play the rows whose names come on standard input, and print a verdict a line.

    It ends when no more come, and after one behind which the server is not as it was.
    """
    with tempfile.TemporaryDirectory(prefix="immich-faults-operator-") as folder:
        places = (Path(folder, str(number)) for number in range(len(rows)))
        with home(next(places)) as place:
            for line in sys.stdin:
                verdict = play_on(place, rows[line.strip()])
                print(json.dumps(asdict(verdict)), flush=True)
                if verdict.wrong or not place.is_as_before:
                    return
                place.begin(next(places))


class Player:
    """A lab in a process and a bubble of its own; another one when a row has left it other than before."""

    def __init__(self, errors: IO[str]) -> None:
        self._errors = errors
        self._process: subprocess.Popen[str] | None = None

    def play(self, row: Row) -> Verdict:
        """Play one row."""
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = self._start()
        line = ""
        try:
            _of(process.stdin).write(f"{row.name}\n")
            _of(process.stdin).flush()
            if not select.select([_of(process.stdout)], [], [], ROW_SECONDS)[0]:
                self.end()
                return Verdict(row.name, [], f"did not end within {ROW_SECONDS} seconds", ROW_SECONDS)
            line = _of(process.stdout).readline()
        except BrokenPipeError:
            pass
        if not line:
            self.end()
            self._errors.seek(0)
            return Verdict(row.name, [], self._errors.read() or "its lab ended", 0)
        verdict = Verdict(**json.loads(line))
        if verdict.wrong or not verdict.as_before:
            process.wait(ROW_SECONDS)
        return verdict

    def _start(self) -> subprocess.Popen[str]:
        self._errors.seek(0)
        self._errors.truncate()
        command = [sys.executable, "-m", "tests.faults.matrix", "--in-bubble"]
        return subprocess.Popen(
            [sys.executable, "-m", "lab", "bubble", "--", *command],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def end(self) -> None:
        """End the lab."""
        if self._process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            _of(self._process.stdin).close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _of(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def play_all(rows: Sequence[Row]) -> Iterator[Verdict]:
    """Yield the verdicts as they come; those of rows that mostly wait are one more lab's."""
    verdicts: queue.Queue[Verdict] = queue.Queue()
    lists = [queue.SimpleQueue[Row](), queue.SimpleQueue[Row]()]
    for row in rows:
        lists[row.waits].put(row)
    work = [lists[False]] * int(os.environ.get("LAB_WORKERS", WORKERS)) + [lists[True]]
    threads = [threading.Thread(target=_work, args=(each, verdicts), daemon=True) for each in work]
    for thread in threads:
        thread.start()
    for _ in rows:
        yield verdicts.get()
    for thread in threads:
        thread.join()


def _work(rows: queue.SimpleQueue[Row], verdicts: queue.Queue[Verdict]) -> None:
    with tempfile.TemporaryFile("w+") as errors:
        player = Player(errors)
        try:
            while True:
                verdicts.put(player.play(rows.get_nowait()))
        except queue.Empty:
            player.end()


def note(verdict: Verdict) -> None:
    """Keep a verdict."""
    RECORD.parent.mkdir(exist_ok=True)
    with RECORD.open("a", encoding="utf-8") as record:
        record.write(json.dumps(asdict(verdict)) + "\n")


def recorded() -> dict[str, Verdict]:
    """Return the last verdict of each row."""
    lines = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.exists() else []
    return {verdict.row: verdict for verdict in (Verdict(**json.loads(line)) for line in lines)}


def table(rows: Sequence[Row], verdicts: dict[str, Verdict]) -> str:
    """Return docs/faults.md."""
    played = [row for row in rows if row.name in verdicts]
    days = sorted({verdicts[row.name].day for row in played})
    wrong = sum(bool(verdicts[row.name].wrong) for row in played)
    count = f"{len(played)} of {len(rows)}" if len(played) < len(rows) else str(len(rows))
    lines = [
        "# What was killed, cut and broken, and how it ended",
        "",
        f"Made by `make faults`, {' to '.join(dict.fromkeys((days[0], days[-1])))}: {count} rows,",
        f"{wrong} of them wrong, each on a lab server without an exposure. During each row a stranger (who",
        "comes through an ingress that is an unsigned peer, as Tailscale's own is) requests a private path",
        "several times a second; `refused` means that no connection was made. A row is right if the",
        "stranger got nothing but refusals, no unproven funnel stayed open, and one ordinary command,",
        "`pulumi up` or `pulumi destroy`, repaired everything. After `destroy` the whole server is compared",
        "with its state before.",
        "",
        "| row | what happens | a stranger sees | ends |",
        "| --- | --- | --- | --- |",
    ]
    for row in played:
        verdict = verdicts[row.name]
        outside = ", ".join(dict.fromkeys(f"`{word}`" for word in verdict.outside)) or "-"
        lines.append(f"| {row.name} | {row.happens} | {outside} | {'WRONG' if verdict.wrong else 'right'} |")
    return "\n".join([*lines, *WALKS.splitlines()]) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.matrix",
        description="Play rows of the fault matrix, several labs at once; docs/faults.md lists them.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="its name; without one, all rows")
    parser.add_argument(
        "--table", action="store_true", help="only write docs/faults.md from the last verdicts"
    )
    parser.add_argument("--in-bubble", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Play the rows, print each as it ends, and return the exit status."""
    options = _parser().parse_args(arguments)
    rows = {row.name: row for row in all_rows()}
    words: list[str] = options.rows
    if options.in_bubble:
        play_what_comes(rows)
        return 0
    if options.table:
        TABLE.write_text(table(list(rows.values()), recorded()), encoding="utf-8")
        return 0
    if unknown := set(words) - rows.keys():
        raise SystemExit(f"There is no row named {', '.join(sorted(unknown))}.")
    chosen = [rows[name] for name in words] or list(rows.values())
    began = time.monotonic()
    wrong = []
    for verdict in play_all(chosen):
        note(verdict)
        how = "WRONG" if verdict.wrong else "right"
        print(f"{how} {verdict.row} in {verdict.seconds:.0f} s", *verdict.noted, sep="\n    ", flush=True)
        if verdict.wrong:
            wrong.append(verdict.row)
            print(verdict.wrong, flush=True)
    print(f"faults: {len(chosen) - len(wrong)} right, {len(wrong)} wrong in {time.monotonic() - began:.0f} s")
    verdicts = recorded()
    if rows.keys() <= verdicts.keys():
        TABLE.write_text(table(list(rows.values()), verdicts), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
