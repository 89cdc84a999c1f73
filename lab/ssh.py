"""The operator's SSH client, with the server's host key pinned and the user's own configuration ignored."""

import subprocess

from lab import house, keys
from lab.places import SERVER_ADDRESS, Places


def command(places: Places, *words: str, connect_seconds: int = 5) -> list[str]:
    """The ssh command line that runs ``words`` on the server."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(connect_seconds),
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "LogLevel": "ERROR",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{places.known_hosts}"',
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    home = house.current(places)
    where = [
        "-F",
        "none",
        "-i",
        str(places.operator_key),
        "-p",
        str(home.ssh_port),
        "-l",
        home.login,
        SERVER_ADDRESS,
    ]
    return ["ssh", *flags, *where, "--", *words]


def run(
    places: Places, command_line: str, *, text: str | None = None, timeout: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run a shell command line on the server as the SSH user; ``text`` goes to its stdin.

    Does not raise on failure.
    """
    return subprocess.run(
        command(places, command_line),
        input=text or "",
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def answers(places: Places) -> bool:
    """Whether a real command runs.

    An open port is not enough: pam_nologin refuses every user while booting.
    """
    quick = command(places, "true", connect_seconds=1)
    try:
        return (
            subprocess.run(
                quick, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=5
            ).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


def boot_id(places: Places) -> str | None:
    """The kernel's id of this boot, which is different for each boot; None if the server does not answer."""
    quick = command(places, "cat /proc/sys/kernel/random/boot_id", connect_seconds=1)
    try:
        done = subprocess.run(
            quick, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=5
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def pin_host(places: Places) -> None:
    """Write the known_hosts file."""
    port = house.current(places).ssh_port
    name = SERVER_ADDRESS if port == 22 else f"[{SERVER_ADDRESS}]:{port}"
    places.known_hosts.write_text(f"{name} {keys.public_text(keys.host_key())}\n")
