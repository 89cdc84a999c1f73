"""Finds and ends the lab's own processes, and no others.

There are no pid files: they go stale and miss orphans. A process is the lab's if it carries the lab's mark in
its initial environment (the supervisor and what it started), or if it is in one of the lab's network
namespaces (the whole server, lab-internet, visitors).
"""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.places import NETNS_FOLDER, STATE_VARIABLE, Places

PROJECT_MARK = "IMMICH_LAB_PROJECT"
ROLE_MARK = "IMMICH_LAB_ROLE"


@dataclass(frozen=True)
class Process:
    """A process, told apart from a later one with the same pid by its start time (clock ticks since boot)."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return find(self.pid) == self


def find(pid: int) -> Process | None:
    """The running process with this pid; None if there is none or only a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # proc(5): the name before it may contain spaces and brackets
    return None if fields[0] in "ZX" else Process(pid, int(fields[19]))


def marks(where: Places, role: str) -> dict[str, str]:
    """Environment variables that mark a process as started by this lab, and tell it where the lab is."""
    return {PROJECT_MARK: str(where.project), STATE_VARIABLE: str(where.state), ROLE_MARK: role}


def marked(where: Places, role: str | None = None) -> list[Process]:
    """The processes that this lab started outside its namespaces: those of a role, or all."""
    wanted = {f"{key}={value}".encode() for key, value in marks(where, role or "").items() if value}
    return [process for process in _running() if wanted <= set(_environment(process.pid))]


def in_namespace(namespace: str) -> list[Process]:
    """All processes in a named network namespace; none if it does not exist."""
    try:
        wanted = (NETNS_FOLDER / namespace).stat()
    except FileNotFoundError:
        return []
    return [process for process in _running() if _network(process.pid) == (wanted.st_dev, wanted.st_ino)]


def kill(processes: Iterable[Process], within: float = 10.0) -> list[Process]:
    """Send SIGKILL to all and wait; returns those still alive after ``within`` seconds."""
    return _send(signal.SIGKILL, processes, within)


def ask_to_end(processes: Iterable[Process], within: float = 3.0) -> list[Process]:
    """Send SIGTERM to all and wait; returns those still alive after ``within`` seconds."""
    return _send(signal.SIGTERM, processes, within)


def _send(number: signal.Signals, processes: Iterable[Process], within: float) -> list[Process]:
    left = [process for process in processes if process.pid != os.getpid()]
    for process in left:
        _signal(process, number)
    deadline = time.monotonic() + within
    while (left := [process for process in left if process.alive]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def is_first_of_container(process: Process) -> bool:
    """Whether it is PID 1 of another pid namespace, which the kernel ends together with it."""
    for line in _lines(process.pid, "status"):
        if line.startswith("NSpid:"):
            numbers = line.split()[1:]
            return len(numbers) > 1 and numbers[-1] == "1"
    return False


def _running() -> Iterator[Process]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (process := find(int(entry))):
            yield process


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _network(pid: int) -> tuple[int, int] | None:
    try:
        status = os.stat(f"/proc/{pid}/ns/net")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _lines(pid: int, name: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{name}").read_text().splitlines()
    except OSError:
        return []


def _signal(process: Process, number: signal.Signals) -> None:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.alive:  # the handle keeps the pid from being reused between this check and the signal
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
