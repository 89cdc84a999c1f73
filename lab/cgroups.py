"""The lab's own control group, because nspawn leaves groups behind where it was started."""

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path

from lab import processes
from lab.errors import LabError
from lab.processes import Process

PATIENCE = 5.0  # seconds

NAME = "immich-lab"


@dataclass(frozen=True)
class Hierarchy:
    """A hierarchy of control groups that nspawn uses: where it is mounted, and how to mount it again."""

    point: Path
    kind: str
    options: str


def enter() -> None:
    """Move this process, and so everything that it starts, into the lab's groups."""
    for group in _groups():
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()))


def members() -> list[Process]:
    """The running processes in the lab's groups and all groups below."""
    folders = (
        folder for group in _groups() for folder, _, _ in os.walk(group)
    )  # one may disappear in the meantime
    numbers = {int(line) for folder in folders for line in _lines(Path(folder, "cgroup.procs"))}
    return [process for number in numbers if (process := processes.find(number))]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:  # the group is gone, or has threads instead of processes
        return []


def remove() -> None:
    """Delete the lab's groups; no process may be left in them. Raises LabError if one stays busy."""
    for group in _groups():
        remove_tree(group)


def remove_tree(group: Path) -> None:
    """Delete a group and all groups below it, if it exists. Raises LabError if one stays busy."""
    deadline = time.monotonic() + PATIENCE
    for folder, _, _ in os.walk(group, topdown=False):
        while not _removed(folder):
            if time.monotonic() > deadline:
                raise LabError(f"The control group {folder} stays busy; run `python -m lab down` again.")
            time.sleep(0.02)


def _removed(folder: str) -> bool:
    """Delete one group; False while the kernel is still reaping a process that was in it."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def hierarchies() -> list[Hierarchy]:
    """Version 2, and version 1's systemd hierarchy, if they are mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind_source_options = line.partition(" - ")
        kind, _, options = kind_source_options.split(" ", 2)
        point = Path(place.split()[4])
        if kind == "cgroup2":
            found.append(Hierarchy(point, kind, "rw"))
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            found.append(Hierarchy(point, kind, "none,name=systemd"))
    return found


def _groups() -> list[Path]:
    """The lab's group in each hierarchy that nspawn uses."""
    return [hierarchy.point / NAME for hierarchy in hierarchies()]
