"""The server as a container: one systemd-nspawn command, and how to stop, reboot and watch what it runs."""

import errno
import subprocess
from pathlib import Path

from lab import processes
from lab.errors import LabError
from lab.places import MACHINE, NETNS_FOLDER, SERVER_NAMESPACE, Places
from lab.processes import Process

# systemd-nspawn exits with this status if the container asked for a reboot (nspawn.c, EXIT_FORCE_RESTART).
REBOOT_STATUS = 133

CONTAINER = "immich-lab"
NSPAWN_FOLDER = Path("/run/systemd/nspawn")  # nspawn's own records on the host

# On NixOS, root's sessions get them from PAM.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CONSOLE_PATH = f"/run/wrappers/bin:/run/current-system/sw/bin:{SYSTEM_PATH}"
CHANNELS = "/nix/var/nix/profiles/per-user/root/channels"
NIX_PATH = f"NIX_PATH=nixpkgs={CHANNELS}/nixos:nixos-config=/etc/nixos/configuration.nix:{CHANNELS}"


def command(places: Places, programs: Path) -> list[str]:
    """The command line that boots the server. ``programs`` is bound read-only to /opt/lab."""
    return [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        f"--directory={places.root}",
        f"--machine={CONTAINER}",
        f"--hostname={MACHINE}",
        # Does not use the host's systemd, because there may be none.
        "--register=no",
        "--keep-unit",
        f"--network-namespace-path={NETNS_FOLDER / SERVER_NAMESPACE}",
        # Dropped by default with our own namespace, but tailscaled needs it for its TUN, rules and routes.
        "--capability=CAP_NET_ADMIN",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=read-only",
        f"--bind-ro={_escape(programs)}:/opt/lab",
        f"--bind-ro={_escape(places.sources / 'stub')}:/opt/lab-stub",
    ]


def first_process() -> Process | None:
    """The server's PID 1 in the host's numbering; None if no server is running.

    An orphan of a killed nspawn counts.
    """
    members = processes.in_namespace(SERVER_NAMESPACE)
    return next((one for one in members if processes.is_first_of_container(one)), None)


def console(
    command_line: str, *, text: str | None = None, timeout: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run a shell command line as root on the server's console, independent of its users and SSH.

    Does not raise on failure, but raises LabError if no server is running.
    """
    first = first_process()
    if not first:
        raise LabError("The server is off; switch it on with `python -m lab reboot`.")
    enter = ["nsenter", f"--target={first.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root"]
    search = f"PATH={CONSOLE_PATH}"
    words = [*enter, "--wdns=/", "env", "-i", search, "HOME=/root", NIX_PATH, "sh", "-c", command_line]
    return subprocess.run(
        words, input=text or "", capture_output=True, text=True, check=False, timeout=timeout
    )


def power_off(first: Process) -> None:
    """Cut the power: the kernel ends the whole server with its PID 1. Written data is kept."""
    processes.kill([first])


def remove_records(root: Path) -> None:
    """Delete what nspawn leaves on the host: its lock on the root and the machine's empty folder."""
    if root.exists():
        status = root.stat()
        (NSPAWN_FOLDER / f"locks/inode-{status.st_dev}:{status.st_ino}").unlink(missing_ok=True)
    for name in (
        f"propagate/{CONTAINER}",
        f"unix-export/{CONTAINER}",
        "propagate",
        "unix-export",
        "locks",
        ".",
    ):
        _remove_if_empty(NSPAWN_FOLDER / name)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.resolve().rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def _escape(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:")
