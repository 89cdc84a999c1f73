"""What the server looks like, so that a test can say that nothing about it has changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lab import Lab

SERVER_FOLDERS = "/etc/nixos /var/lib/immich-exposure"


@dataclass(frozen=True)
class Snapshot:
    """Files of configuration and state, the system generation, what Tailscale serves, and who logged in."""

    files: str
    generation: str
    serve: str
    logins: int


def snapshot(lab: Lab) -> Snapshot:
    """Look at the server; each look is four logins itself, which the count leaves out."""
    logins = int(
        output(lab, "sudo journalctl -t sshd -o cat --no-pager | grep -c '^Accepted publickey' || :")
    )
    files = output(lab, f"sudo find {SERVER_FOLDERS} -type f -exec sha256sum {{}} + 2>/dev/null | sort")
    generation = output(lab, "readlink /nix/var/nix/profiles/system")
    serve = output(lab, "sudo tailscale serve status --json")
    return Snapshot(files, generation, serve, logins)


LOGINS_OF_ONE_LOOK = 4


def output(lab: Lab, command: str) -> str:
    """Run a command on the server and return what it printed."""
    return lab.ssh(command).stdout.strip()


def folder_digest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder of this machine, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
