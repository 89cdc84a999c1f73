"""A control group of the lab's own, because nspawn leaves groups behind where it was started."""

import errno
import os
import time
from pathlib import Path

from lab import processes
from lab.errors import LabError
from lab.processes import Process

PATIENCE = 5.0  # seconds

NAME = "immich-lab"


def enter() -> None:
    """Move this process, and so all that it starts, into the lab's groups."""
    for group in _groups():
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()))


def members() -> list[Process]:
    """The running processes in the lab's groups and all groups below."""
    lists = (file for group in _groups() for file in group.rglob("cgroup.procs"))
    numbers = {int(line) for file in lists for line in _lines(file)}
    return [process for number in numbers if (process := processes.find(number))]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:  # the group is gone, or has threads in place of processes
        return []


def remove() -> None:
    """Delete the lab's groups; no process may be left in them. Raises LabError when one stays busy."""
    deadline = time.monotonic() + PATIENCE
    for group in _groups():
        for folder, _, _ in os.walk(group, topdown=False):
            while not _removed(folder):
                if time.monotonic() > deadline:
                    raise LabError(f"The control group {folder} stays busy; run `python -m lab down` again.")
                time.sleep(0.02)


def _removed(folder: str) -> bool:
    """Delete one group; False while the kernel still buries a process that was in it."""
    try:
        os.rmdir(folder)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _groups() -> list[Path]:
    """The lab's group in each hierarchy that nspawn uses: version 2, and version 1's systemd."""
    groups = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind_source_options = line.partition(" - ")
        kind, _, options = kind_source_options.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            groups.append(Path(place.split()[4]) / NAME)
    return groups
