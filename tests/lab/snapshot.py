"""A snapshot of the server, with which a test can prove that nothing on it has changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from lab import Lab

SERVER_FOLDERS = "/etc/nixos /var/lib/immich-exposure"

# The bans and the guard's notes change on their own; every change behind the funnel proves it again.
ALIVE = ("bans.sqlite3*", "guard*", "notices*", "lease", "term", "proven", "last-change", "standing")


@dataclass(frozen=True)
class Snapshot:
    """What makes the server what it is, and how often somebody logged in.

    ``files`` has, for configuration and state, one line per content and one per mode and owner.
    """

    files: str
    generation: str
    serve: str
    logins: int


def snapshot(lab: Lab) -> Snapshot:
    """Look at the server; each look is four logins itself, which the count leaves out."""
    logins = int(
        output(lab, "sudo journalctl -t sshd -o cat --no-pager | grep -c '^Accepted publickey' || :")
    )
    unlike = " ".join(f"! -name '{name}'" for name in ALIVE)
    contents = f"sudo find {SERVER_FOLDERS} -type f {unlike} -exec sha256sum {{}} + 2>/dev/null"
    owners = f"sudo find {SERVER_FOLDERS} {unlike} -printf '%M %u:%g %p\\n' 2>/dev/null"
    files = output(lab, f"{{ {contents}; {owners}; }} | sort")
    generation = output(lab, "readlink /nix/var/nix/profiles/system")
    serve = output(lab, "sudo tailscale serve status --json")
    return Snapshot(files, generation, serve, logins)


LOGINS_OF_ONE_LOOK = 4


def assert_nothing_changed(before: Snapshot, after: Snapshot, *, looks: int) -> None:
    """Assert that between two looks nothing changed, and that nobody logged in but the second look.

    ``looks`` are Pulumi's logins: one for drift in each run of the program; for the room for uploads two, one
    of them the connection that later calls share.
    """
    assert after == replace(before, logins=before.logins + LOGINS_OF_ONE_LOOK + looks)


def changed_files(before: Snapshot, after: Snapshot) -> dict[str, set[str]]:
    """Return the paths whose content, mode or owner is there in one look alone: ``gone`` and ``new``."""
    was, now = set(before.files.splitlines()), set(after.files.splitlines())
    return {
        kind: {line.split()[-1] for line in lines}
        for kind, lines in (("gone", was - now), ("new", now - was))
    }


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
