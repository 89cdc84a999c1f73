"""Up, down, reboot and status of the whole lab."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab import (
    cgroups,
    internet,
    mounts,
    network,
    ownership,
    places,
    processes,
    rootfs,
    server,
    ssh,
)
from lab.errors import LabError
from lab.house import DEFAULT_HOUSE, House, current, house
from lab.lock import machine_lock
from lab.places import INTERNET_NAMESPACE, NETNS_FOLDER, SERVER_NAMESPACE, Places
from toolchain import program

Report = Callable[[str], None]

PROGRAMS = ("tailscale", "tailscaled", "caddy", "lab-internet")  # of the toolchain

PATIENCE = 60.0  # seconds until a boot step counts as failed; the slowest takes about 3


@dataclass(frozen=True)
class Status:
    """The current state as found, not as once started."""

    foreign: Places | None  # another clone's running lab
    abandoned: Places | None  # another clone's dead lab that was not cleaned up
    supervisor: bool
    internet: bool
    server: bool
    ssh: bool
    tailnet: bool
    leftovers: tuple[str, ...]  # names of links, namespaces, mounts that exist

    @property
    def up(self) -> bool:
        """Everything runs and answers."""
        return self.supervisor and self.internet and self.server and self.ssh and self.tailnet

    @property
    def down(self) -> bool:
        """Nothing of this clone's lab exists."""
        return not (self.supervisor or self.internet or self.server or self.leftovers)

    @property
    def word(self) -> str:
        """``up``, ``down`` or ``broken``."""
        return "up" if self.up else "down" if self.down else "broken"


def up(where: Places, report: Report, home: House | None = None) -> None:
    """Boot the lab as a house, by default the default one, unless it is up already.

    A broken lab, another clone's dead lab, or a lab that is another house is taken down first.

    Raises LabError if a step fails and ToolchainError if a program was not built yet; then nothing is left
    behind.
    """
    require_root()
    with machine_lock():
        ownership.require_ours(where)
        _clear_abandoned(where, report)
        found = _status(where)
        if found.up and home in (None, current(where)):
            report("The lab is already up.")
            return
        if found.up:
            report(f"The lab is the house {current(where).name}; it is taken down and booted again.")
        elif not found.down:
            report("The lab is in pieces; it is taken down and booted again.")
        _down(where)
        try:
            _boot(where, report, home or house(DEFAULT_HOUSE))
        except BaseException:
            _down(where)
            raise


def down(where: Places, report: Report, *, force: bool = False) -> None:
    """Take the lab down, whatever state it is in, and clean up another clone's dead one.

    ``force`` takes down another clone's running lab instead.

    Raises LabError if the lab on this machine is another clone's, or if something cannot be removed.
    """
    require_root()
    with machine_lock():
        other = ownership.foreign(where)
        if other and force:
            where = other
        else:
            ownership.require_ours(where)
            _clear_abandoned(where, report)
        began = time.monotonic()
        was_down = _status(where).down
        _down(where)
        report("The lab was down." if was_down else f"The lab is down ({time.monotonic() - began:.1f} s).")


def reboot(where: Places, report: Report) -> None:
    """Reboot the server, or switch it on if it is off; returns when it is on the tailnet again."""
    require_root()
    with machine_lock():
        require_up_or_off(where)
        began = time.monotonic()
        before = ssh.boot_id(where)
        if before:
            # The connection may be cut before the command can report success.
            server.console("systemctl reboot", timeout=20)
        elif first := server.first_process():
            server.power_off(first)
        _wait(
            "the server did not go down",
            lambda: server.first_process() is None or ssh.boot_id(where) not in (before, None),
        )
        if not before:
            power_on(where)
        _wait("the server did not come back", lambda: ssh.boot_id(where) not in (before, None))
        report(f"The server answers SSH again after {time.monotonic() - began:.1f} s.")
        _wait("the server did not join the tailnet again", lambda: on_tailnet(where))


def power_on(where: Places) -> None:
    """Press the power button: the supervisor boots the server if it is off. Does not wait."""
    for supervisor in processes.marked(where, "supervisor"):
        os.kill(supervisor.pid, signal.SIGUSR1)


def status(where: Places) -> Status:
    """Look at everything. Needs root to see the server's processes."""
    require_root()
    return _status(where)


def on_tailnet(where: Places) -> bool:
    """Whether the server's tailscaled is connected."""
    asked = ssh.run(where, "tailscale status --json --peers=false", timeout=20)
    return '"BackendState": "Running"' in asked.stdout


def require_root() -> None:
    """Raise LabError unless run as root."""
    if os.geteuid() != 0:
        raise LabError(
            "The lab creates namespaces and mounts, which only root may; run the command again with sudo."
        )


def require_up_or_off(where: Places) -> None:
    """Raise LabError unless this clone's lab runs, even with its server off, and we may use it."""
    require_root()
    ownership.require_ours(where)
    if not processes.marked(where, "supervisor"):
        raise LabError("The lab is not up; boot it with `python -m lab up`.")


def _clear_abandoned(where: Places, report: Report) -> None:
    """Nobody can be using a lab without processes, so no permission is needed."""
    if other := ownership.abandoned(where):
        _down(other)
        report(f"The lab of another clone was dead; what it left behind is cleared away ({other.project}).")


