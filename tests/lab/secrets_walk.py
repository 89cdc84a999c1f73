"""Looks for secrets where they must not be: in texts, in files, in the command lines of all processes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def found_in(text: str, secrets: Mapping[str, str]) -> list[str]:
    """Return the names of the secrets that stand in the text, and ``a private key`` when any PEM key does.

    Line breaks may be escaped, as in JSON.
    """
    names = [name for name, secret in secrets.items() if secret and secret in text]
    return names + (["a private key"] if PRIVATE_KEY.search(text) else [])


def found_in_files(files: Iterable[Path], secrets: Mapping[str, str]) -> list[str]:
    """Return ``FILE: NAME`` for every secret in a file; bytes that are no text are looked through, too."""
    found: list[str] = []
    for file in files:
        if file.is_file() and not file.is_symlink():
            text = file.read_bytes().decode("utf-8", errors="replace")
            found += [f"{file}: {name}" for name in found_in(text, secrets)]
    return found


class CommandLines:
    """Collects the command lines of all processes, those of the lab's server included, while it runs."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def __enter__(self) -> CommandLines:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _collect(self) -> None:
        while not self._stop.wait(0.01):
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    self._add(entry / "cmdline")

    def _add(self, file: Path) -> None:
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode("utf-8", errors="replace")
        except OSError:
            return  # the process has ended
        if line:
            self.seen.add(line)
