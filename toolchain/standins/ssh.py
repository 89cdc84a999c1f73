"""SSH connections for the `command` stand-in: paramiko with the rules of pulumi-command 1.2.x.

It supports a pinned host key, key, agent and password authentication, an optional proxy, and retries with
the engine's back-off (100 ms, growing by half up to 5 s). Errors are worded as in golang.org/x/crypto/ssh,
because that is what users search for.
"""

import base64
import binascii
import io
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from toolchain.standins.endpoint import Endpoint, Outcome, SshError
from toolchain.standins.properties import Property

# paramiko imports this only for a "Match exec" in an ssh_config, and it is half of what it loads.
sys.modules.setdefault("invoke", None)  # type: ignore[arg-type]

import paramiko  # noqa: E402
from paramiko.agent import AgentKey, AgentSSH  # noqa: E402

_FIRST_DELAY, _DELAY_GROWTH, _LONGEST_DELAY = 0.1, 1.5, 5.0
_UNLIMITED = -1
_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 9}
"""Seconds and probes as in Go's net.Dialer: if the network is lost, a command ends after 150 seconds."""

T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """The credentials for a server, loaded once per connection."""

    key: paramiko.PKey | None
    agent_keys: tuple[AgentKey, ...]
    password: str | None


@dataclass(frozen=True)
class Dialer:
    """How connections are made: `cancelled` ends the retries, `progress` takes a line per failed attempt."""

    cancelled: threading.Event
    progress: Callable[[str], None]

    @contextmanager
    def connect(self, endpoint: Endpoint) -> Iterator[paramiko.Transport]:
        """An authenticated transport to the endpoint, through its proxy if it has one. Raises SshError."""
        with _credentials(endpoint) as shown:
            if endpoint.proxy is None:
                transport = self.retry("Dial", endpoint, lambda: _dial(endpoint, shown))
                with _closing(transport):
                    yield transport
                return
            with self._through(endpoint, endpoint.proxy, shown) as transport:
                yield transport

    @contextmanager
    def _through(
        self, endpoint: Endpoint, proxy: Endpoint, shown: Credentials
    ) -> Iterator[paramiko.Transport]:
        with _credentials(proxy) as proxy_shown:
            bridge = self.retry("Dial proxy", proxy, lambda: _dial(proxy, proxy_shown))
        with _closing(bridge):
            transport = self.retry("Dial", endpoint, lambda: _dial_from(bridge, endpoint, shown))
            with _closing(transport):
                yield transport

    def retry(self, what: str, endpoint: Endpoint, attempt: Callable[[], T]) -> T:
        """The attempt's result.

        The limit counts retries: a limit of 10 allows 11 attempts, as in the official plugin.
        """
        limit = endpoint.dial_error_limit
        delay = _FIRST_DELAY
        failures = 0
        while True:
            try:
                return attempt()
            except (SshError, OSError, paramiko.SSHException) as error:
                failures += 1
                if limit > _UNLIMITED and failures > limit:
                    raise SshError(f"after {failures - 1} failed attempts: {_describe(error)}") from error
            self.progress(f"{what} {failures}/{'inf' if limit == _UNLIMITED else limit} failed: retrying")
            if self.cancelled.wait(delay):
                raise SshError("context canceled")
            delay = min(delay * _DELAY_GROWTH, _LONGEST_DELAY)


def run(
    transport: paramiko.Transport,
    command: str,
    *,
    stdin: str,
    environment: dict[str, str],
    hints: dict[str, str],
    on_stdout: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None],
) -> Outcome:
    """Run one command to its end.

    The server must accept `environment` (AcceptEnv); it may refuse `hints`. The two callbacks receive each
    piece of output as it arrives. Raises SshError if the session breaks; a non-zero status is an Outcome.
    """
    channel = transport.open_session()
    try:
        for name, value in environment.items():
            _set_environment(channel, name, value)
        for name, value in hints.items():
            channel.set_environment_variable(name, value)
        channel.exec_command(command)
        return _finish(channel, stdin, on_stdout, on_stderr)
    except (OSError, paramiko.SSHException) as error:
        raise SshError(_describe(error)) from error
    finally:
        channel.close()


