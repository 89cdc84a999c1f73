"""The README's pictures, made from the output and files of a real run on the lab: `make pictures`.

The recording is an SVG that any browser plays automatically; without animation it shows the last frame. The
sheet is a phone's, rendered by headless Chromium at a phone's width.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lab import Lab
from lab.house import DEFAULT_HOUSE, house
from tests.lab.operator import Operator
from toolchain import system
from toolchain.paths import PROJECT

PICTURES = PROJECT / "docs" / "pictures"
RECORDING = PICTURES / "up.svg"
SHEETS = {"light": PICTURES / "sheet-light.png", "dark": PICTURES / "sheet-dark.png"}

_LONGEST_WAIT = 0.6
"""Seconds that a line may take to appear in the recording, however long the run took for it."""
_TITLE = "pulumi up exposes Immich and proves it, a stranger is refused, pulumi destroy takes it back"
_PAUSE = 1.0
"""Seconds between a command and what it prints, and between that and the next command."""
_COLUMNS = 96
_CHARACTER, _LINE, _FONT = 8.0, 19, 13
"""Widths and heights in SVG units; a monospaced character is 0.6 of its font's size at most."""

_GROUND, _INK, _DIM, _GOOD, _REFUSED = "#0d1117", "#c9d1d9", "#8b949e", "#7ee787", "#ffa198"
"""A terminal is dark on light pages and dark ones; each colour has a contrast of 5 or more on the ground."""

_PHONE = (390, 1240)
_WINDOW = (500, 1262)
"""Widths and heights of the sheet in CSS pixels, and of the picture around it."""

_SERVERS_WORD = re.compile(
    r"pulumi:pulumi:Stack \S+ (?:creating \(\d+s\))? *(?P<said>(?:[A-Z0-9]|[a-z0-9-]+(?:\.[a-z0-9-]+)+ ).*)"
)
"""What the engine itself adds there begins with a small letter. So does a sentence about a domain."""
_WAY_BACK = re.compile(r"command:remote:Command \S+ deleting \(\d+s\) (?P<said>\S.*)")
_CHECKED = re.compile(r" {8}(?P<asked>GET \S+ \d{3}) *: \"(?P<meaning>.+)\"")
_TOLD_LAST = re.compile(r"    (?:url|[+-] \d+ (?:created|deleted)).*|Duration: .*")
_NOT_TOLD = re.compile(r"warning:|^\d+ (?:warnings?|messages?)")


@dataclass(frozen=True)
class Line:
    """One line of the recording: when it appears, in seconds, what it says and its colour."""

    seconds: float
    text: str
    colour: str = _INK


def told(printed: Sequence[tuple[float, str]]) -> Iterator[Line]:
    """Pick from what the engine printed what the server said, what was proven, and the result.

    Left out are the engine's lines for each resource, and the list of what becomes public.
    """
    for seconds, line in printed:
        said = _SERVERS_WORD.search(line) or _WAY_BACK.search(line)
        if said and not _NOT_TOLD.search(said["said"]):
            yield Line(seconds, f"    {said['said']}", _DIM)
        elif checked := _CHECKED.match(line):
            yield Line(seconds, f"    {checked['asked']:<36}{checked['meaning']}", _GOOD)
        elif _TOLD_LAST.fullmatch(line):
            yield Line(seconds, f"    {' '.join(line.split())}")


