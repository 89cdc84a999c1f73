"""A real edge on loopback: Caddy with the project's Caddyfile in front of a recording Immich.

Nothing is faked between a visitor and the back end: the visitor's bytes go through TCP, the PROXY line and
TLS as they would behind the funnel. When the tests run as root, Caddy runs as an unprivileged user, because
that is how it runs on a server and file modes matter there.

Each test uses visitor addresses of its own, which keeps the rate limits of different tests apart.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID

from components.remote.remote_script import SERVER_FILES
from tests.server.backend import Backend
from tests.server.certificates import Identity, TestAuthority
from tests.server.visitor import DOMAIN, Answer, Connection, ConnectionDroppedError, proxy_line
from tests.server.waiting import PATIENCE, HarnessError, wait_until

UNPRIVILEGED_USER = "nobody"

FORBIDDEN = b'{"status":403,"message":"Forbidden"}'
"""The body of every refusal."""


@dataclass(frozen=True)
class Limits:
    """What the server's edge.env says."""

    requests: int = 3000
    requests_window: str = "30s"
    password_attempts: int = 10
    password_window: str = "60s"
    bundles: int = 10
    bundles_window: str = "60s"
    offences: int = 10


class Edge:
    """Caddy with the project's Caddyfile over a state folder of its own; stop it with `stop`.

    `program` is the Caddy to run; `settings` are further variables of the Caddyfile's environment, without
    their prefix; `caddyfile` replaces the project's text (to break a guard on purpose).
    """

    def __init__(
        self,
        program: Path,
        *,
        uploads: str = "off",
        limits: Limits | None = None,
        settings: Mapping[str, str] | None = None,
        caddyfile: str | None = None,
    ) -> None:
        self._program = program
        self._addresses = (
            f"198.51.{high}.{low}" for high, low in itertools.product(range(100, 256), range(1, 255))
        )
        # Not pytest's own folder: only this path is short enough for a socket and open to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="edge-"))
        self.folder.chmod(0o755)
        self.backend = Backend()
        self.backend.start()
        self.port = free_port()
        self.state = self.folder / "state"
        self.logs = self.folder / "log"
        self.offences = self.logs / "offences.log"
        self.journal = self.folder / "journal"
        self.room = self.folder / "room"
        self.leave_free(1000)
        self.authority = TestAuthority(self.folder / "authority")
        self._server_authority = TestAuthority(self.folder / "server-authority", "Lab public CA")
        self._make_state()
        self.surface = Path(shutil.copy(SERVER_FILES / "surface.toml", self.folder / "surface.toml"))
        self._caddyfile = self.folder / "Caddyfile"
        self._caddyfile.write_text(caddyfile or (SERVER_FILES / "Caddyfile").read_text())
        self._environment = self._environment_for(uploads, limits or Limits()) | {
            f"IMMICH_EXPOSURE_{name}": value for name, value in (settings or {}).items()
        }
        self._process: subprocess.Popen[bytes] | None = None

    def _make_state(self) -> None:
        for name in ("devices", "bans/auth", "bans/keys", "bans/scan", "bans/manual", "tls"):
            (self.state / name).mkdir(parents=True, mode=0o755)
        self.renew_server_certificate()
        shutil.copy(self.authority.certificate, self.state / "device-ca.crt")
        for name in ("log", "run"):
            (self.folder / name).mkdir(mode=0o750)
        if (user := caddy_user()) is not None:
            entry = pwd.getpwnam(user)
            for name in ("log", "run"):
                os.chown(self.folder / name, entry.pw_uid, entry.pw_gid)
            for name in ("tls", "tls/server.key"):
                os.chown(self.state / name, 0, entry.pw_gid)
        (self.state / "tls").chmod(0o750)
        (self.state / "tls" / "server.key").chmod(0o640)

    def renew_server_certificate(self) -> None:
        """Write a new certificate and key for the domain over the old ones; owner and mode stay."""
        server = self._server_authority.issue(None, usage=ExtendedKeyUsageOID.SERVER_AUTH, dns_name=DOMAIN)
        (self.state / "tls" / "server.crt").write_bytes(server.certificate.read_bytes())
        (self.state / "tls" / "server.key").write_bytes(server.key.read_bytes())

    def _environment_for(self, uploads: str, limits: Limits) -> dict[str, str]:
        run = self.folder / "run"
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(run),
            "XDG_DATA_HOME": str(run),
            "XDG_CONFIG_HOME": str(run),
            "IMMICH_EXPOSURE_DOMAIN": DOMAIN,
            "IMMICH_EXPOSURE_PROXY_PORT": str(self.port),
            "IMMICH_EXPOSURE_IMMICH": f"127.0.0.1:{self.backend.port}",
            "IMMICH_EXPOSURE_UPLOADS": uploads,
            "IMMICH_EXPOSURE_ROOM": str(self.room),
            "IMMICH_EXPOSURE_REQUESTS": str(limits.requests),
            "IMMICH_EXPOSURE_REQUESTS_WINDOW": limits.requests_window,
            "IMMICH_EXPOSURE_PASSWORD_ATTEMPTS": str(limits.password_attempts),
            "IMMICH_EXPOSURE_PASSWORD_WINDOW": limits.password_window,
            "IMMICH_EXPOSURE_BUNDLES": str(limits.bundles),
            "IMMICH_EXPOSURE_BUNDLES_WINDOW": limits.bundles_window,
            "IMMICH_EXPOSURE_OFFENCES": str(limits.offences),
            "IMMICH_EXPOSURE_STATE": str(self.state),
            "IMMICH_EXPOSURE_LOGS": str(self.logs),
            "IMMICH_EXPOSURE_ADMIN": f"unix/{run}/admin.sock",
        }

    # -- process

    @property
    def pid(self) -> int:
        """The process id of Caddy; raises HarnessError when it does not run."""
        if self._process is None:
            raise HarnessError("Caddy does not run: call start first.")
        return self._process.pid

    def start(self) -> None:
        """Start Caddy and return when it accepts connections; raise HarnessError when it ends instead."""
        with self.journal.open("ab") as journal:
            self._process = subprocess.Popen(
                [self._program, "run", "--config", self._caddyfile, "--adapter", "caddyfile"],
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
                user=caddy_user(),
                group=_group_of(caddy_user()),
                extra_groups=[] if caddy_user() else None,
            )
        wait_until(self._listening, "Caddy listens")

    def _listening(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise HarnessError(f"Caddy ended by itself:\n{self.journal.read_text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def run_caddy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a Caddy command with the edge's environment, e.g. `adapt`."""
        return subprocess.run(
            [self._program, *arguments],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def leave_free(self, gigabytes: float) -> None:
        """Say how much is free where Immich puts uploads, as room.sh does; it counts for three minutes."""
        whole = self.folder / "room.new"
        whole.write_text(f"{int(gigabytes * 1e9) >> 10}\n")
        whole.rename(self.room)

    def change(self, **settings: str) -> None:
        """Write other settings than those that the edge runs with; they count from the next reload on."""
        self._environment |= {f"IMMICH_EXPOSURE_{name}": value for name, value in settings.items()}

    def reload(self) -> None:
        """Make Caddy read its files again, as the renewal timer does."""
        done = self.run_caddy("reload", "--force", "--config", str(self._caddyfile), "--adapter", "caddyfile")
        if done.returncode != 0:
            raise HarnessError(f"caddy reload failed: {done.stderr}")

    def restart(self) -> None:
        """Kill Caddy and start it again over the same folders."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.start()

    def stop(self) -> None:
        """End Caddy and the back end and remove everything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.backend.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- devices and bans

    def enrol(self, identity: Identity, name: str = "phone") -> None:
        """Let a device in, the way devices.sh does."""
        path = self.state / "devices" / identity.fingerprint
        path.write_text(f"{name}\n")
        path.chmod(0o644)

    def revoke(self, identity: Identity) -> None:
        """Shut a device out."""
        (self.state / "devices" / identity.fingerprint).unlink()

    def device(self, name: str) -> Identity:
        """Issue and enrol a device."""
        identity = self.authority.issue(name)
        self.enrol(identity, name)
        return identity

    def ban_file(self, jail: str, address: str) -> Path:
        """Return where a ban of this address by this jail lies."""
        return self.state / "bans" / jail / address

    # -- visitors

    def new_address(self) -> str:
        """Return an IPv4 address that no other test uses."""
        return next(self._addresses)

    def dial(self, first: bytes) -> socket.socket:
        """Open a bare TCP connection and write `first` before anything else."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(first)
        return connection

    def connect(
        self,
        address: str,
        identity: Identity | None = None,
        *,
        server_name: str | None = DOMAIN,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        protocols: Sequence[str] = ("http/1.1",),
    ) -> Connection:
        """Connect as a visitor from `address`; raise ConnectionDroppedError when the handshake fails.

        With TLS 1.3 a refused client certificate only shows at the first read, that is in `Connection.send`.
        """
        context = self.tls_context(identity, version=version, protocols=protocols)
        context.check_hostname = server_name == DOMAIN
        plain = self.dial(proxy_line(address))
        try:
            return Connection(context.wrap_socket(plain, server_hostname=server_name))
        except OSError as problem:
            plain.close()
            raise ConnectionDroppedError(str(problem)) from problem

    def tls_context(
        self,
        identity: Identity | None = None,
        *,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        protocols: Sequence[str] = ("http/1.1",),
    ) -> ssl.SSLContext:
        """Return what a visitor's TLS needs: trust in the server's authority, and the identity."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self._server_authority.certificate)
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(list(protocols))
        if identity is not None:
            context.load_cert_chain(identity.certificate, identity.key)
        return context

    def ask(
        self,
        target: str,
        method: str = "GET",
        *,
        address: str | None = None,
        identity: Identity | None = None,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Answer:
        """Ask once over a connection of its own, from a new address unless one is given."""
        with self.connect(address or self.new_address(), identity) as connection:
            return connection.ask(target, method, headers=headers, body=body)

    # -- log

    def log_entries(self) -> list[dict[str, Any]]:
        """Return the access log in all its files, one object per request, in the order of time."""
        lines = [line for line in self.log_text().splitlines() if line.endswith("}")]
        return sorted(map(json.loads, lines), key=lambda entry: str(entry["ts"]))

    def log_text(self) -> str:
        """Return what the access log holds now, offences first."""
        return "".join(path.read_text() for path in sorted(self.logs.glob("[a-z]*s.log"), reverse=True))

    def entries_of(self, address: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many log entries of an address and return them."""

        def entries() -> list[dict[str, Any]]:
            return [entry for entry in self.log_entries() if entry["request"]["client_ip"] == address]

        wait_until(lambda: len(entries()) >= count, f"{count} log entries of {address}")
        return entries()


@contextlib.contextmanager
def running_edge(
    program: Path, *, settings: Mapping[str, str] | None = None, caddyfile: str | None = None
) -> Iterator[Edge]:
    """Run an edge whose log has its first line, for fail2ban to find."""
    edge = Edge(program, settings=settings, caddyfile=caddyfile)
    try:
        edge.start()
        edge.ask("/")
        yield edge
    finally:
        edge.stop()


def is_cut(edge: Edge, address: str) -> bool:
    """Tell whether a visitor from this address gets no answer."""
    try:
        edge.ask("/share/abc", address=address)
    except ConnectionDroppedError:
        return True
    return False


def banned(edge: Edge) -> set[str]:
    """Return every address that is banned now."""
    return {path.name for path in (edge.state / "bans").glob("*/*")}


def caddy_user() -> str | None:
    """Return whom Caddy runs as: somebody without rights when the tests are root's, else None (the same)."""
    return UNPRIVILEGED_USER if os.geteuid() == 0 else None


def _group_of(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
