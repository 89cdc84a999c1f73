"""Runs small programs of the host, with readable errors."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError


def run(command: Sequence[str], *, text: str | None = None, cwd: Path | None = None) -> str:
    """Run to the end and return stdout.

    Raises LabError with stderr if it fails or the program does not exist.
    """
    try:
        done = subprocess.run(command, input=text, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LabError(
            f"The program {command[0]} is missing; `python -m toolchain setup` installs what the lab needs."
        ) from error
    if done.returncode:
        raise LabError(
            f"`{' '.join(command)}` failed ({done.returncode}): {done.stderr.strip() or 'no message'}."
        )
    return done.stdout
