"""``python -m lab``: see ``python -m lab --help``."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from lab import bubble, lifecycle, places, ssh
from lab.errors import LabError
from lab.house import house, houses
from lab.lab import Lab
from lab.visit import Refused
from toolchain import ToolchainError

STATUS_CODES = {"up": 0, "broken": 1, "down": 3}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Results go to stdout, progress and errors to stderr."""
    options = _parser().parse_args(arguments)
    lab = Lab(report=lambda line: print(line, file=sys.stderr, flush=True))
    try:
        return int(options.run(lab, options))
    except (LabError, ToolchainError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab", description="The embedded server and its internet."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="boot everything")
    up.add_argument("--house", metavar="NAME", help=f"the home to be: {', '.join(houses())}")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="take everything down, whatever state it is in")
    down.add_argument("--force", action="store_true", help="also when it is another clone's lab")
    down.set_defaults(run=_down)
    commands.add_parser("reboot", help="reboot the server, or switch it on").set_defaults(run=_reboot)
    commands.add_parser("status", help="exit 0: up, 3: down, 1: broken").set_defaults(run=_status)
    info = commands.add_parser("info", help="how to reach everything")
    info.add_argument("--json", action="store_true", help="as one JSON object (the only form there is)")
    info.set_defaults(run=_info)

    inside = commands.add_parser("bubble", help="run a command with a machine of its own: labs side by side")
    inside.add_argument("command", nargs="+", metavar="-- CMD", help="what to run")
    inside.set_defaults(run=_bubble)

    shell = commands.add_parser("ssh", help="run a command on the server, or a shell without one")
    shell.add_argument("command", nargs="*", metavar="-- CMD", help="as ssh takes it")
    shell.set_defaults(run=_ssh)

    visit = commands.add_parser("visit", help="one request from the internet, through the ingress")
    visit.add_argument("--from", dest="source", default=places.DEFAULT_VISITOR, metavar="ADDRESS")
    visit.add_argument("--cert", type=Path, metavar="CRT", help="client certificate, PEM")
    visit.add_argument("--key", type=Path, metavar="KEY", help="its key, PEM")
    visit.add_argument(
        "--passphrase-file", type=Path, metavar="F", help="file whose first line opens the key"
    )
    visit.add_argument("--method", "-X", default="GET")
    visit.add_argument("--header", "-H", action="append", default=[], metavar="NAME: VALUE")
    visit.add_argument("--data", metavar="TEXT", help="body of the request")
    visit.add_argument("--host", default=places.DOMAIN, help="name for DNS, SNI and Host")
    visit.add_argument("--http1", action="store_true", help="HTTP/1.1 in place of HTTP/2")
    visit.add_argument("--include", "-i", action="store_true", help="print the answer's headers too")
    visit.add_argument("path", metavar="PATH", help="path and query, or a URL of the server")
    visit.set_defaults(run=_visit)
    return parser


def _up(lab: Lab, options: argparse.Namespace) -> int:
    lab.up(house(options.house) if options.house else None)
    return 0


def _down(lab: Lab, options: argparse.Namespace) -> int:
    lab.down(force=options.force)
    return 0


def _reboot(lab: Lab, _: argparse.Namespace) -> int:
    lab.reboot()
    return 0


def _status(lab: Lab, _: argparse.Namespace) -> int:
    found = lab.status()
    lines = [f"lab: {found.word}"]
    if found.up:
        lines.append(f"  house: {lab.house.name}")
    for name in ("supervisor", "internet", "server", "ssh", "tailnet"):
        lines.append(f"  {name}: {'yes' if getattr(found, name) else 'no'}")
    if not found.up:
        lines += [f"  there is: {left}" for left in found.leftovers]
    if found.foreign:
        lines.append(f"  another clone's lab is up: {found.foreign.project}")
    if found.abandoned:
        lines.append(
            f"  another clone's lab is dead; `up` and `down` clear it away: {found.abandoned.project}"
        )
    print("\n".join(lines))
    return STATUS_CODES[found.word]


def _info(lab: Lab, _: argparse.Namespace) -> int:
    print(json.dumps(lab.info(), indent=2))
    return 0


def _bubble(_: Lab, options: argparse.Namespace) -> int:
    return bubble.run(options.command)


def _ssh(lab: Lab, options: argparse.Namespace) -> int:
    lifecycle.require_up_or_off(lab.places)
    return subprocess.run(ssh.command(lab.places, *options.command), check=False).returncode


def _visit(lab: Lab, options: argparse.Namespace) -> int:
    lifecycle.require_up_or_off(lab.places)
    passphrase = options.passphrase_file.read_text().splitlines()[0] if options.passphrase_file else None
    headers = dict(tuple(part.strip() for part in header.split(":", 1)) for header in options.header)
    try:
        reply = lab.visit(
            _path_of(options.path),
            source=options.source,
            method=options.method,
            host=options.host,
            http="1.1" if options.http1 else "2",
            cert=options.cert,
            key=options.key,
            passphrase=passphrase,
            headers=headers,
            data=options.data.encode() if options.data is not None else None,
        )
    except Refused as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    print(f"HTTP/{reply.version} {reply.status}")
    if options.include:
        for name, value in reply.headers.items():
            print(f"{name}: {value}")
        print()
    sys.stdout.flush()
    os.write(sys.stdout.fileno(), reply.body)
    return 0


def _path_of(text: str) -> str:
    """The path of a URL, or the text itself, always with a leading slash."""
    prefix = f"https://{places.DOMAIN}"
    path = text.removeprefix(prefix)
    return path if path.startswith("/") else f"/{path}"


if __name__ == "__main__":
    sys.exit(main())
