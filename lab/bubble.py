"""A bubble: one command with a machine of its own around it, so that labs can live side by side.

The lab's names (namespaces, links, records in /run, the lock, control groups) are machine-wide. A process
tree with a network, mounts, processes and control groups of its own needs no other names. It has no way out:
what a command wants from a registry has to be there before.

All that runs in a bubble ends with it, however that happens: its first process is PID 1 of a pid namespace,
and dies with its keeper, the process outside that waits for it.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lab import cgroups, commands
from lab.errors import LabError
from lab.places import STATE_VARIABLE

PREFIX = "immich-bubble-"
# Ctrl-C reaches the command by itself, because it is of the terminal's group.
ENDING = (signal.SIGTERM, signal.SIGHUP)


def run(command: Sequence[str]) -> int:
    """Run a command in a bubble; returns its exit status, 128 + N when signal N ended it.

    The lab inside keeps its state in a folder that goes with the bubble. Raises LabError for everybody but
    root.
    """
    if os.geteuid() != 0:
        raise LabError(
            "A bubble is made of namespaces and mounts, which only root may; run the command again with sudo."
        )
    _remove_dead()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    groups = [hierarchy.point / folder.name for hierarchy in cgroups.hierarchies()]
    with _locked(folder):
        try:
            for group in groups:
                group.mkdir()
            return _run_inside(command, folder / "state", groups)
        finally:
            _remove(folder.name, [group.parent for group in groups])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock that says that a bubble lives. The kernel lets go of it with the keeper.

    Raises BlockingIOError when somebody holds it, and FileNotFoundError.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _run_inside(command: Sequence[str], state: Path, groups: Sequence[Path]) -> int:
    join = "".join('echo $$ >"$1/cgroup.procs"; shift; ' for _ in groups)
    words = [*map(str, groups), "setpriv", "--pdeathsig", "KILL"]
    words += ["unshare", "--net", "--mount", "--cgroup", "--pid", "--fork", "--kill-child=KILL"]
    words += ["--mount-proc", "--propagation", "private", sys.executable, "-m", "lab.bubble", *command]
    project = str(Path(__file__).resolve().parents[1])
    search = os.pathsep.join([project, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {STATE_VARIABLE: str(state), "PYTHONPATH": search}
    for number in ENDING:
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    with subprocess.Popen(["sh", "-euc", f'{join}exec "$@"', "sh", *words], env=environment) as bubble:
        try:
            while True:
                try:
                    return _status(bubble.wait())
                except KeyboardInterrupt:  # the command has it as well, and ends as it likes
                    continue
        finally:
            bubble.kill()


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code


def _remove_dead() -> None:
    """Clear away what bubbles leave whose keeper was killed: empty groups, a folder of files."""
    temporary = Path(tempfile.gettempdir())
    places = [hierarchy.point for hierarchy in cgroups.hierarchies()]
    names = {path.name for place in (temporary, *places) for path in place.glob(f"{PREFIX}*")}
    for name in names:
        if _keeper_lives(name):  # it may not have come to its lock yet
            continue
        # It is still dying, and the next one finds it, or another one has cleared it away.
        with suppress(BlockingIOError, FileNotFoundError, LabError):
            if (temporary / name).exists():
                with _locked(temporary / name):
                    _remove(name, places)
            else:
                _remove(name, places)


def _keeper_lives(name: str) -> bool:
    return Path("/proc", name.removeprefix(PREFIX).partition("-")[0]).exists()


def _remove(name: str, places: Sequence[Path]) -> None:
    for place in places:
        cgroups.remove_tree(place / name)
    shutil.rmtree(Path(tempfile.gettempdir(), name), ignore_errors=True)


# -- inside ---------------------------------------------------------------------------------------------


def main(command: list[str]) -> int:
    """Be the first process of a bubble: make the machine, run the command, bury what others leave."""
    for place in cgroups.hierarchies():  # anew, so that their root is the bubble's own group
        commands.run(["umount", str(place.point)])
        commands.run(["mount", "-t", place.kind, "-o", place.options, "cgroup", str(place.point)])
    commands.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"])
    for name in ("lock", "sshd"):
        Path("/run", name).mkdir()
    commands.run(["ip", "link", "set", "lo", "up"])
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(f"lab: {command[0]} cannot be run: {error.strerror}.", file=sys.stderr)
        return 127
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child has it, too
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return _status(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
