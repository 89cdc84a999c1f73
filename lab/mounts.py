"""What is mounted where, according to the kernel (proc(5), mountinfo), and unmounting it."""

import subprocess
import time
from pathlib import Path

from lab import commands

PATIENCE = 10.0  # seconds


def under(folder: Path) -> list[Path]:
    """Mount points at or below ``folder`` in mount order, including stacked ones."""
    points = (
        Path(_unescape(line.split()[4])) for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )
    return [point for point in points if point == folder or folder in point.parents]


def _unescape(text: str) -> str:
    """Undo mountinfo's octal escapes (proc(5)): a space in the path is written as ``\\040``."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def is_mounted(point: Path) -> bool:
    """Whether something is mounted there. os.path.ismount misses a folder that is bound on itself."""
    return point in under(point)


def remove(point: Path) -> None:
    """Unmount one mount point. Raises LabError if not even a lazy unmount works.

    A mount stays busy for a moment after the last process that used it was killed.
    """
    deadline = time.monotonic() + PATIENCE
    while subprocess.run(["umount", str(point)], capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            commands.run(["umount", "--lazy", str(point)])
            return
        time.sleep(0.05)
