"""Visits from the lab's internet: one request through the ingress, from any visitor address."""

import os
import re
import subprocess
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from lab import network, places
from lab.places import INTERNET_NAMESPACE, Places


class Refused(ConnectionError):
    """There was no HTTP answer: TCP or TLS was refused, or the connection was cut.

    ``code`` is curl's exit status.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"refused without an answer (curl {code}): {message}")
        self.code = code


@dataclass(frozen=True)
class Reply:
    """An HTTP answer. Header names are in lower case; a repeated one is joined by ", "."""

    status: int
    version: str  # "1.1" or "2"
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode(errors="replace")


@dataclass(frozen=True)
class Visit:
    """What to request, and as whom."""

    path: str
    source: str = places.DEFAULT_VISITOR
    method: str = "GET"
    host: str = places.DOMAIN  # for DNS, SNI and Host
    http: str = "2"  # "1.1" or "2"
    cert: Path | None = None
    key: Path | None = None
    passphrase: str | None = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes | None = field(default=None, repr=False)
    seconds: int = 20

    def go(self, where: Places) -> Reply:
        """Make the visit. Raises Refused if there was no HTTP answer."""
        # Everything goes over stdin: everybody can read a command line, and root's processes the environment.
        command = [*network.inside(INTERNET_NAMESPACE), "curl", "--disable", "--config", "-"]
        body = _memory_file(self.data)
        try:
            done = subprocess.run(
                command,
                input=self._config(where, body).encode(),
                capture_output=True,
                check=False,
                pass_fds=[] if body is None else [body],
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            )
        finally:
            if body is not None:
                os.close(body)
        if done.returncode:
            raise Refused(done.returncode, done.stderr.decode(errors="replace").strip())
        return parse(done.stdout)

    def _config(self, where: Places, body: int | None) -> str:
        options: list[tuple[str, str]] = [
            ("url", f"https://{self.host}{self.path}"),
            ("interface", f"host!{self.source}"),
            ("resolve", f"{self.host}:{places.INGRESS_PORT}:{_ingress(self.source)}"),
            ("cacert", str(where.roots)),
            ("max-time", str(self.seconds)),
            ("dump-header", "-"),
            ("noproxy", "*"),
        ]
        if self.method != "HEAD":
            options.append(("request", self.method))
        options += [(name, str(path)) for name, path in (("cert", self.cert), ("key", self.key)) if path]
        if self.passphrase is not None:
            options.append(("pass", self.passphrase))
        options += [
            ("header", f"{name}: {value}" if value else f"{name};") for name, value in self.headers.items()
        ]
        if body is not None:
            options.append(("data-binary", f"@/dev/fd/{body}"))
        switches = [
            "silent",
            "show-error",
            "path-as-is",
            "globoff",
            "http2" if self.http == "2" else "http1.1",
        ]
        switches += ["head"] if self.method == "HEAD" else []
        return "".join(
            [f"{name}\n" for name in switches] + [f"{name} = {_quote(value)}\n" for name, value in options]
        )


def parse(output: bytes) -> Reply:
    """Split headers and body, skipping interim answers (1xx).

    Raises ValueError if this is not an HTTP answer.
    """
    while True:
        head, _, output = output.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        found = re.fullmatch(r"HTTP/(\S+) (\d{3}).*", first)
        if not found:
            raise ValueError(f"This is not an HTTP answer: {first!r}.")
        if found[2].startswith("1") and found[2] != "101":
            continue
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Reply(int(found[2]), found[1], headers, output)


def _ingress(source: str) -> str:
    return places.INGRESS_V4 if ip_address(source).version == 4 else f"[{places.INGRESS_V6}]"


def _quote(value: str) -> str:
    """A quoted value of curl's config file.

    Raises ValueError for a line break, which would start another option.
    """
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError("A value for curl may not contain a line break.")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t") + '"'


def _memory_file(data: bytes | None) -> int | None:
    if data is None:
        return None
    handle = os.memfd_create("body")
    os.write(handle, data)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle
