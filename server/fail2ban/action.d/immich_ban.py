"""Bans an address by creating a file named after it; the edge looks for the file before it answers.

A firewall would be of no use: behind a funnel, every connection comes from tailscaled on this machine. A jail
says:

    action = immich_ban.py[folder="/var/lib/immich-exposure/bans/scan"]

The folder must exist and belongs to fail2ban. It is not created here: a missing folder means that something
is wrong (the edge then refuses everybody except devices), and hiding that would leave bans that nothing
enforces.

A network is named with an underscore, 2001:db8:1:2::_64. A file's time is when its ban ends. The files stay
when fail2ban stops, so that nobody slips in before it has read its database again; expired ones are removed
at the next start.

fail2ban loads this file into its own process (actions in Python, jail.conf(5)), with its own Python.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from fail2ban.server.action import ActionBase  # type: ignore[import-not-found]

PAUSE = 0.1
"""Seconds between fail2ban's looks, instead of up to two: each pause allows one more free attempt."""

FOREVER = 10 * 365 * 86400

SWEEP = 60.0
"""Seconds between sweeps over all files, which are slow if there are many; fail2ban lifts what it knows."""


class Action(ActionBase):  # type: ignore[misc]
    """fail2ban calls this when a ban begins and ends; it logs every exception raised here."""

    def __init__(self, jail: Any, name: str, folder: str) -> None:
        super().__init__(jail, name)
        self.folder = folder
        self.swept = 0.0
        jail.filter.sleeptime = jail.actions.sleeptime = PAUSE

    def clearAllParams(self) -> None:
        """Called when fail2ban starts to read its configuration again; there is nothing to clear."""

    def reload(self, folder: str) -> None:
        """Apply the new configuration; fail2ban would drop an action without this method."""
        self.folder = folder

    def start(self) -> None:
        """Remove expired bans; right after this, fail2ban passes on those still in force."""
        self._look()
        self.swept = 0.0
        self._sweep()

    def stop(self) -> None:
        """Leave every ban as it is."""

    def flush(self) -> bool:
        """Lift all bans on request (`unban --all`), but none when fail2ban stops."""
        if self._jail.actions.active:
            for entry in os.scandir(self.folder):
                os.unlink(entry.path)
        return True

    def ban(self, aInfo: Mapping[str, Any]) -> None:
        """Create the file."""
        self._look()
        lasts = float(aInfo["bantime"])
        end = float(aInfo["time"]) + (lasts if lasts >= 0 else FOREVER)
        file = os.open(self._path(aInfo), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            os.fchmod(file, 0o644)
            os.utime(file, (end, end))
        finally:
            os.close(file)
        self._sweep()

    def unban(self, aInfo: Mapping[str, Any]) -> None:
        """Remove the file."""
        try:
            os.unlink(self._path(aInfo))
        except FileNotFoundError:
            self._look()

    def _path(self, info: Mapping[str, Any]) -> str:
        name = str(info["ip"]).replace("/", "_")
        if not re.fullmatch(r"[0-9a-f.:]+(_[0-9]+)?", name):
            raise ValueError(f"{name!r} is not an address, so nobody is banned.")
        return os.path.join(self.folder, name)

    def _look(self) -> None:
        if not os.path.isdir(self.folder):
            raise RuntimeError(
                f"The ban folder {self.folder} is missing: restart immich-bans, which makes it."
            )

    def _sweep(self) -> None:
        """Remove bans that expired while fail2ban was not running.

        A file that is gone already, because its ban was lifted at this very moment, must not fail the caller.
        """
        now = time.time()
        if 0 <= now - self.swept < SWEEP:
            return
        self.swept = now
        for entry in os.scandir(self.folder):
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime <= now:
                    os.unlink(entry.path)
