"""Requests to the exposed name as a stranger's browser sends them: public DNS, TLS, HTTP/1.1."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from components.engine.operator_error import OperatorError

PUBLIC_RESOLVERS = ("1.1.1.1", "9.9.9.9", "8.8.8.8")
"""Used instead of the system's resolver: on a tailnet, MagicDNS answers with the node's tailnet address.

A probe that stays inside the tailnet proves nothing about the outside.
"""

TIMEOUT_SECONDS = 10


class NotReachableError(OperatorError):
    """Nothing answers at the public name (yet): no DNS record, no connection, no TLS."""


class UnansweredError(NotReachableError):
    """The other side accepted the connection and the request, and then hung up without an answer."""


class WrongAnswerError(OperatorError):
    """An answer came, but not the one a safe exposure gives; the message says what was asked and seen."""


class KeyFileError(OperatorError):
    """A device's key or certificate cannot be used; the message names the file."""


@dataclass(frozen=True)
class Credential:
    """A device's certificate and its encrypted key; OpenSSL reads both from the keystore's files."""

    certificate: Path
    key: Path
    passphrase: str


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class OutsideProbe:
    """Sends requests to ``domain`` on ``port`` from outside.

    ``connect_to`` (host, port) replaces the public DNS lookup, ``roots_file`` (PEM) the system's roots.
    """

    domain: str
    port: int
    connect_to: tuple[str, int] | None
    roots_file: Path | None
    _prepared: dict[Credential | None, ssl.SSLContext] = field(default_factory=dict, repr=False)

    def prepare(self, credentials: Sequence[Credential]) -> None:
        """Read the roots and decrypt the keys, each once; this takes most of the time of a request.

        Raises ``KeyFileError`` for a key that cannot be decrypted.
        """
        needed = [each for each in (None, *credentials) if each not in self._prepared]
        with ThreadPoolExecutor(max_workers=4) as pool:
            self._prepared.update(zip(needed, pool.map(self._context, needed), strict=True))

    def get(
        self, path: str, credential: Credential | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one GET, with additional headers if given, and return the answer.

        Raises ``UnansweredError`` if the other side hangs up, ``NotReachableError`` if it cannot be reached,
        and ``KeyFileError`` for a key that cannot be decrypted.
        """
        self.prepare([] if credential is None else [credential])
        connection = http.client.HTTPSConnection(self.domain, self.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.sock = self._tls_socket(self._prepared[credential])
            sent = {"User-Agent": "immich-exposure-check", **(headers or {})}
            connection.request("GET", path, headers=sent)
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, received, response.read(1 << 20))
        except http.client.RemoteDisconnected as error:
            raise UnansweredError(
                f"https://{self.domain}:{self.port}{path} hung up without answering a request."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise NotReachableError(
                f"https://{self.domain}:{self.port}{path} does not answer from outside "
                f"({type(error).__name__}: {error})."
            ) from error
        finally:
            connection.close()

    def _context(self, credential: Credential | None) -> ssl.SSLContext:
        roots = None if self.roots_file is None else str(self.roots_file)
        context = ssl.create_default_context(cafile=roots)
        if credential is not None:
            try:
                context.load_cert_chain(credential.certificate, credential.key, credential.passphrase)
            except OSError as error:
                raise KeyFileError(
                    f"The key {credential.key} cannot be read with the keystorePassphrase; set the "
                    "passphrase that the keystore has, or restore the keystore from a backup."
                ) from error
        return context

    def _tls_socket(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        plain = socket.create_connection(self._address(), timeout=TIMEOUT_SECONDS)
        try:
            return context.wrap_socket(plain, server_hostname=self.domain)
        except BaseException:
            plain.close()
            raise

    def _address(self) -> tuple[str, int]:
        if self.connect_to is not None:
            return self.connect_to
        # Every run loads this module; few send requests.
        public_dns = import_module("components.remote.public_dns")
        return public_dns.public_address(self.domain, PUBLIC_RESOLVERS), self.port
