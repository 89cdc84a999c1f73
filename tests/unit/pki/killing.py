"""Runs that die: an operation killed after each of its changes to files, before its next system call.

Two deaths between which nothing has changed leave the same files, so one of them is tried: ``fsync``, for
one, changes nothing that the next process could see.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pki import Keystore
from tests.unit.pki.facts import quick_keystore

_open: Callable[..., object] = os.open
_READING = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
    os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,
)
"""How files and folders are looked at, which changes nothing."""

CALLS = ("open", "fsync", "replace", "unlink", "mkdir", "rmdir")


class KilledError(BaseException):
    """The process died here."""


class Killer:
    """Counts the changes to files, and dies before the system call that follows on the last one allowed."""

    def __init__(self, survive: int) -> None:
        self.left = survive

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            patch.setattr(os, name, self._deadly(getattr(os, name)))

    def _deadly(self, call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **kwargs: object) -> object:
            if call is _open and len(args) > 1 and args[1] in _READING:
                return call(*args, **kwargs)
            if self.left == 0:
                raise KilledError
            changes = _changes(call.__name__, args)
            result = call(*args, **kwargs)
            self.left -= changes
            return result

        return wrapper


def _changes(name: str, args: tuple[object, ...]) -> bool:
    """Whether such a call changes what lies on the disk, if it succeeds."""
    if name == "open":
        path, flags = args[:2]
        assert isinstance(path, (str, os.PathLike)) and isinstance(flags, int)
        return bool(flags & os.O_TRUNC) or bool(flags & os.O_CREAT) and not os.path.lexists(path)
    return name != "fsync"


def deaths(
    prepared: Path | None, tmp_path: Path, action: Callable[[Keystore], object]
) -> Iterator[tuple[Path, Keystore]]:
    """Kill `action` behind every change; after each death give the folder and a keystore of the next run."""
    for survive in range(200):
        folder = tmp_path / f"killed-after-{survive}" / "keystore"
        folder.parent.mkdir(parents=True)
        if prepared is not None:
            shutil.copytree(prepared, folder)
        with pytest.MonkeyPatch.context() as patch:
            Killer(survive).install(patch)
            try:
                action(quick_keystore(folder))
            except KilledError:
                died = True
            else:
                died = False
        yield folder, quick_keystore(folder)
        if not died:
            assert survive > 1, "the operation went past the counted calls"
            return
    raise AssertionError("the operation never came to an end")
