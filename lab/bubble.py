"""A bubble: one command with a machine of its own around it, so that labs can live side by side.

The lab's names (namespaces, links, records in /run, the lock, control groups) are machine-wide. A process
tree with a network, mounts, processes and control groups of its own needs no other names. It has no way out:
what a command wants from a registry has to be there before.

All that runs in a bubble ends with it, however that happens: its first process is PID 1 of a pid namespace,
and dies with its keeper, the process outside that waits for it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
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
    state = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    hierarchies = cgroups.hierarchies()
    groups = [place.point / state.name for place in hierarchies]
    try:
        for group in groups:
            group.mkdir()
        return _run_inside(command, state, groups)
    finally:
        for group in groups:
            cgroups.remove_tree(group)
        shutil.rmtree(state, ignore_errors=True)


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
    groups = [group for place in cgroups.hierarchies() for group in place.point.glob(f"{PREFIX}*")]
    folders = list(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
    for left in (*groups, *folders):
        if _alive(left.name):
            continue
        if left in folders:
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(LabError):  # it is still dying: the next one finds it
                cgroups.remove_tree(left)


def _alive(name: str) -> bool:
    keeper = name.removeprefix(PREFIX).partition("-")[0]
    return keeper.isdigit() and Path(f"/proc/{keeper}").exists()


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