def _boot(where: Places, report: Report, home: House) -> None:
    began = time.monotonic()

    def done(what: str) -> None:
        report(f"{time.monotonic() - began:5.1f} s  {what}")

    for name in PROGRAMS:
        program(name)
    ownership.claim(where)
    for folder in (where.state, where.logs, where.internet):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    where.house.write_text(home.name + "\n")
    network.build(home.ssh_port)
    done("two namespaces without a way out, and the links between")
    rootfs.build(where, home)
    ssh.pin_host(where)
    done("the server's file system")
    _start(where)
    done("Tailscale's stand-in, ingress, ACME and DNS are ready; the server boots")
    _wait_or_explain(where, "the server did not answer SSH", lambda: ssh.answers(where))
    done("the server answers SSH")
    _on_the_server("what its owner has prepared", home.before)
    _on_the_server("the server's first nixos-rebuild", home.rebuild)
    done("the first NixOS generation is active")
    _wait_or_explain(where, "the server did not join the tailnet", lambda: on_tailnet(where))
    _on_the_server("what its owner does after a boot", home.unlock)
    _on_the_server("what its owner has done last", home.after)
    done(f"the lab is up; the server is {places.DOMAIN}, the house is {home.name}")


def _on_the_server(what: str, command_line: str) -> None:
    """Run a command as the server's owner would. Raises LabError if it fails."""
    if not command_line:
        return
    done = server.console(f"set -e\n{command_line}")
    if done.returncode:
        said = f"{done.stdout.strip()[-1000:]}\n{done.stderr.strip()[-2000:]}".strip()
        raise LabError(f"In the lab's house {what} failed ({done.returncode}): {said}")


def _start(where: Places) -> None:
    with (where.logs / "supervisor.log").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "lab.supervisor"],
            cwd=where.project,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | processes.marks(where, "supervisor"),
        )
    _wait(
        "lab-internet did not get ready",
        lambda: internet.ready_file(where).exists() or supervisor.poll() is not None,
    )
    if supervisor.poll() is not None:
        raise LabError(f"The lab's supervisor ended at once: {_tail(where.logs / 'supervisor.log')}")


def _wait_or_explain(where: Places, failure: str, condition: Callable[[], bool]) -> None:
    try:
        _wait(failure, condition)
    except LabError as error:
        logs = "\n".join(f"--- {log.name}\n{_tail(log)}" for log in sorted(where.logs.glob("*.log")))
        raise LabError(f"{error}\n{logs}") from error


def _wait(failure: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"In {PATIENCE:.0f} s {failure}.")
        time.sleep(0.05)


def _tail(log: Path, characters: int = 1500) -> str:
    return log.read_text(errors="replace")[-characters:].strip()


def _status(where: Places) -> Status:
    # Without its nspawn a server is an orphan: it keeps running, but could not reboot.
    running = server.first_process() is not None and bool(processes.marked(where, "server"))
    answers = running and ssh.answers(where)
    return Status(
        foreign=ownership.foreign(where),
        abandoned=ownership.abandoned(where),
        supervisor=bool(processes.marked(where, "supervisor")),
        internet=bool(processes.marked(where, "internet")) and internet.ready_file(where).exists(),
        server=running,
        ssh=answers,
        tailnet=answers and on_tailnet(where),
        leftovers=tuple(_leftovers(where)),
    )


def _leftovers(where: Places) -> list[str]:
    found = [f"mount {point}" for point in mounts.under(where.disk)]
    if ownership.foreign(where) or ownership.abandoned(where):
        return found
    if network.exists(places.OPERATOR_LINK):
        found.append(f"link {places.OPERATOR_LINK}")
    for name in (SERVER_NAMESPACE, INTERNET_NAMESPACE):
        if (NETNS_FOLDER / name).exists():
            found.append(f"namespace {name} with {len(processes.in_namespace(name))} processes")
    if members := cgroups.members():
        found.append(f"control group {cgroups.NAME} with {len(members)} processes")
    return found


def _down(where: Places) -> None:
    _end_processes(where)
    server.remove_records(where.root)
    rootfs.remove(where)
    network.remove()
    cgroups.remove()
    _remove_files(where)
    owner = ownership.read()
    if owner and not owner.netns_folder_was_mounted:
        _forget_netns_folder()
    ownership.release()


def _end_processes(where: Places) -> None:
    """End all processes, in an order in which nothing is restarted and none is missed."""
    # Asked first, because it reaps its children; if killed, it leaves that to the machine's init.
    _kill(processes.ask_to_end(processes.marked(where, "supervisor")))
    while members := ownership.inhabitants():  # again, for processes started in between
        _kill(members)
    _kill(processes.marked(where))


def _kill(found: list[processes.Process]) -> None:
    if left := processes.kill(found):
        numbers = ", ".join(str(process.pid) for process in left)
        raise LabError(
            f"Processes of the lab do not end: {numbers}; check them and run `python -m lab down` again."
        )


def _remove_files(where: Places) -> None:
    """Delete what the lab made in the state folder; the folder stays if it contains anything else."""
    for folder in (where.logs, where.internet, where.phones):
        shutil.rmtree(folder, ignore_errors=True)
    key = where.operator_key
    for file in (key, key.with_name(key.name + ".pub"), where.known_hosts, where.roots, where.house):
        file.unlink(missing_ok=True)
    if where.state.is_dir() and not any(where.state.iterdir()):
        where.state.rmdir()


def _forget_netns_folder() -> None:
    """Undo what `ip netns add` did to an untouched machine, unless others have namespaces there now."""
    if not NETNS_FOLDER.is_dir() or any(NETNS_FOLDER.iterdir()):
        return
    while mounts.is_mounted(NETNS_FOLDER):  # twice if two `ip netns add` ran at the same time
        mounts.remove(NETNS_FOLDER)
    with suppress(OSError):  # another process may have been faster
        NETNS_FOLDER.rmdir()