def _finish(
    channel: paramiko.Channel,
    stdin: str,
    on_stdout: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None],
) -> Outcome:
    stdout, stderr, combined = bytearray(), bytearray(), bytearray()
    lock = threading.Lock()

    def drain(receive: Callable[[int], bytes], kept: bytearray, tell: Callable[[bytes], None]) -> None:
        while piece := receive(65536):
            with lock:
                kept += piece
                combined.extend(piece)
                tell(piece)

    helpers = [
        threading.Thread(target=_feed, args=(channel, stdin.encode()), daemon=True),
        threading.Thread(target=drain, args=(channel.recv_stderr, stderr, on_stderr), daemon=True),
    ]
    for helper in helpers:
        helper.start()
    drain(channel.recv, stdout, on_stdout)
    status = channel.recv_exit_status()
    channel.close()
    for helper in helpers:
        helper.join()
    return Outcome(status, _text(stdout), _text(stderr), _text(combined))


def _feed(channel: paramiko.Channel, content: bytes) -> None:
    """Send stdin and close it; a command may end without reading all of it."""
    try:
        channel.sendall(content)
        channel.shutdown_write()
    except OSError:
        return


def _text(content: bytearray) -> str:
    return content.decode(errors="replace")


def _set_environment(channel: paramiko.Channel, name: str, value: str) -> None:
    """Set a variable and wait for the server's answer; paramiko's own method does not request one."""
    message = paramiko.Message()
    message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("env")
    message.add_boolean(True)
    message.add_string(name)
    message.add_string(value)
    channel._event_pending()
    channel.transport._send_user_message(message)
    try:
        channel._wait_for_event()
    except (EOFError, paramiko.SSHException) as error:
        raise SshError(f'could not set environment variable "{name}": ssh: setenv failed') from error


def _dial(endpoint: Endpoint, shown: Credentials) -> paramiko.Transport:
    connection = socket.create_connection(
        (endpoint.host, endpoint.port), timeout=endpoint.dial_timeout or None
    )
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return _handshake(connection, endpoint, shown)


def _dial_from(bridge: paramiko.Transport, endpoint: Endpoint, shown: Credentials) -> paramiko.Transport:
    channel = bridge.open_channel(
        "direct-tcpip",
        (endpoint.host, endpoint.port),
        ("127.0.0.1", 0),
        timeout=endpoint.dial_timeout or None,
    )
    return _handshake(channel, endpoint, shown)


def _handshake(
    connection: socket.socket | paramiko.Channel, endpoint: Endpoint, shown: Credentials
) -> paramiko.Transport:
    transport = paramiko.Transport(connection)
    pinned = _parse_host_key(endpoint.host_key) if endpoint.host_key else None
    if pinned:
        _ask_for(transport, pinned[0])
    try:
        transport.start_client(timeout=endpoint.dial_timeout or None)
        if pinned and transport.get_remote_server_key().asbytes() != pinned[1]:
            raise SshError("ssh: handshake failed: ssh: host key mismatch")
        _authenticate(transport, endpoint.user, shown)
    except paramiko.ssh_exception.IncompatiblePeer as error:
        transport.close()
        raise _no_common_algorithm(pinned[0] if pinned else "any") from error
    except BaseException:
        transport.close()
        raise
    return transport


def _authenticate(transport: paramiko.Transport, user: str, shown: Credentials) -> None:
    """Try key, then password, then agent: the official plugin's order."""
    tries: list[Callable[[], object]] = []
    if shown.key is not None:
        tries.append(partial(transport.auth_publickey, user, shown.key))
    if shown.password is not None:
        tries.append(partial(transport.auth_password, user, shown.password))
    tries += [partial(transport.auth_publickey, user, key) for key in shown.agent_keys]
    for attempt in tries:
        try:
            attempt()
        except paramiko.AuthenticationException:
            continue
        if transport.is_authenticated():
            return
    raise SshError("ssh: handshake failed: ssh: unable to authenticate, no supported methods remain")


