#!/usr/bin/python3
"""Stand-in for NixOS's switch-to-configuration: activates a generation on the machine.

Usage: ``GENERATION/bin/switch-to-configuration check|boot|test|switch|dry-activate|stage2``.
``stage2`` is the lab's own and runs at boot. Exit status as on NixOS: 0; 4 if a unit failed or is in a failed
state afterwards; 1 if refused before anything changed.
"""

import fcntl
import grp
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ETC = Path("/etc")
STATIC = ETC / "static"  # as on NixOS: /etc/NAME -> /etc/static/NAME -> the store
CURRENT = Path("/run/current-system")
BOOTED = Path("/run/booted-system")
LOCK = Path("/run/nixos/switch-to-configuration.lock")
ORIGINALS = Path("/var/lib/lab-nixos/originals")  # the machine's own files that a generation replaces

# Everyone whom a generation has created; as NixOS, which keeps such a list in /var/lib/nixos.
PEOPLE = Path("/var/lib/lab-nixos/people.json")

# Those of these targets that are active are started again, so that newly wanted units start.
TARGETS = ("multi-user.target", "timers.target", "paths.target", "sockets.target")

# A change of only these needs no action; nixpkgs, switch-to-configuration-ng, `UNIT_SECTION_IGNORES`.
IGNORED = ("Description", "Documentation", "OnFailure", "X-Reload-Triggers")

EXIT_UNIT_FAILED = 4


class Refused(Exception):
    """The switch was refused before anything was changed."""


def main(arguments: list[str]) -> int:
    """Run one action; returns the exit status."""
    generation = Path(__file__).resolve().parent.parent
    actions = ("check", "boot", "test", "switch", "dry-activate", "stage2")
    if len(arguments) != 1 or arguments[0] not in actions:
        print(f"Usage: switch-to-configuration [{'|'.join(actions)}]", file=sys.stderr)
        return 1
    action = arguments[0]
    if os.geteuid() != 0:
        print("switch-to-configuration: this must be run as root.", file=sys.stderr)
        return 1
    if action == "stage2":
        return stage2(generation)
    try:
        with _Lock():
            return _locked(generation, action)
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 1


def stage2(generation: Path) -> int:
    """At boot: lay out /etc of the profile's generation, dropping the units of one that was only tested."""
    other = _target(STATIC) != generation / "etc"
    if other:
        lay_etc(generation)
        _run("systemctl", "daemon-reload")
    _people(generation)
    _point(BOOTED, generation)
    _point(CURRENT, generation)
    if other:
        _run("systemctl", "start", "--no-block", "multi-user.target")
    return 0


def _locked(generation: Path, action: str) -> int:
    if os.environ.get("NIXOS_NO_CHECK") != "1":
        _pre_switch_checks(generation, action)
    if action in ("check", "boot"):
        # No boot loader: the profile, which nixos-rebuild has set already, is what starts next time (stage2).
        return 0
    plan = Plan(_target(CURRENT), generation)
    if action == "dry-activate":
        plan.show("would ")
        return 0
    return _activate(plan)


def _pre_switch_checks(generation: Path, action: str) -> None:
    if _run(str(generation / "pre-switch-checks"), str(generation), action) != 0:
        raise Refused("Pre-switch checks failed")


