"""The lab as one object, for tests and for the command line."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import internet, keys, lifecycle, places, server, ssh
from lab.house import House, current
from lab.lifecycle import Report, Status
from lab.places import Places
from lab.visit import Reply, Visit


def _silent(_: str) -> None:
    pass


class Lab:
    """The lab of one clone.

    Every method that changes something raises LabError with a message that says what to do.
    """

    def __init__(self, where: Places | None = None, report: Report = _silent) -> None:
        self.places = where or Places.of_this_clone()
        self._report = report

    @property
    def domain(self) -> str:
        """The server's name on the tailnet and in public DNS."""
        return places.DOMAIN

    @property
    def house(self) -> House:
        """The house that it was booted as."""
        return current(self.places)

    def up(self, home: House | None = None) -> None:
        """Boot everything, by default as the house `chapter`; reports if it is up already."""
        lifecycle.up(self.places, self._report, home)

    def down(self, *, force: bool = False) -> None:
        """Take everything down; ``force`` takes down another clone's lab."""
        lifecycle.down(self.places, self._report, force=force)

    def reboot(self) -> None:
        """Reboot the server; returns when SSH and the tailnet are back."""
        lifecycle.reboot(self.places, self._report)

    def power_off(self) -> None:
        """Cut the server's power; ``reboot`` switches it on again."""
        if first := server.first_process():
            server.power_off(first)

    def status(self) -> Status:
        """The current state."""
        return lifecycle.status(self.places)

    def ssh(
        self, command: str, *, text: str | None = None, timeout: float = 120.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run a shell command line on the server as the SSH user; ``text`` is its stdin.

        Does not raise on failure.
        """
        return ssh.run(self.places, command, text=text, timeout=timeout)

    def console(self, command: str, *, text: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a shell command line as root on the server, independent of its users and SSH.

        Does not raise on failure.
        """
        return server.console(command, text=text)

    def visit(
        self,
        path: str,
        *,
        source: str = places.DEFAULT_VISITOR,
        method: str = "GET",
        host: str = places.DOMAIN,
        http: str = "2",
        cert: Path | None = None,
        key: Path | None = None,
        passphrase: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        seconds: int = 20,
    ) -> Reply:
        """Send one request through the ingress from the address ``source``.

        Raises Refused if there was no HTTP answer.
        """
        visit = Visit(
            path, source, method, host, http, cert, key, passphrase, dict(headers or {}), data, seconds
        )
        return visit.go(self.places)

    def internet(self, path: str, **query: str) -> Any:
        """Query or switch Tailscale's stand-in: ``internet("/caps", funnel="0")``, lab/internet/admin.go."""
        return internet.ask(path, **query)

    def stub_requests(self) -> list[dict[str, Any]]:
        """What has reached the Immich stub so far, oldest first."""
        if not self.places.stub_requests.exists():
            return []
        return [json.loads(line) for line in self.places.stub_requests.read_text().splitlines()]

    def info(self) -> dict[str, Any]:
        """How to reach everything; the same whether the lab is up or not."""
        where = self.places
        return {
            "ssh": {
                "host": places.SERVER_ADDRESS,
                "port": self.house.ssh_port,
                "user": self.house.login,
                "private_key_file": str(where.operator_key),
                "host_key": keys.public_text(keys.host_key()),
            },
            "domain": places.DOMAIN,
            "ingress": {
                "namespace": places.INTERNET_NAMESPACE,
                "host": places.INGRESS_V4,
                "host_v6": places.INGRESS_V6,
                "port": places.INGRESS_PORT,
            },
            "window": {"host": places.WINDOW_HOST, "port": places.WINDOW_PORT},
            "roots_file": str(where.roots),
            "stub_requests_file": str(where.stub_requests),
            "server_root": str(where.root),
            "log_dir": str(where.logs),
        }
