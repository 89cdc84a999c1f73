"""The edge beside what else is used to show shared links to strangers: immich-public-proxy.

    python -m tests.bench.proxies --immich-public-proxy FOLDER [--rounds N] [--seconds S]

FOLDER is `app` of a clone of github.com/alangrainger/immich-public-proxy in which `npm ci` and `npm run
build` have been run. Sixteen visitors open the page of a link to 500 photos and then one thumbnail (20 KB)
after another, from the same back end. The edge does TLS meanwhile; immich-public-proxy has none, and is asked
without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.edge import cpu_seconds, memory_of, programs, running_program, running_setup
from tests.server.edge import free_port
from tests.server.visitor import DOMAIN

KEY = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_abc"
VISITORS = 16


@dataclass(frozen=True)
class Proxy:
    """What is measured: how to ask it, and the process that answers."""

    name: str
    pid: int
    options: list[str]


def main() -> int:
    """Measure and print; without immich-public-proxy, say so."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.proxies", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--immich-public-proxy", type=Path, metavar="FOLDER", help="its built app folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    chosen = parser.parse_args()
    app: Path | None = chosen.immich_public_proxy
    if app is None or not (app / "dist" / "index.js").exists():
        print("Skipped: immich-public-proxy is not here. Name its app folder with --immich-public-proxy.")
        return 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-bench-")))
        folder.chmod(0o755)
        caddy, load = programs(folder)
        port = free_port()
        stack.enter_context(running_program([load, "album", f"127.0.0.1:{port}"], port))
        edge = stack.enter_context(running_setup(caddy, port, "edge")).edge
        photos = f"/api/assets/%s/thumbnail?size=thumbnail&key={KEY}"
        proxies = [
            Proxy("edge", edge.pid, [*at(edge.port), "-target", photos]),
            stack.enter_context(running_proxy(app, port)),
        ]
        report(proxies, [[ask(load, each, chosen.seconds) for each in proxies] for _ in range(chosen.rounds)])
    return 0


def at(port: int) -> list[str]:
    """Return the options that both have in common."""
    return ["-address", f"127.0.0.1:{port}", "-host", DOMAIN, "-page", f"/share/{KEY}"]


@contextmanager
def running_proxy(app: Path, immich: int) -> Iterator[Proxy]:
    """Run immich-public-proxy as its own image does."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "NODE_ENV": "production",
        "IMMICH_URL": f"http://127.0.0.1:{immich}",
        "PUBLIC_BASE_URL": f"https://{DOMAIN}",
        "IPP_PORT": str(port),
    }
    with running_program(["node", "dist/index.js"], port, cwd=app, env=environment) as pid:
        target = f"/share/photo/{KEY}/%s/thumbnail"
        yield Proxy("immich-public-proxy", pid, [*at(port), "-plain", "-target", target])


@dataclass(frozen=True)
class Sample:
    """One run: requests a second, 99th percentile in ms, processor time of a request in ms, memory in MiB."""

    rate: float
    p99: float
    cpu: float
    memory: float


def ask(load: Path, proxy: Proxy, seconds: float) -> Sample:
    """Load one of them. Raises RuntimeError when it does not answer everything with 200."""
    before = cpu_seconds(proxy.pid)
    command = [str(load), "run", *proxy.options, "-connections", str(VISITORS), "-duration", f"{seconds}s"]
    seen = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    spent = cpu_seconds(proxy.pid) - before
    if set(seen["statuses"]) != {"200"} or seen["errors"]:
        raise RuntimeError(f"{proxy.name} did not answer as it should: {seen}")
    count = seen["requests"]
    return Sample(count / seen["seconds"], seen["p99"], 1000 * spent / count, memory_of(proxy.pid))


def report(proxies: list[Proxy], rounds: list[list[Sample]]) -> None:
    """Print medians, and the medians of the ratios to the edge within each round."""
    print(f"{'':22}{'per s':>8}{'p99 ms':>8}{'CPU ms':>8}{'MiB':>6}")
    for place, proxy in enumerate(proxies):
        columns = [
            [getattr(each[place], name) for each in rounds] for name in ("rate", "p99", "cpu", "memory")
        ]
        rate, p99, cpu, memory = map(statistics.median, columns)
        print(f"{proxy.name:22}{rate:8.0f}{p99:8.1f}{cpu:8.3f}{memory:6.0f}")
    for name in ("rate", "p99", "cpu", "memory"):
        ratio = statistics.median(getattr(edge, name) / getattr(other, name) for edge, other in rounds)
        print(f"edge beside immich-public-proxy, {name}: {ratio:.2f}")


if __name__ == "__main__":
    sys.exit(main())
