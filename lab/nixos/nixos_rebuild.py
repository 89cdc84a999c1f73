#!/usr/bin/python3
"""Stand-in for nixos-rebuild: evaluates the configuration with Nix, builds a generation and switches to it.

README.md next to this file says which options it supports and how it differs from the real one. Exit status:
that of the failed step; 1 for a configuration that does not evaluate or build, 2 for wrong usage.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROFILE = Path("/nix/var/nix/profiles/system")
CHANNEL = ("<nixpkgs/nixos>", "-A", "config.system.build.toplevel", "--quiet")
TRANSIENT_UNIT = "nixos-rebuild-switch-to-configuration"

# The evaluator works offline: nothing is fetched, builders run as root with the machine's own programs.
NIX_CONFIG = "substituters =\nsandbox = false\nbuild-users-group =\n"


ACTIONS = ("build", "test", "switch", "boot", "dry-build", "dry-activate")


class Failed(Exception):
    """A step failed; ``status`` is the command's exit status."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


def main(arguments: list[str]) -> int:
    """Run one action; returns the exit status."""
    options = _options(arguments)
    os.environ["NIX_CONFIG"] = NIX_CONFIG
    os.environ.setdefault("HOME", "/root")
    try:
        return _rollback(options.action) if options.rollback else _build_and_activate(options)
    except Failed as failure:
        if str(failure):
            print(f"error: {failure}", file=sys.stderr)
        return failure.status


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nixos-rebuild", allow_abbrev=False)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("--rollback", action="store_true", help="go back to the generation before")
    parser.add_argument("-I", "--include", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--flake", nargs="?", const=".", metavar="DIR#NAME", help="build a flake's system")
    parser.add_argument("--no-flake", dest="flake", action="store_false", help="not /etc/nixos/flake.nix")
    parser.add_argument("--impure", action="store_true", help="let a flake read what is not in its inputs")
    parser.add_argument("--no-write-lock-file", action="store_true", help="leave flake.lock as it is")
    parser.add_argument("--show-trace", action="store_true")
    # Accepted without effect.
    for flag in ("--fast", "--no-build-output", "--no-reexec", "--no-build-nix", "--verbose", "--offline"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--no-update-lock-file", action="store_true")
    return parser.parse_args(arguments)


def find_flake(named: str | bool | None, default: Path = Path("/etc/nixos/flake.nix")) -> str | None:
    """The installable to build, or None for <nixos-config>; ``named`` is None without an option.

    As nixos-rebuild-ng decides it (models.py, Flake.from_arg): a flake.nix in /etc/nixos, which may be a
    link, takes precedence over -I nixos-config, and the machine's name is the default after the #.
    """
    if named is False:
        return None
    if named is None:
        if not default.exists():
            return None
        named = str(default.resolve().parent)
    folder, _, name = str(named).partition("#")
    return f'{folder}#nixosConfigurations."{name or platform.node()}".config.system.build.toplevel'


def _build_and_activate(options: argparse.Namespace) -> int:
    if options.action in ("test", "switch", "boot", "dry-activate"):
        _require_root()
    print("building the system configuration...", file=sys.stderr)
    if options.action == "build":
        print(_build(options, "--out-link", "result"))
        return 0
    if options.action == "dry-build":
        _build(options, "--dry-run")
        return 0
    generation = _build(options, "--no-out-link")
    if options.action in ("switch", "boot"):
        # Before the activation, as on NixOS: if that fails, the profile stays on the new generation.
        _call(["nix-env", "-p", str(PROFILE), "--set", generation])
    _activate(Path(generation), options.action)
    if options.action != "dry-activate":
        print(f"Done. The new configuration is {generation}", file=sys.stderr)
    return 0


def _build(options: argparse.Namespace, *how: str) -> str:
    """Evaluate and build; returns the generation's store path."""
    flake = find_flake(options.flake)
    command = _flake_command(flake, how) if flake else ["nix-build", *CHANNEL, *how]
    for entry in options.include:
        command += ["-I", entry]
    if options.show_trace:
        command.append("--show-trace")
    if flake and options.impure:
        command.append("--impure")
    if flake and options.no_write_lock_file:
        command.append("--no-write-lock-file")
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise Failed(1, "the configuration could not be built; see above.")
    if "--dry-run" in how:
        return ""
    out = json.loads(built.stdout)[0]["outputs"]["out"] if flake else built.stdout.strip()
    return os.path.realpath(out)


def _flake_command(flake: str, how: tuple[str, ...]) -> list[str]:
    # The lab's flake.lock files name this folder by its hash (lay.py): in the store it needs no fetching.
    source = f'builtins.path {{ path = {HERE}; name = "source"; }}'
    _call(["nix-instantiate", "--eval", "--read-write-mode", "-E", source], stdout=subprocess.DEVNULL)
    how = tuple("--no-link" if word == "--no-out-link" else word for word in how)
    return ["nix", "--extra-experimental-features", "nix-command flakes", "build", "--json", flake, *how]


def _activate(generation: Path, action: str) -> None:
    """Run the generation's script in a transient unit, so that a lost connection does not interrupt it."""
    script = str(generation / "bin/switch-to-configuration")
    with tempfile.NamedTemporaryFile(prefix="switch-to-configuration-", dir="/run") as log:
        command = [
            "systemd-run",
            "--quiet",
            "--collect",
            "--wait",
            "--no-ask-password",
            "--service-type=exec",
        ]
        command += [f"--unit={TRANSIENT_UNIT}"]
        command += [
            f"--property={stream}=append:{log.name}" for stream in ("StandardOutput", "StandardError")
        ]
        command += [f"--setenv={name}={os.environ.get(name, '')}" for name in ("PATH", "NIXOS_NO_CHECK")]
        status = subprocess.run([*command, script, action], stdin=subprocess.DEVNULL, check=False).returncode
        sys.stderr.write(Path(log.name).read_text())
    if status != 0:
        raise Failed(status, f"{script} {action} failed with exit status {status}.")


def _rollback(action: str) -> int:
    """``switch`` and ``boot`` move the profile back by one; ``test`` tries the newest other generation."""
    _require_root()
    if action == "test":
        _activate(_newest_other_generation(), action)
    elif action in ("switch", "boot"):
        _call(["nix-env", "-p", str(PROFILE), "--rollback"])
        _activate(PROFILE.resolve(), action)
    else:
        raise Failed(2, "--rollback goes with switch, boot or test.")
    return 0


def _newest_other_generation() -> Path:
    current = os.readlink(PROFILE)
    links = [link for link in PROFILE.parent.iterdir() if re.fullmatch(r"system-\d+-link", link.name)]
    others = [link for link in links if link.name != current]
    if not others:
        raise Failed(1, "there is no other generation to go back to.")
    return max(others, key=lambda link: int(link.name.split("-")[1])).resolve()


def _require_root() -> None:
    if os.geteuid() != 0:
        raise Failed(1, "this must be run as root.")


def _call(command: list[str], stdout: int | None = None) -> None:
    status = subprocess.run(command, stdout=stdout, check=False).returncode
    if status != 0:
        raise Failed(status, f"{command[0]} failed with exit status {status}.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