@contextmanager
def _credentials(endpoint: Endpoint) -> Iterator[Credentials]:
    """Load key and agent once.

    A broken key or a dead agent socket fails at once, as in the official plugin.
    """
    key = _load_key(endpoint.private_key, endpoint.private_key_password) if endpoint.private_key else None
    path = endpoint.agent_socket or os.environ.get("SSH_AUTH_SOCK")
    if not path:
        yield Credentials(key, (), endpoint.password)
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        agent = AgentSSH()
        try:
            connection.connect(path)
            agent._connect(connection)
        except (OSError, paramiko.SSHException) as error:
            raise SshError(f"dial unix {path}: connect: {_describe(error)}") from error
        yield Credentials(key, agent.get_keys(), endpoint.password)


def _load_key(text: str, password: str | None) -> paramiko.PKey:
    problem: Exception | None = None
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(text), password)
        except paramiko.PasswordRequiredException as error:
            raise SshError("ssh: this private key is passphrase protected") from error
        except (paramiko.SSHException, ValueError, IndexError, UnicodeDecodeError) as error:
            problem = error
    raise SshError("ssh: no key found, or its passphrase is wrong") from problem


def _parse_host_key(line: str) -> tuple[str, bytes]:
    """Type and key of an authorized_keys line such as `ssh-ed25519 AAAA... comment`."""
    fields = line.split()
    try:
        return fields[0], base64.b64decode(fields[1], validate=True)
    except (IndexError, binascii.Error) as error:
        raise SshError("failed to parse host key: ssh: no key found") from error


def _ask_for(transport: paramiko.Transport, key_type: str) -> None:
    """Request only the pinned type, never another key that the server has.

    "ssh-rsa" means a SHA-1 signature, which no current server makes (RFC 8332): it fails here as with the
    official plugin.
    """
    try:
        transport.get_security_options().key_types = (key_type,)
    except ValueError as error:
        raise _no_common_algorithm(key_type) from error


def _no_common_algorithm(key_type: str) -> SshError:
    return SshError(f"ssh: handshake failed: ssh: no common algorithm for host key; we offered: [{key_type}]")


@contextmanager
def _closing(transport: paramiko.Transport) -> Iterator[None]:
    try:
        yield
    finally:
        transport.close()


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def copy(transport: paramiko.Transport, source: Property, target: str) -> None:
    """Copy an asset (text or file) or a folder. Raises SshError if it does not arrive."""
    client = paramiko.SFTPClient.from_transport(transport)
    assert client is not None
    try:
        copy_source(client, source, target)
    except (OSError, paramiko.SSHException) as error:
        raise SshError(f"failed to copy to remote path {target}: {error}") from error
    finally:
        client.close()


def copy_source(client: paramiko.SFTPClient, source: Property, target: str) -> None:
    """Copy an asset (text or file) or a folder.

    A folder without a trailing slash is copied into the target.
    """
    assert isinstance(source, dict)
    if "text" in source and source.get("text") is not None:
        with client.open(target, "w") as file:
            file.write(str(source["text"]).encode())
        return
    given = str(source["path"])
    path = Path(given)
    if not path.is_dir():
        client.put(str(path), f"{target}/{path.name}" if _is_remote_folder(client, target) else target)
        return
    _make_remote_folder(client, target)
    if not given.endswith("/"):
        target = f"{target}/{path.name}"
        _make_remote_folder(client, target)
    for entry in sorted(path.rglob("*")):
        place = f"{target}/{entry.relative_to(path)}"
        if entry.is_dir():
            _make_remote_folder(client, place)
        else:
            client.put(str(entry), place)


def _is_remote_folder(client: paramiko.SFTPClient, path: str) -> bool:
    try:
        client.listdir(path)
    except OSError:
        return False
    return True


def _make_remote_folder(client: paramiko.SFTPClient, path: str) -> None:
    if not _is_remote_folder(client, path):
        client.mkdir(path)
