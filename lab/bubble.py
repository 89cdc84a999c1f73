"""A bubble: one command in its own set of namespaces, so that several labs can run side by side.

The lab's names (namespaces, links, records in /run, the lock, control groups) are machine-wide. A process
tree with its own network, mounts, processes and control groups needs no other names. It has no internet
access: whatever a command needs from a registry must be there beforehand.

Everything that runs in a bubble ends with it, however that happens: its first process is PID 1 of a pid
namespace, and dies with its keeper, the outside process that waits for it.
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
# Ctrl-C reaches the command directly, because it is in the terminal's process group.
ENDING = (signal.SIGTERM, signal.SIGHUP)


def run(command: Sequence[str]) -> int:
    """Run a command in a bubble; returns its exit status, or 128 + N if signal N ended it.

    The lab inside keeps its state in a folder that is removed with the bubble. Raises LabError unless run as
    root.
    """
    if os.geteuid() != 0:
        raise LabError(
            "A bubble is made of namespaces and mounts, which only root may create; run the command again "
            "with sudo."
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
    """Hold the lock that marks a bubble as alive. The kernel releases it when the keeper dies.

    Raises BlockingIOError if it is held already, and FileNotFoundError.
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
                except KeyboardInterrupt:  # the command gets it as well, and decides itself how to end
                    continue
        finally:
            bubble.kill()


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code


def _remove_dead() -> None:
    """Remove what bubbles with a killed keeper leave behind: empty groups, a folder of files."""
    temporary = Path(tempfile.gettempdir())
    places = [hierarchy.point for hierarchy in cgroups.hierarchies()]
    names = {path.name for place in (temporary, *places) for path in place.glob(f"{PREFIX}*")}
    for name in names:
        if _keeper_lives(name):  # it may not have taken its lock yet
            continue
        # It is still dying, so the next run will find it, or another run has removed it.
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
    """Be the first process of a bubble: set up the machine, run the command, reap orphans."""
    for place in cgroups.hierarchies():  # mounted again, so that their root is the bubble's own group
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child gets it, too
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return _status(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
