"""The server as a container: one systemd-nspawn command, and how to stop, reboot and watch what it runs."""

import os
import signal
from pathlib import Path

from lab import processes
from lab.places import MACHINE, NETNS_FOLDER, SERVER_NAMESPACE, Places
from lab.processes import Process

# systemd-nspawn ends with this status when the container asked for a reboot (nspawn.c, EXIT_FORCE_RESTART).
REBOOT_STATUS = 133

SYSTEMD = Path("/usr/lib/systemd/systemd")


def command(places: Places, programs: Path) -> list[str]:
    """The command line that boots the server. ``programs`` is bound read-only to /opt/lab."""
    return [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        f"--directory={places.root}",
        f"--machine={MACHINE}",
        # No systemd on the host is asked for anything: there may be none.
        "--register=no",
        "--keep-unit",
        f"--network-namespace-path={NETNS_FOLDER / SERVER_NAMESPACE}",
        # Not kept with a namespace of our own, but tailscaled needs it for its TUN, rules and routes.
        "--capability=CAP_NET_ADMIN",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=read-only",
        f"--bind-ro={_escape(programs)}:/opt/lab",
        f"--bind-ro={_escape(places.sources / 'nixos')}:/opt/lab-nixos",
        f"--bind-ro={_escape(places.sources / 'stub')}:/opt/lab-stub",
    ]


def first_process() -> Process | None:
    """The server's PID 1 as the host numbers it; None when no server runs, whoever started it."""
    return next((one for one in processes.in_namespace(SERVER_NAMESPACE) if _is_init(one)), None)


def power_off(first: Process) -> None:
    """Cut the power: the kernel ends the whole server with its PID 1. What it wrote is kept."""
    os.kill(first.pid, signal.SIGKILL)


def _is_init(process: Process) -> bool:
    return processes.is_first_of_container(process)


def _escape(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:")
