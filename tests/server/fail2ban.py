"""A real fail2ban on the log of an edge."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

from components.remote.remote_script import SERVER_FILES
from tests.server.edge import Edge
from tests.server.waiting import HarnessError, wait_until


class Fail2ban:
    """A real fail2ban server with the project's filters and action, watching the log of one edge.

    It runs with umask 077 as the system's does. `max_retry` as in bans.conf.
    """

    def __init__(self, edge: Edge, *, max_retry: int = 5, ban_time: str = "1h") -> None:
        self._edge = edge
        self.folder = edge.folder / "fail2ban"
        self.log = self.folder / "fail2ban.log"
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copytree(SERVER_FILES / "fail2ban", self.folder)
        (self.folder / "fail2ban.conf").write_text(
            "[Definition]\nloglevel = INFO\n"
            f"logtarget = {self.log}\nsyslogsocket = auto\n"
            f"socket = {self.folder}/s\npidfile = {self.folder}/p\ndbfile = {self.folder}/db\n"
            "dbpurgeage = 1d\ndbmaxmatches = 0\n[Thread]\n"
        )
        jails = "".join(
            f"[immich-{name}]\nenabled = true\nfilter = immich-{name}\n"
            f'action = immich_ban.py[folder="{edge.state}/bans/{name}"]\n'
            for name in ("auth", "keys", "scan")
        )
        (self.folder / "jail.conf").write_text(
            f"[INCLUDES]\nafter = {self.folder}/bans.conf\n"
            f"[DEFAULT]\nbackend = polling\nlogpath = {edge.offences}\nusedns = no\nmaxmatches = 0\n"
            f"ignoreip = 127.0.0.1/8 ::1\n{jails}"
        )
        self.configure(max_retry=max_retry, ban_time=ban_time)

    def configure(self, *, max_retry: int, ban_time: str) -> None:
        """Write the settings; a server that runs takes them over when it is told to reload."""
        settings = f"[DEFAULT]\nmaxretry = {max_retry}\nfindtime = 10m\nbantime = {ban_time}\n"
        (self.folder / "bans.conf").write_text(settings)

    def _command(self, program: str, *arguments: str) -> list[str]:
        found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
        if found is None:
            raise HarnessError(f"{program} is missing: install the package fail2ban (make setup does it).")
        places = ["-c", self.folder, "-s", self.folder / "s", "-p", self.folder / "p"]
        return [found, *(str(place) for place in places), *arguments]

    def start(self) -> None:
        """Start the server and return when both jails watch the log; the log must exist already."""
        wait_until(self._edge.offences.exists, "the log of offences exists")
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._command("fail2ban-server", "-xf", "start"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                umask=0o077,
            )
        wait_until(self._watching, "fail2ban watches the log")

    def _watching(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise HarnessError(
                f"fail2ban-server ended by itself:\n{(self.folder / 'output').read_text()[-2000:]}"
            )
        return self.client("status", "immich-scan").returncode == 0

    def client(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run fail2ban-client."""
        command = self._command("fail2ban-client", *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def kill(self) -> None:
        """End the server as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the server in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running_fail2ban(edge: Edge, *, max_retry: int = 5, ban_time: str = "1h") -> Iterator[Fail2ban]:
    """Run fail2ban over an edge that has logged at least one request."""
    server = Fail2ban(edge, max_retry=max_retry, ban_time=ban_time)
    try:
        server.start()
        yield server
    finally:
        server.stop()
