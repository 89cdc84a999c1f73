"""The state of the whole server, with which a test can prove that it is as it was: files, services, ports,
funnel.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import Lab
from tests.server.waiting import HarnessError, wait_until

# What lives by itself, whether anything of ours is there or not.
ALIVE = (
    "dev",
    "nix",
    "opt/lab-nixos",
    "proc",
    "root/.cache",
    "run",
    "sys",
    "tmp",
    "var/cache",
    "var/lib/caddy/.config",  # theirs: written at each of its starts
    "var/lib/fail2ban",
    "var/lib/immich-stub",
    "var/lib/systemd",
    "var/lib/tailscale",
    "var/log",
    "var/tmp",
)
# Written anew by each activation, so only what stands in them counts, in whatever order.
PEOPLE = ("group", "gshadow", "passwd", "shadow", "subgid", "subuid")
ACCOUNTS = tuple(f"etc/{name}" for name in PEOPLE)
WRITTEN_ANEW = (
    *ACCOUNTS,
    "etc/.pwd.lock",
    "etc/static",
    "etc/systemd/system",
    "var/lib/lab-nixos/people.json",
)
KEPT_BY_THE_SYSTEM = tuple(f"etc/{name}-" for name in PEOPLE)  # as it was before the last activation

# Its mode is the service's at a start, and another one's at an activation.
IMMICHS_OWN = "var/lib/immich"

# Its socket listens or runs, and its service comes, as somebody has asked for Immich or not.
SOMEBODY_CAME = re.compile(r"immich-exposure-lan@.*")
# What a timer starts may run at the very moment of a look: such a look is taken again.
TIMED = tuple(
    f"immich-exposure-{name}.service" for name in ("certificate", "devices", "guard", "lan", "lease")
)

OUR_NAMES = "-name '*immich-exposure*' -o -name '*immich-edge*' -o -name '*immich-bans*'"
NOT_THERE = "\\( -path /nix -o -path /run/systemd \\) -prune"
FIND_OURS = f"find / /run /tmp -xdev {NOT_THERE} -o \\( {OUR_NAMES} \\) -print"
PASSING = (
    "lab-",
    "nixos-rebuild-",
    "run-",
    "session-",
    "systemd-",
    "user-",
    "user@",
    "logrotate",
    "dev-",
    "sys-",
)


@dataclass(frozen=True)
class Look:
    """``files`` are those that were laid into the server or changed on it: path -> what can be seen of it."""

    files: dict[str, str]
    units: dict[str, str]
    ports: frozenset[str]
    rest: dict[str, str]

    def since(self, earlier: Look, *, times: bool = True) -> str:
        """What is different now, one line each; nothing when all is as it was.

        Without ``times``, it does not matter when a file was written.
        """
        was, is_now = (one.files if times else _without_times(one.files) for one in (earlier, self))
        told = [*_differences("file", was, is_now, _of_the_host)]
        told += _differences("unit", earlier.units, self.units)
        told += _differences("", earlier.rest, self.rest)
        told += [f"port {port} is new" for port in sorted(self.ports - earlier.ports)]
        told += [f"port {port} is gone" for port in sorted(earlier.ports - self.ports)]
        return "\n".join(told)


def look(lab: Lab) -> Look:
    """Look at the whole server while none of our timers' services runs. Nobody logs in for it."""
    while True:
        started = _starts_when_idle(lab)
        seen = _at_once(lab)
        if _starts(lab) == started:
            return seen


def _starts_when_idle(lab: Lab) -> str:
    def idle() -> bool:
        return root(lab, f"systemctl list-units --state=activating --no-legend {' '.join(TIMED)}") == ""

    wait_until(idle, "none of the timers' services runs", 120)
    return _starts(lab)


def _starts(lab: Lab) -> str:
    """When each of them started last: what ran during a look is seen by it."""
    return root(lab, f"systemctl show --property=ExecMainStartTimestampMonotonic --value {' '.join(TIMED)}")


