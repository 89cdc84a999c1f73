"""Programs that come from the operating system, and how to get them on Debian and Ubuntu.

A need is looked up by its program, not by its package, so that a machine that has everything is never asked to run apt.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ToolchainError

# Debian keeps administrators' programs where an ordinary user's PATH does not look.
_ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True)
class Need:
    """A program, the Debian package that brings it, and what it is for."""

    program: str
    package: str
    purpose: str


NEEDS = (
    Need("curl", "curl", "requests to the lab's edge"),
    Need("ip", "iproute2", "the lab's network namespaces"),
    Need("nft", "nftables", "the lab's packet filter"),
    Need("systemd-nspawn", "systemd-container", "the lab's server"),
    Need("dbus-daemon", "dbus", "systemd in the lab's server"),
    Need("sshd", "openssh-server", "SSH in the lab's server"),
    Need("ssh", "openssh-client", "SSH to a server"),
    Need("ssh-keygen", "openssh-client", "the operator's SSH key"),
    Need("sudo", "sudo", "root rights in the lab's server"),
    Need("fail2ban-server", "fail2ban", "bans in the lab's server"),
    Need("nix-instantiate", "nix-bin", "evaluating the NixOS configuration"),
    Need("jq", "jq", "reading JSON in checks"),
    Need("openssl", "openssl", "looking at certificates in checks"),
    Need("shellcheck", "shellcheck", "linting the server's scripts"),
)


def find(program: str) -> Path | None:
    """The program on PATH or in an administrator's folder."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_ADMIN_FOLDERS])
    found = shutil.which(program, path=path)
    return Path(found) if found else None


def missing(needs: Iterable[Need] = NEEDS, look_up: Callable[[str], Path | None] = find) -> list[Need]:
    """The needs whose program is not on this machine."""
    return [need for need in needs if look_up(need.program) is None]


def ensure(needs: Iterable[Need] = NEEDS) -> None:
    """Install what is missing with apt-get; raises ToolchainError where that is not possible."""
    wanted = missing(needs)
    if not wanted:
        return
    packages = sorted({need.package for need in wanted})
    command = apt_command(packages)
    print(f"installing {', '.join(packages)} with apt-get ...", file=sys.stderr)
    refreshed = False
    while True:
        installed = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True)
        if installed.returncode == 0:
            break
        if refreshed:
            raise ToolchainError(
                f"apt-get could not install {', '.join(packages)}. Run `{' '.join(command)}` and see why."
            )
        # The list of packages is old or was never fetched: once is enough.
        subprocess.run([*command[: command.index("apt-get") + 1], "update"], stdout=subprocess.DEVNULL)
        refreshed = True
    still = missing(wanted)
    if still:
        raise ToolchainError(
            f"apt-get installed {', '.join(packages)}, but {', '.join(need.program for need in still)} is still not found."
        )


def apt_command(packages: list[str]) -> list[str]:
    """The command that installs the packages, as root or with passwordless sudo; raises ToolchainError elsewhere."""
    named = ", ".join(packages)
    if shutil.which("apt-get") is None:
        raise ToolchainError(
            f"This machine lacks programs that Debian packages as {named}. Install them with your package manager "
            "(only Debian and Ubuntu are served by this setup)."
        )
    install = ["apt-get", "install", "--yes", "--no-install-recommends", "--quiet", *packages]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    if os.geteuid() == 0:
        return [*environment, *install]
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n", *environment, *install]
    raise ToolchainError(
        f"Packages are missing: {named}. Install them with `sudo apt-get install {' '.join(packages)}` "
        "(this setup does it itself as root or with passwordless sudo)."
    )
