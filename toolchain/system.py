"""Programs that come from the operating system, and how to get them on Debian and Ubuntu.

A need is looked up by its program, not by its package, so apt never runs on a machine that has everything.
Daemons that come with a package are neither started nor enabled: the lab runs its own.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ToolchainError

# Debian keeps administrators' programs outside an ordinary user's PATH.
_ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# Run as root with the packages as arguments. policy-rc.d (exit 101: forbidden by policy) is Debian's way to
# keep a package from starting its daemon; see invoke-rc.d(8). Package lists are fetched if they never were.
_INSTALL = """
set -eu
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\\nexit 101\\n' >"$policy"
    chmod 0755 "$policy"
fi
install() { apt-get install --yes --quiet --no-install-recommends "$@" >/dev/null; }
install "$@" 2>/dev/null || { apt-get update --quiet >/dev/null; install "$@"; }
"""


@dataclass(frozen=True)
class Need:
    """A program, its Debian package, its purpose, and services to leave switched off."""

    program: str
    package: str
    purpose: str
    services: tuple[str, ...] = ()


NEEDS = (
    Need("curl", "curl", "requests to the lab's edge"),
    Need("ip", "iproute2", "the lab's network namespaces"),
    Need("nft", "nftables", "the lab's packet filter"),
    Need("systemd-nspawn", "systemd-container", "the lab's server"),
    Need("dbus-daemon", "dbus", "systemd in the lab's server"),
    Need("sshd", "openssh-server", "SSH in the lab's server", ("ssh.service", "ssh.socket")),
    Need("ssh", "openssh-client", "SSH to a server"),
    Need("ssh-keygen", "openssh-client", "the operator's SSH key"),
    Need("sudo", "sudo", "root rights in the lab's server"),
    Need("fail2ban-server", "fail2ban", "bans in the lab's server", ("fail2ban.service",)),
    Need("nix-instantiate", "nix-bin", "evaluating the NixOS configuration"),
    Need("jq", "jq", "reading JSON in checks"),
    Need("openssl", "openssl", "looking at certificates in checks"),
    Need("shellcheck", "shellcheck", "linting the server's scripts"),
    # Some houses of the lab use these.
    Need("fish", "fish", "the login shell of a lab's house"),
    Need("zsh", "zsh", "the login shell of a lab's house"),
    Need("nginx", "nginx-light", "the proxy of a lab's house", ("nginx.service",)),
    Need("git", "git", "the checkout of a lab's house"),
)

# Any Go from 1.21 on is enough: it downloads the required one.
GO = Need("go", "golang-go", "building programs from source")

_NSS = Need("pk12util", "libnss3-tools", "opening bundles with NSS")

# Large, and needed only by a few tests, which request them.
BUNDLE_READERS = (
    _NSS,
    Need("certtool", "gnutls-bin", "opening bundles with GnuTLS"),
    Need("keytool", "default-jre-headless", "opening bundles with Java"),
)
NODE = (
    Need("node", "nodejs", "back ends that read paths in their own way"),
    Need("npm", "npm", "installing Express"),
)
BROWSER = (_NSS, Need("chromium", "chromium", "visiting the lab with a browser"))


def find(program: str) -> Path | None:
    """Return the program's path, on PATH or in an administrator's folder."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_ADMIN_FOLDERS])
    found = shutil.which(program, path=path)
    return Path(found) if found else None


def missing(needs: Iterable[Need] = NEEDS, look_up: Callable[[str], Path | None] = find) -> list[Need]:
    """Return the needs whose program is not on this machine."""
    return [need for need in needs if look_up(need.program) is None]


def ensure(needs: Iterable[Need] = NEEDS) -> None:
    """Install missing programs with apt-get; raises ToolchainError if that is not possible."""
    wanted = missing(needs)
    if not wanted:
        return
    packages = sorted({need.package for need in wanted})
    root = as_root(wanted)
    print(f"installing {', '.join(packages)} with apt-get ...", file=sys.stderr, flush=True)
    installed = subprocess.run([*root, "sh", "-c", _INSTALL, "sh", *packages], stdin=subprocess.DEVNULL)
    still = missing(wanted)
    if installed.returncode != 0 or still:
        raise ToolchainError(
            f"apt-get could not install {', '.join(need.program for need in still) or 'everything'}. "
            f"Run `sudo apt-get install {' '.join(packages)}` and see why."
        )
    for service in (service for need in wanted for service in need.services):
        # Releases differ in which service they have; without systemd there is nothing to switch off.
        subprocess.run(
            [*root, "sh", "-c", 'systemctl --quiet disable "$1"', "sh", service], capture_output=True
        )


def as_root(wanted: list[Need]) -> list[str]:
    """The prefix that makes a command run as root, if any. Raises ToolchainError without apt or root."""
    packages = " ".join(sorted({need.package for need in wanted}))
    lacking = ", ".join(f"{need.program} ({need.purpose})" for need in wanted)
    if shutil.which("apt-get") is None:
        raise ToolchainError(
            f"Programs are missing: {lacking}. Install them with your package manager (Debian calls "
            f"the packages {packages}); this setup installs them only on Debian and Ubuntu."
        )
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    raise ToolchainError(
        f"Programs are missing: {lacking}. Install them with `sudo apt-get install {packages}` (this set-up "
        "does so itself as root or with passwordless sudo)."
    )