def _at_once(lab: Lab) -> Look:
    return Look(
        files=dict(_files(lab.places.upper, lab.places.root)),
        units=_units(lab),
        ports=frozenset(
            root(lab, "ss -Hltn | awk '{ print $4 }' | grep -v -e '^100[.]' -e '^.fd7a:'").split()
        ),
        rest={
            "running system": root(lab, "readlink -f /run/current-system"),
            "system of the next boot": root(lab, "readlink -f /nix/var/nix/profiles/system"),
            "what Tailscale serves": root(lab, "tailscale serve status --json | tr -d ' \\n'"),
            "names in /run": root(lab, "ls -A /run | grep -v -e booted-system -e nixos"),
            # systemd has the second for a moment, while it starts a unit.
            "names in /tmp": root(lab, "ls -A /tmp | grep -v -e '^systemd-private-' -e '^namespace-dev-'"),
            **dict.fromkeys(root(lab, f"{FIND_OURS} | grep -v systemd-private-").splitlines(), "there"),
        },
    )


def root(lab: Lab, command: str) -> str:
    """Run a command on the server's console and return what it printed."""
    return lab.console(command).stdout.strip()


def _files(upper: Path, merged: Path) -> Iterator[tuple[str, str]]:
    for folder, folders, files in os.walk(upper):
        place = Path(folder).relative_to(upper)
        folders[:] = [name for name in folders if str(place / name) not in ALIVE]
        for name in (*files, *folders):
            path = str(place / name)
            if path not in (*ALIVE, *KEPT_BY_THE_SYSTEM):
                yield path, _seen(merged, path)


def _seen(tree: Path, path: str) -> str:
    """Kind, mode, owner, attributes, content, names and time of a file.

    Of a folder no time, of ``WRITTEN_ANEW`` neither.
    """
    try:
        status = (tree / path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "absent"
    words = [f"{status.st_uid}:{status.st_gid}", *_attributes(tree / path)]
    if path != IMMICHS_OWN:
        words.insert(0, stat.filemode(status.st_mode))
    if stat.S_ISLNK(status.st_mode):
        words.append(os.readlink(tree / path))
    if stat.S_ISREG(status.st_mode):
        content = (tree / path).read_bytes()
        if path in ACCOUNTS:
            content = b"".join(sorted(content.splitlines(keepends=True)))
        words.append(hashlib.sha256(content).hexdigest()[:16])
        if status.st_nlink > 1:
            words.append(f"{status.st_nlink} names")
        if not path.startswith(WRITTEN_ANEW):
            words.append(f"written {status.st_mtime_ns}")
    return " ".join(words)


def _attributes(path: Path) -> Iterator[str]:
    """What else is said of a file, such as who else may read it; the file system's own notes are left out."""
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        if name.startswith(("system.", "user.")):
            yield f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}"


def _without_times(files: dict[str, str]) -> dict[str, str]:
    return {path: said.partition(" written ")[0] for path, said in files.items()}


def _of_the_host(path: str) -> str:
    """What the server shows of a file that nobody has touched: the host's."""
    return _seen(Path("/"), path)


def _units(lab: Lab) -> dict[str, str]:
    kinds = "--type=service,socket,timer,path,mount"
    listed = root(lab, f"systemctl list-units --all {kinds} --output=json")
    return {
        unit["unit"]: f"{unit['load']} {unit['active']} {unit['sub']}"
        for unit in json.loads(listed)
        if not (unit["unit"].startswith(PASSING) or SOMEBODY_CAME.fullmatch(unit["unit"]))
    }


def _differences(
    kind: str, earlier: dict[str, str], now: dict[str, str], untouched: object = None
) -> Iterator[str]:
    for name in sorted(earlier.keys() | now.keys()):
        default = untouched(name) if callable(untouched) else "absent"
        was, is_now = earlier.get(name, default), now.get(name, default)
        if was != is_now:
            yield f"{kind} {name} was {was!r} and is {is_now!r}".strip()


def settle(lab: Lab) -> None:
    """Wait until nothing is starting any more, so that two looks can be compared."""
    try:
        wait_until(lambda: "running" in root(lab, "systemctl is-system-running"), "the server is running", 60)
    except HarnessError as error:
        failed = root(lab, "systemctl --failed --plain --no-legend; journalctl --boot --lines=40")
        raise HarnessError(f"{error}\n{failed}") from None
    wait_until(lambda: root(lab, "systemctl list-jobs --no-legend") == "", "nothing is being started", 60)


def lives(lab: Lab, units: tuple[str, ...]) -> dict[str, str]:
    """Process and start of each service: both stay when nobody restarts it."""
    show = "systemctl show --property=MainPID,ActiveEnterTimestampMonotonic --value"
    return {unit: root(lab, f"{show} {unit} | tr '\\n' ' '") for unit in units}
