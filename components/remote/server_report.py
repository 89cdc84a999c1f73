"""`make who`, `make links`: what the server knows of links and devices, shown on the operator's machine.

The script is the one behind `sudo immich-exposure who` there; it goes over the same SSH as a run's, with the
host key pinned. Nothing is changed, and everybody who can log in may ask.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from components.config.stack_config import ConfigError, load
from components.config.stack_file import stack_file
from components.config.stack_settings import StackFileError, project_defaults, read_file, read_settings
from components.engine.operator_error import OperatorError
from components.engine.server_words import plain
from components.remote.remote_script import Server, script_text, server_of
from components.remote.ssh import run_script
from components.surface.table import PROJECT

LINE_LIMIT = 100_000
"""Characters per line of a table or a page."""

WAY_THERE = ("host", "hostKey", "sshPort", "sshUser", "sshPrivateKeyFile")
"""The settings needed to reach the server."""


def server_of_stack(stack: str, project: Path) -> Server:
    """Return how a stack's server is reached; Pulumi is asked for the sudo password, if one is set.

    Raises ``ConfigError``, ``StackFileError``, and ``OperatorError`` if the file alone is not enough.
    """
    name = stack.rpartition("/")[2]
    file = stack_file(project, name)
    text = read_file(file)
    if text is None:
        raise OperatorError(f"{file} is missing; name another stack with STACK=...")
    settings = read_settings(text, file.name, project_defaults((project / "Pulumi.yaml").read_text("utf-8")))
    if encrypted := [key for key in WAY_THERE if key in settings.hidden]:
        raise OperatorError(
            f"{', '.join(encrypted)} is encrypted in {file.name}, and this command does not decrypt it; ask "
            'on the server, with "sudo immich-exposure who" or "sudo immich-exposure links".'
        )
    config = load(
        settings.values, stack=name, project_dir=project, secret_keys=[*settings.secrets], preview=True
    )
    asks = "sudoPassword" in settings.secrets
    password = _sudo_password(stack) if asks and config.ssh_user != "root" else None
    return replace(server_of(config), sudo_password=password)


def _sudo_password(stack: str) -> str:
    """Ask Pulumi, which stores it encrypted; Pulumi's own messages and prompts go straight to the user."""
    command = ["pulumi", "config", "get", "sudoPassword", "--stack", stack]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise OperatorError(
            "sudoPassword could not be read from the stack (see above). If Pulumi asks for a passphrase of "
            "its own, export PULUMI_CONFIG_PASSPHRASE with the one you gave pulumi stack init."
        )
    return done.stdout.removesuffix("\n")


def report(server: Server, what: str, *, page: bool = False) -> str:
    """Return the server's answer: a table, or a page for a browser.

    Raises ``SshError``, also with the script's own sentence if nothing is counted.
    """
    line = server.line(what, *(["--html"] if page else []))
    said = run_script(server, line, script_text("who"))
    return "".join(f"{plain(each, LINE_LIMIT)}\n" for each in said.splitlines())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a report and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m components.remote.server_report", description=__doc__)
    parser.add_argument("what", choices=("who", "links"))
    parser.add_argument("--stack", required=True)
    parser.add_argument("--html", action="store_true", help="one page for a browser; only with who")
    options = parser.parse_args(arguments)
    if options.html and options.what != "who":
        parser.error("only who has a page, and links are on it too: make who ARGS=--html")
    try:
        sys.stdout.write(report(server_of_stack(options.stack, PROJECT), options.what, page=options.html))
    except (ConfigError, StackFileError, OperatorError) as error:
        print(f"error: {str(error).removeprefix('error: ')}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