class _Lock:
    """Holds the lock of all switches; Refused when another one runs."""

    def __enter__(self) -> None:
        LOCK.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.file = LOCK.open("w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("Could not acquire lock: another switch-to-configuration is running.") from None

    def __exit__(self, *_: object) -> None:
        self.file.close()


# --- what has to be done with units


class Plan:
    """Which units to stop, restart, reload and start, from both generations' unit files and active units."""

    def __init__(self, old: Path | None, new: Path) -> None:
        self.old, self.new = old, new
        self.stop: list[str] = []
        self.restart: list[str] = []
        self.reload: list[str] = []
        self.start = [target for target in TARGETS if _active(target)]
        for name in sorted(_running(old)) if old else ():
            self._consider(name, read_unit(old, name), read_unit(new, name))

    def _consider(self, name: str, old: list[str], new: list[str]) -> None:
        if not new:
            self.stop.append(name)
        elif (change := compare(old, new)) == "none" or "X-RestartIfChanged=false" in new:
            return
        elif change == "reload" or "X-ReloadIfChanged=true" in new:
            self.reload.append(name)
        elif "X-StopIfChanged=false" in new or not name.endswith(".service"):
            self.restart.append(name)
        else:
            # As NixOS does: stopped by its old definition before /etc changes, started by the new one.
            self.stop.append(name)
            self.start.append(name)

    def show(self, prefix: str) -> None:
        """Print what is done to units, as NixOS does before it and in a dry activation."""
        for verb in ("stop", "reload", "restart", "start"):
            if units := getattr(self, verb):
                print(f"{prefix}{verb} the following units: {', '.join(units)}", file=sys.stderr)


def compare(old: list[str], new: list[str]) -> str:
    """What a unit's change requires: ``none``, ``reload`` (only X-Reload-Triggers differs) or ``restart``."""

    def essential(lines: list[str]) -> list[str]:
        return [line for line in lines if line.split("=")[0] not in IGNORED]

    def triggers(lines: list[str]) -> list[str]:
        return [line for line in lines if line.startswith("X-Reload-Triggers=")]

    if essential(old) != essential(new):
        return "restart"
    return "none" if triggers(old) == triggers(new) else "reload"


def read_unit(generation: Path | None, name: str) -> list[str]:
    """The lines of a unit with those of its drop-ins; empty if the generation does not have it, or masks it.

    An instance without its own file uses its template.
    """
    if generation is None:
        return []
    folder = generation / "etc/systemd/system"
    if not (folder / name).exists():
        name = template_of(name)
    files = [folder / name, *sorted((folder / f"{name}.d").glob("*.conf"))]
    return [line for file in files if file.exists() for line in file.read_text().splitlines() if line]


def template_of(name: str) -> str:
    """``a@b.service`` -> ``a@.service``; any other name as it is.

    As on NixOS: for an instance with a dot in its name it finds no template, and leaves it alone.
    """
    return re.sub(r"^(.*)@[^.]*\.(.*)$", r"\1@.\2", name)


def _running(generation: Path) -> Iterator[str]:
    """The active units of a generation; for a template, its instances."""
    for entry in (generation / "etc/systemd/system").iterdir():
        if template_of(entry.name) == entry.name and "@." in entry.name:
            yield from _instances(entry.name)
        elif not entry.is_dir() and _active(entry.name):
            yield entry.name


def _instances(template: str) -> list[str]:
    pattern = template.replace("@.", "@*.")
    command = ["systemctl", "list-units", "--state=active,activating,reloading", "--plain", "--no-legend"]
    listed = subprocess.run([*command, "--full", pattern], capture_output=True, text=True, check=False).stdout
    units = [line.split()[0] for line in listed.splitlines() if line.strip()]
    return [unit for unit in units if template_of(unit) == template]


# --- applying it


def _activate(plan: Plan) -> int:
    _systemctl("stop", plan.stop, "stopping the following units")
    print("activating the configuration...", file=sys.stderr)
    lay_etc(plan.new)
    _point(CURRENT, plan.new)
    socket.sethostname((ETC / "hostname").read_text().strip())
    print("setting up /etc...", file=sys.stderr)
    _people(plan.new)
    # As on NixOS: earlier failures are reset here, so a unit counts below only if it fails (again) by then.
    _run("systemctl", "reset-failed")
    ok = _run("systemctl", "daemon-reload") == 0
    ok &= _tmpfiles(plan.new)
    ok &= _systemctl("reload", plan.reload, "reloading the following units")
    ok &= _systemctl("restart", plan.restart, "restarting the following units")
    ok &= _systemctl("start", plan.start, "starting the following units")
    failed = _failed_units()
    if failed:
        print(f"warning: the following units failed: {', '.join(failed)}", file=sys.stderr)
        _run("systemctl", "status", "--no-pager", "--full", *failed)
    return 0 if ok and not failed else EXIT_UNIT_FAILED


def lay_etc(generation: Path) -> None:
    """Point /etc/static to the generation and make exactly its names links there.

    A regular file of the machine under such a name is set aside, and restored when the name is gone again.
    """
    old, new = _names(_target(STATIC)), _names(generation / "etc")
    _point(STATIC, generation / "etc")
    for name in sorted(old - new):
        _unlink_ours(name)
    for name in sorted(new):
        place = ETC / name
        if place.is_symlink() or place.exists():
            if place.is_symlink() and os.readlink(place) == str(STATIC / name):
                continue
            kept = ORIGINALS / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(place, kept)
        place.parent.mkdir(parents=True, exist_ok=True)
        _point(place, STATIC / name)


def _unlink_ours(name: str) -> None:
    place, kept = ETC / name, ORIGINALS / name
    if place.is_symlink() and os.readlink(place) == str(STATIC / name):
        place.unlink()
    if os.path.lexists(kept):
        shutil.move(kept, place)
    for folder in place.parents:
        if not folder.exists():
            continue  # a power cut came before it was made, or after it was removed
        if folder == ETC or any(folder.iterdir()):
            return
        folder.rmdir()


def _names(etc: Path | None) -> set[str]:
    """Every file of a generation's etc, relative. A link to a folder counts as one file."""
    if etc is None:
        return set()
    found: set[str] = set()
    for folder, folders, files in os.walk(etc):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found.update(str((Path(folder) / name).relative_to(etc)) for name in (*files, *links))
    return found


def _people(generation: Path) -> None:
    """Create the generation's system users and delete those that only other generations had.

    Whom it creates is recorded first, so that a boot after a power cut knows them.
    """
    declared = _read_people(generation / "people.json")
    known = {kind: declared[kind] | names for kind, names in _read_people(PEOPLE).items()}
    _record(known)
    # By full path: at boot, a unit's PATH does not have /usr/sbin.
    _run("systemd-sysusers", str(ETC / "sysusers.d/00-nixos.conf"))
    for user in sorted((known["users"] - declared["users"]) & {entry.pw_name for entry in pwd.getpwall()}):
        _run("/usr/sbin/userdel", user)
    # userdel also removes the user's own group.
    left = {entry.gr_name for entry in grp.getgrall()}
    for group in sorted((known["groups"] - declared["groups"]) & left):
        _run("/usr/sbin/groupdel", "--force", group)
    _record(declared)


def _read_people(file: Path) -> dict[str, set[str]]:
    if not file.exists():
        return {"users": set(), "groups": set()}
    return {kind: set(names) for kind, names in json.loads(file.read_text()).items()}


def _record(people: dict[str, set[str]]) -> None:
    text = json.dumps({kind: sorted(names) for kind, names in people.items()})
    if PEOPLE.exists() and PEOPLE.read_text() == text:
        return
    PEOPLE.parent.mkdir(parents=True, exist_ok=True)
    new = PEOPLE.with_suffix(".new")
    new.write_text(text)
    new.replace(PEOPLE)


def _tmpfiles(generation: Path) -> bool:
    files = sorted(str(ETC / "tmpfiles.d" / file.name) for file in (generation / "etc/tmpfiles.d").iterdir())
    return _run("systemd-tmpfiles", "--create", "--remove", *files) == 0


def _systemctl(verb: str, units: list[str], message: str) -> bool:
    if not units:
        return True
    print(f"{message}: {', '.join(units)}", file=sys.stderr)
    return _run("systemctl", verb, *units) == 0


def _active(unit: str) -> bool:
    asked = subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True, check=False)
    return asked.stdout.strip() in ("active", "activating", "reloading")


def _failed_units() -> list[str]:
    """Units that have failed, and those that systemd keeps restarting because they fail."""
    command = ["systemctl", "list-units", "--state=failed,auto-restart", "--plain", "--no-legend", "--full"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line.split()[0] for line in listed.splitlines() if line.strip()]


def _run(*command: str) -> int:
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def _target(link: Path) -> Path | None:
    return Path(os.readlink(link)) if link.is_symlink() else None


def _point(link: Path, target: Path) -> None:
    """Make ``link`` point to ``target`` in one step."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
