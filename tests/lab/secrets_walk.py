"""Looks for secrets where they must not be: in texts, in files, in the command lines of all processes."""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from tests.lab.operator import PASSPHRASE, STATE_PASSPHRASE, Operator

PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def found_in(text: str, secrets: Mapping[str, str]) -> list[str]:
    """Return the names of the secrets that stand in the text, and ``a private key`` when any PEM key does.

    Line breaks may be escaped, as in JSON. A secret is found in each of its ``spellings``.
    """
    names = [name for name, secret in secrets.items() if any(word in text for word in spellings(secret))]
    return names + (["a private key"] if PRIVATE_KEY.search(text) else [])


def spellings(secret: str) -> set[str]:
    """Return a secret as it is, in JSON, in a URL, and in base64 whatever stands before and after it."""
    assert len(secret) > 8, "too short to search for"
    words = {secret, json.dumps(secret)[1:-1], urllib.parse.quote(secret), urllib.parse.quote_plus(secret)}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret.encode()).decode().rstrip("=")
        # the first and the last characters hold bits of the neighbours as well
        words.add(encoded[4 if before else 0 : -1])
    return words


def secrets_of(operator: Operator) -> dict[str, str]:
    """Return by name what must be seen nowhere; ``log`` forgets the command that was asked to show it."""
    passwords = operator.outputs(show_secrets=True)["bundlePasswords"]
    operator.log.pop()
    ssh_key = Path(operator.settings["sshPrivateKeyFile"]).read_text(encoding="ascii").splitlines()
    return {
        "the keystore's passphrase": PASSPHRASE,
        "the state's passphrase": STATE_PASSPHRASE,
        "the SSH key": ssh_key[2],
        **{f"the bundle password of {name}": password for name, password in passwords.items()},
    }


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
