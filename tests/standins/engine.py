"""What the tests of the stand-ins talk to: a small SSH server on loopback and an engine that takes logs."""

import base64
import os
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import empty_pb2  # type: ignore[import-untyped]
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc

from toolchain.standins.properties import Properties


def openssh_key(passphrase: bytes | None = None) -> str:
    """A fresh Ed25519 key in OpenSSH's format."""
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption)
        .decode()
    )


class _Files(paramiko.SFTPServerInterface):  # type: ignore[misc]
    """Just enough SFTP for copies."""

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> paramiko.SFTPHandle | int:
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            return int(paramiko.SFTPServer.convert_errno(error.errno or 0))
        handle = paramiko.SFTPHandle(flags)
        handle.writefile = os.fdopen(descriptor, "wb")
        return handle

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        try:
            return paramiko.SFTPAttributes.from_stat(os.stat(path))
        except OSError as error:
            return int(paramiko.SFTPServer.convert_errno(error.errno or 0))

    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
        try:
            return [paramiko.SFTPAttributes.from_stat(entry.stat(), entry.name) for entry in os.scandir(path)]
        except OSError as error:
            return int(paramiko.SFTPServer.convert_errno(error.errno or 0))

    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        Path(path).mkdir()
        return int(paramiko.SFTP_OK)


class _Session(paramiko.ServerInterface):  # type: ignore[misc]
    """One connection: key authentication, commands by sh, a list of variables that may be set."""

    def __init__(self, server: "SshServer") -> None:
        self._server = server
        self._environment: dict[str, str] = {}

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = key.asbytes() == self._server.accepted
        return int(paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED)

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_env_request(self, channel: paramiko.Channel, name: bytes, value: bytes) -> bool:
        if name.decode() not in self._server.accepted_variables:
            return False
        self._environment[name.decode()] = value.decode()
        return True

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._server.commands.append(command.decode())
        threading.Thread(target=self._run, args=(channel, command.decode()), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        child = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **self._environment},
        )
        given = b""
        while piece := channel.recv(65536):
            given += piece
        stdout, stderr = child.communicate(given)
        channel.sendall(stdout)
        channel.sendall_stderr(stderr)
        channel.send_exit_status(child.returncode)
        channel.close()


@dataclass
class SshServer:
    """The server.

    `user_key` opens it, `host_key` is what a client pins, `commands` is what it was asked to run.
    """

    user_key: str = field(default_factory=openssh_key)
    accepted_variables: set[str] = field(default_factory=set)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    rsa: bool = False
    """A host key of this old kind, with the signatures that OpenSSH makes with it since 8.8: no SHA-1."""

    def __post_init__(self) -> None:
        self._host: paramiko.PKey = paramiko.ECDSAKey.generate()
        if self.rsa:
            self._host = paramiko.RSAKey.generate(2048)
        self.accepted = _public_blob(self.user_key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._transports: list[paramiko.Transport] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def host_key(self) -> str:
        """The line to pin."""
        return f"{self._host.get_name()} {self._host.get_base64()}"

    def connection(self, **changes: float | str) -> Properties:
        """The `connection` input that reaches this server, with changes."""
        return {
            "host": "127.0.0.1",
            "port": float(self.port),
            "privateKey": self.user_key,
            "hostKey": self.host_key,
            "dialErrorLimit": 0.0,
            **changes,
        }

    def close(self) -> None:
        """Stop listening and drop every connection."""
        self._listener.close()
        for transport in self._transports:
            transport.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            transport = paramiko.Transport(connection)
            transport.add_server_key(self._host)
            if self.rsa:
                transport.get_security_options().key_types = ("rsa-sha2-512", "rsa-sha2-256")
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
            self._transports.append(transport)
            transport.start_server(server=_Session(self), event=threading.Event())


def _public_blob(private: str) -> bytes:
    """The public half of an OpenSSH key, as SSH sends it."""
    key = serialization.load_ssh_private_key(private.encode(), None)
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return base64.b64decode(line.split()[1])


@dataclass
class EngineLog(engine_pb2_grpc.EngineServicer):
    """The engine's side of the log."""

    lines: list[str] = field(default_factory=list)

    def Log(self, request: engine_pb2.LogRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self.lines.append(request.message)
        return empty_pb2.Empty()