def render(lines: Sequence[Line]) -> str:
    """Return the recording as SVG. A line that is too long for the picture is an error."""
    if long := [line.text for line in lines if len(line.text) > _COLUMNS]:
        raise ValueError(f"These lines do not fit into {_COLUMNS} columns: {long}")
    width, height = round((_COLUMNS + 4) * _CHARACTER), (len(lines) + 3) * _LINE
    rows = "\n".join(
        f'<text x="16" y="{(row + 2) * _LINE}" fill="{line.colour}" '
        f'style="animation-delay:{line.seconds:.1f}s">{escape(line.text, quote=False)}</text>'
        for row, line in enumerate(lines)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>{_TITLE}</title>
<style>
text {{ font: {_FONT}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre; animation: appear 1ms linear backwards }}
@keyframes appear {{ from {{ opacity: 0 }} }}
@media (prefers-reduced-motion: reduce) {{ text {{ animation: none }} }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="{_GROUND}"/>
{rows}
</svg>
"""


class Recorder:
    """Runs commands in the lab as its operator and keeps the lines of the recording."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.lines: list[Line] = []
        self._now = 0.0

    def pulumi(self, verb: str) -> None:
        """Record a run of the engine, at its own pace but for what takes long."""
        self._type(f"$ pulumi {verb} --yes")
        began = time.monotonic()
        printed = []
        with self.operator.start(verb) as running:
            assert running.stdout is not None
            for line in running.stdout:
                printed.append((time.monotonic() - began, line.rstrip("\n")))
        if running.returncode:
            raise SystemExit(f"pulumi {verb} failed:\n" + "\n".join(line for _, line in printed))
        before = 0.0
        for said in told(printed):
            self._now += min(said.seconds - before, _LONGEST_WAIT)
            before = said.seconds
            self.lines.append(Line(self._now, said.text, said.colour))
        self._rest()

    def stranger(self, path: str) -> None:
        """Record what a stranger on the internet gets to see: the status, and the body of a refusal."""
        self._type(f"# a stranger on the internet asks for {self.operator.outputs()['url']}{path}")
        shown = subprocess.run(
            [sys.executable, "-m", "lab", "visit", path],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        )
        status, *body = shown.stdout.splitlines()
        refused = status.endswith("403")
        for line in (status, *body) if refused else (status,):
            self.lines.append(Line(self._now, f"    {line}", _REFUSED if refused else _GOOD))
        self._rest()

    def _type(self, command: str) -> None:
        self.lines.append(Line(self._now, command))
        self._now += _PAUSE

    def _rest(self) -> None:
        self._now = self.lines[-1].seconds + _PAUSE
        self.lines.append(Line(self._now, ""))


def photograph(sheet: Path, picture: Path, *, dark: bool) -> None:
    """Let Chromium draw the top of a sheet as a phone shows it, on a transparent ground.

    Its window cannot be as narrow as a phone; a frame in it can.
    """
    margin = (_WINDOW[0] - _PHONE[0]) // 2
    with tempfile.TemporaryDirectory() as folder:
        around = Path(folder, "around.html")
        around.write_text(
            f"<!doctype html><style>body {{ margin: 10px {margin}px }} iframe {{ border: 1px solid #8b949e; "
            f'border-radius: 24px }}</style><iframe src="{sheet.as_uri()}" width="{_PHONE[0]}" '
            f'height="{_PHONE[1]}" scrolling="no"></iframe>',
            encoding="utf-8",
        )
        command = [
            str(system.find("chromium")), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--hide-scrollbars", "--allow-file-access-from-files",
            "--default-background-color=00000000",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--user-data-dir={folder}/profile", f"--window-size={_WINDOW[0]},{_WINDOW[1]}",
            f"--screenshot={picture}", around.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)


def draw() -> None:
    """Boot the lab, run the story once and write the pictures."""
    system.ensure(system.BROWSER)
    lab = Lab(report=print)
    lab.down()
    lab.up(house(DEFAULT_HOUSE))
    try:
        with tempfile.TemporaryDirectory() as folder:
            operator = Operator(Path(folder), lab.info(), stack="home")
            operator.init()
            recorder = Recorder(operator)
            recorder.pulumi("up")
            recorder.stranger("/api/albums")
            recorder.stranger("/share/labsharekey")
            sheet = operator.keystore / "devices" / "phone.html"
            for scheme, picture in SHEETS.items():
                photograph(sheet, picture, dark=scheme == "dark")
            recorder.pulumi("destroy")
    finally:
        lab.down()
    RECORDING.write_text(render(recorder.lines[:-1]), encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m tests.lab.pictures",
        description="Run the story of the README's pictures in the lab, and write them into docs/pictures.",
    ).parse_args()
    draw()
