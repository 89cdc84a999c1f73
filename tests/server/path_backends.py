"""Three back ends that read the same request differently, and what each of them took it for.

    normalising  reads as wrongly as anything could: decodes again and again, takes a backslash for a slash,
                 drops everything after a semicolon, ignores case and control characters (Python, here)
    express      Express 5 as Immich uses it, with the forgiving query parser (Node)
    whatwg       a path as browsers resolve it, `new URL()` (Node)

Each knows every operation of Immich's API. All three believe headers that override the method or the URL.
"""

from __future__ import annotations

import fcntl
import json
import os
import posixpath
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from components.surface.table import immich_operations
from tests.server.backend import Backend, Received
from tests.server.waiting import HarnessError
from toolchain import system
from toolchain.paths import PROJECT

SOURCES = Path(__file__).parent / "disagreeing"
INSTALLED = PROJECT / ".toolchain/npm"
NPM_TIMEOUT_SECONDS = 300

Query = Mapping[str, list[str]]

OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")
REWRITES = ("x-original-url", "x-rewrite-url", "x-original-uri")


@dataclass(frozen=True)
class Hit:
    """A request as a back end got it, and what it took it for.

    `operation` is the name of one of Immich's, "upgrade" for a switch of protocols, or empty for a page.
    `queries` is what each of its parsers made of the query.
    """

    method: str
    target: str
    headers: Mapping[str, list[str]]
    operation: str
    queries: tuple[Query, ...]


class PathBackend(Protocol):
    """A back end on 127.0.0.1 that remembers what it was asked."""

    name: str
    port: int

    def drain(self) -> list[Hit]:
        """Return what was received since the last call."""
        ...

    def stop(self) -> None:
        """Close the listener."""
        ...


@dataclass(frozen=True)
class _Route:
    name: str
    method: str
    path: str

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{\w+\}", "[^/]+", self.path) + "/?", re.IGNORECASE)


def _routes() -> list[_Route]:
    """Every operation of every version, those without parameters first, as Immich's router has them."""
    found = {
        _Route(each.name, each.method, f"/api{each.path}")
        for version in immich_operations().values()
        for each in version
    }
    return sorted(found, key=lambda route: ("{" in route.path, route.path, route.method))


class Normalising:
    """The most careless reader of paths, over the recording back end."""

    name = "normalising"

    def __init__(self) -> None:
        self._backend = Backend()
        self._backend.start()
        self.port = self._backend.port
        self._routes = [(route, route.pattern) for route in _routes()]

    def drain(self) -> list[Hit]:
        """Return what was received since the last call."""
        received, self._backend.received[:] = list(self._backend.received), []
        return [self._understood(each) for each in received]

    def _understood(self, received: Received) -> Hit:
        def believed(names: tuple[str, ...], default: str) -> str:
            return next((received.headers[name][0] for name in names if name in received.headers), default)

        method = believed(OVERRIDES, received.method).upper()
        url = believed(REWRITES, received.target)
        path, _, query = url.partition("?")
        plain = carelessly_normalised(path)
        operation = next(
            (
                route.name
                for route, pattern in self._routes
                if route.method == method and pattern.fullmatch(plain)
            ),
            "",
        )
        if "upgrade" in received.headers:
            operation = "upgrade"
        queries = tuple(
            urllib.parse.parse_qs(text, keep_blank_values=True) for text in (query, query.replace(";", "&"))
        )
        return Hit(received.method, received.target, received.headers, operation, queries)

    def stop(self) -> None:
        """Close the listener."""
        self._backend.stop()


_OVERLONG = {"%c0%ae": ".", "%c0%af": "/", "%c1%9c": "\\", "%e0%80%ae": ".", "%e0%80%af": "/"}


def carelessly_normalised(path: str) -> str:
    """Return the path as the most careless server would resolve it."""
    if "://" in path:
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    for _ in range(4):
        for encoded, plain in _OVERLONG.items():
            path = re.sub(encoded, plain.replace("\\", r"\\"), path, flags=re.IGNORECASE)
        path = re.sub(r"%u00([0-9a-fA-F]{2})", r"%\1", path)
        path = urllib.parse.unquote(path)
    path = re.sub(r"[\x00-\x20\x7f-\x9f\ufffd]", "", path.replace("\\", "/"))
    path = re.sub(r";[^/]*", "", path.partition("?")[0].partition("#")[0])
    return posixpath.normpath("/" + path.lstrip("/")).rstrip(".")


class Node:
    """A back end of disagreeing/backend.js: `express` or `whatwg`. Install with `ensure_express` first."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        routes = folder / f"{name}-operations.json"
        routes.write_text(json.dumps([vars(route) for route in _routes()]))
        program = system.find("node")
        if program is None:
            raise HarnessError("node is missing: install the package nodejs.")
        self._process = subprocess.Popen(
            [program, SOURCES / "backend.js", name, routes],
            env={"PATH": os.environ["PATH"], "NODE_PATH": str(INSTALLED / "node_modules")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise HarnessError(f"The back end {name} ended by itself; see its words above.")
        ports = json.loads(line)
        self.port: int = ports["port"]
        self._control = f"http://127.0.0.1:{ports['control']}/"

    def drain(self) -> list[Hit]:
        """Return what was received since the last call."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self._control, timeout=30) as answer:
            return [_hit_of(entry) for entry in json.load(answer)]

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _hit_of(entry: dict[str, object]) -> Hit:
    raw, queries = entry["headers"], entry["queries"]
    assert isinstance(raw, list) and isinstance(queries, list)
    headers: dict[str, list[str]] = {}
    for name, value in zip(raw[::2], raw[1::2], strict=True):
        headers.setdefault(name.lower(), []).append(value)
    return Hit(
        str(entry["method"]),
        str(entry["target"]),
        headers,
        str(entry["operation"]),
        tuple({name: _values(value) for name, value in query} for query in queries),
    )


def _values(value: object) -> list[str]:
    """A value that a parser made a list or an object of counts as many: no honest key is one."""
    if isinstance(value, str):
        return [value]
    return [json.dumps(value), "not a string"]


def ensure_express() -> None:
    """Install Node and what disagreeing/package-lock.json pins below `.toolchain`, unless it is there."""
    system.ensure(system.NODE)
    lock = (SOURCES / "package-lock.json").read_text()
    INSTALLED.mkdir(parents=True, exist_ok=True)
    with (INSTALLED / ".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        stamp = INSTALLED / "installed.json"
        if stamp.exists() and stamp.read_text() == lock:
            return
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCES / name, INSTALLED / name)
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
            cwd=INSTALLED,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NPM_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise HarnessError(f"npm could not install Express: {done.stderr.strip()[-500:]}")
        stamp.write_text(lock)
