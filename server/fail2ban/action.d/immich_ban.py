"""Ban with a file named by the address; the edge looks for it before it answers.

A firewall would be of no use: behind a funnel every connection comes from tailscaled on this machine. A jail
says:

    action = immich_ban.py[folder="/var/lib/immich-exposure/bans/scan"]

The folder exists already and is fail2ban's own. It is not made here: a missing folder means that something
is wrong (the edge then refuses everybody but the devices), and hiding that would leave bans nobody enforces.

A network is named with an underscore, 2001:db8:1:2::_64. The time of a file is when its ban ends. The files
stay when fail2ban stops, so that nobody slips in before it has read its database again; what has ended goes
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
"""Seconds after which fail2ban looks again, instead of up to two: each pause that it makes is a free try."""

FOREVER = 10 * 365 * 86400

SWEEP = 60.0
"""Seconds between looks at all files, which take long when there are many; fail2ban lifts what it knows."""


class Action(ActionBase):  # type: ignore[misc]
    """What fail2ban calls when a ban begins and ends; it logs whatever is raised here."""

    def __init__(self, jail: Any, name: str, folder: str) -> None:
        super().__init__(jail, name)
        self.folder = folder
        self.swept = 0.0
        jail.filter.sleeptime = jail.actions.sleeptime = PAUSE

    def clearAllParams(self) -> None:
        """Called when fail2ban begins to read its configuration anew; there is nothing to forget."""

    def reload(self, folder: str) -> None:
        """Take over what the configuration says now; an action without this method is dropped instead."""
        self.folder = folder

    def start(self) -> None:
        """Take away what has ended meanwhile; fail2ban hands over what still holds right after this."""
        self._look()
        self.swept = 0.0
        self._sweep()

    def stop(self) -> None:
        """Leave every ban as it is."""

    def flush(self) -> bool:
        """Lift all bans when told to (`unban --all`), but none when fail2ban stops."""
        if self._jail.actions.active:
            for entry in os.scandir(self.folder):
                os.unlink(entry.path)
        return True

    def ban(self, aInfo: Mapping[str, Any]) -> None:
        """Make the file."""
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
        """Take the file away."""
        try:
            os.unlink(self._path(aInfo))
        except FileNotFoundError:
            self._look()

    def _path(self, info: Mapping[str, Any]) -> str:
        name = str(info["ip"]).replace("/", "_")
        if not re.fullmatch(r"[0-9a-f.:]+(_[0-9]+)?", name):
            raise ValueError(f"{name!r} is no address, so nobody is banned.")
        return os.path.join(self.folder, name)

    def _look(self) -> None:
        if not os.path.isdir(self.folder):
            raise RuntimeError(
                f"The ban folder {self.folder} is missing: restart immich-bans, which makes it."
            )

    def _sweep(self) -> None:
        """Take away bans that ended while nobody was there to lift them.

        What is gone already, because somebody lifted it in this moment, must not end what calls this.
        """
        now = time.time()
        if 0 <= now - self.swept < SWEEP:
            return
        self.swept = now
        for entry in os.scandir(self.folder):
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime <= now:
                    os.unlink(entry.path)
