"""The fault matrix: ``python -m tests.faults.matrix [ROW ...]``; without a row, all of them.

Each row has a lab of its own, several at once, each in a bubble (lab/bubble.py). A row that fails prints what
was seen. The last verdict of each row is kept, so that one that was wrong can be played again alone; they are
docs/faults.md once all have one, or at the word ``--table``.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab import LabError
from tests.faults.home import Fault, Stranger, home
from tests.faults.rows import Row, all_rows
from tests.lab.operator import PROJECT, PulumiFailedError
from tests.server.waiting import HarnessError
from toolchain import paths

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


def play(row: Row, folder: Path) -> Verdict:
    """Play one row on a lab of its own."""
    began = time.monotonic()
    with home(folder) as place, Stranger(place.lab) as stranger:
        wrong = ""
        try:
            row.play(place)
        except FAILURES as error:
            wrong = str(error)
    if stranger.got_in:
        wrong = f"a stranger got in: {stranger.got_in}; {wrong}"
    return Verdict(row.name, stranger.words, wrong, time.monotonic() - began, noted=place.noted)


def in_a_bubble(row: Row) -> Verdict:
    """Play one row in a process and a bubble of its own."""
    with tempfile.TemporaryDirectory(prefix="immich-faults-") as folder:
        report = Path(folder, "verdict.json")
        command = [sys.executable, "-m", "tests.faults.matrix", "--in-bubble", row.name, str(report)]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "lab", "bubble", "--", *command],
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=ROW_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Verdict(row.name, [], f"did not end within {ROW_SECONDS} seconds", ROW_SECONDS)
        if not report.exists():
            return Verdict(row.name, [], f"{done.stdout}{done.stderr}", 0)
        return Verdict(**json.loads(report.read_text(encoding="utf-8")))


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
        f"{wrong} of them wrong, each in its own lab. During each row a stranger requests a private path",
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


def main(words: Sequence[str]) -> int:
    """Play the rows, print each as it ends, and return the exit status."""
    rows = {row.name: row for row in all_rows()}
    if words[:1] == ["--in-bubble"]:
        with tempfile.TemporaryDirectory(prefix="immich-faults-operator-") as folder:
            verdict = play(rows[words[1]], Path(folder))
        Path(words[2]).write_text(json.dumps(asdict(verdict)), encoding="utf-8")
        return 0
    if words == ["--table"]:
        TABLE.write_text(table(list(rows.values()), recorded()), encoding="utf-8")
        return 0
    if unknown := set(words) - rows.keys():
        raise SystemExit(f"There is no row named {', '.join(sorted(unknown))}.")
    chosen = [rows[name] for name in words] or list(rows.values())
    began = time.monotonic()
    wrong = []
    with ThreadPoolExecutor(int(os.environ.get("LAB_WORKERS", WORKERS))) as pool:
        for played in as_completed([pool.submit(in_a_bubble, row) for row in chosen]):
            verdict = played.result()
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
