"""What the edge costs beside plain Caddy as a TLS reverse proxy: the same build, machine, run and client.

    python -m tests.bench.edge [--rounds N] [--seconds S] [--kinds TEXT] [--also NAME=CADDYFILE]
                               [--bare]

Every setup runs at the same time and is loaded in turn, so that the ratios mean something whatever the
machine. The client (`tests/bench/load`) writes the PROXY line that tailscaled would, keeps 16 visitors busy
and asks for a thumbnail of 1 KB. Figures are medians of the rounds, and so are ratios, each taken within
its round; load stays on loopback. `--also` sets a draft of the Caddyfile beside the one in use.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import toolchain
from tests.server.certificates import Identity
from tests.server.edge import Edge, Limits, free_port
from tests.server.fail2ban import running_fail2ban
from tests.server.visitor import DOMAIN
from tests.server.waiting import wait_until

LOAD_SOURCE = Path(__file__).parent / "load"
THUMBNAIL = "/api/assets/0a1b2c3d-0000-4000-8000-0123456789ab/thumbnail?size=thumbnail&key=abcdefghijklmnop"
BASE = "plain Caddy"
LEAST_RATIO = 0.85
BAN_SECONDS = 0.5
OFFENDERS = 8
FLAT = 1.15
"""With 10,000 bans or 1,000 devices, at most this part of Caddy's own time with none; median of the kinds."""

BEHIND_A_FUNNEL = """{
	admin off
	auto_https off
	persist_config off
	servers {
		protocols h1 h2
		listener_wrappers {
			proxy_protocol {
				timeout 3s
				fallback_policy require
			}
			tls
		}
	}
}
"""
"""What any Caddy needs that a funnel hands its visitors to."""

PLAIN = f"""{BEHIND_A_FUNNEL}https://{DOMAIN}:{{$IMMICH_EXPOSURE_PROXY_PORT}} {{
	bind 127.0.0.1
	tls {{$IMMICH_EXPOSURE_STATE}}/tls/server.crt {{$IMMICH_EXPOSURE_STATE}}/tls/server.key
	reverse_proxy {{$IMMICH_EXPOSURE_IMMICH}}
}}
"""

RECIPE = rf"""{BEHIND_A_FUNNEL}https://{DOMAIN}:{{$IMMICH_EXPOSURE_PROXY_PORT}} {{
	bind 127.0.0.1
	tls {{$IMMICH_EXPOSURE_STATE}}/tls/server.crt {{$IMMICH_EXPOSURE_STATE}}/tls/server.key {{
		client_auth {{
			mode verify_if_given
			trust_pool file {{$IMMICH_EXPOSURE_STATE}}/device-ca.crt
		}}
	}}
	log {{
		output file {{$IMMICH_EXPOSURE_LOGS}}/access.log
	}}
	@banned client_ip 198.18.0.1 198.18.0.2
	abort @banned
	@device not vars {{http.request.tls.client.subject}} ""
	@public {{
		method GET HEAD POST
		path_regexp ^/([^/]+\.\w+$|_app/|s/|share/|api/(assets|shared-links)/|api/server/(config|features)$)
	}}
	handle @device {{
		reverse_proxy {{$IMMICH_EXPOSURE_IMMICH}}
	}}
	handle @public {{
		reverse_proxy {{$IMMICH_EXPOSURE_IMMICH}}
	}}
	handle {{
		respond Forbidden 403
	}}
}}
"""
"""What guides for stock Caddy advise: its access log, its ban, certificate and path rules; no limits."""


@dataclass(frozen=True)
class Sample:
    """One run: requests a second, the 99th percentile and Caddy's own time for a request in milliseconds."""

    rate: float
    p99: float
    cpu: float


Figure = Callable[[Sample], float]


@dataclass
class Setup:
    """One Caddy under load; `samples` by kind of load, `memory` in MiB before the load and after it."""

    name: str
    edge: Edge
    phone: Identity
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    memory: list[float] = field(default_factory=list)

    def median(self, kind: str, figure: Figure) -> float:
        """Return the median of a figure."""
        return statistics.median(figure(sample) for sample in self.samples[kind])

    def ratio(self, base: Setup, kind: str, figure: Figure) -> float:
        """Return the median of the ratios to another setup in the same round."""
        pairs = zip(self.samples[kind], base.samples[kind], strict=True)
        return statistics.median(figure(mine) / figure(other) for mine, other in pairs)


def rate(sample: Sample) -> float:
    """Requests a second."""
    return sample.rate


def p99(sample: Sample) -> float:
    """The 99th percentile in milliseconds."""
    return sample.p99


def cpu(sample: Sample) -> float:
    """Caddy's own time for a request in milliseconds."""
    return sample.cpu


KINDS = {
    "keep-alive, anonymous": (False, False),
    "keep-alive, device": (False, True),
    "new connections, anonymous": (True, False),
    "new connections, device": (True, True),
}
"""For each kind of load: whether every request has a connection of its own, and whether a device sends it."""


def main() -> int:
    """Measure everything and print it; the exit code is 0 also when a goal is missed."""
    chosen = arguments()
    kinds = [kind for kind in KINDS if chosen.kinds in kind]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-bench-")))
        folder.chmod(0o755)
        caddy, load = programs(folder)
        port = stack.enter_context(running_backend(load))
        setups = [
            stack.enter_context(running_setup(caddy, port, BASE, caddyfile=PLAIN)),
            stack.enter_context(running_setup(caddy, port, "edge")),
            stack.enter_context(running_setup(caddy, port, "recipe", caddyfile=RECIPE)),
        ]
        if not chosen.bare:
            setups += [
                stack.enter_context(running_setup(caddy, port, "edge, 1,000 bans", bans=1_000)),
                stack.enter_context(running_setup(caddy, port, "edge, 10,000 bans", bans=10_000)),
                stack.enter_context(running_setup(caddy, port, "edge, 1,000 devices", devices=1_000)),
            ]
        for name, _, path in (draft.partition("=") for draft in chosen.also):
            text = Path(path).read_text(encoding="utf-8")
            setups.append(stack.enter_context(running_setup(caddy, port, name, caddyfile=text)))
        measure(load, setups, kinds, chosen.rounds, chosen.seconds)
        report(setups, kinds)
    if chosen.bare:
        return 0
    bans = ban_times(OFFENDERS)
    usual, worst = statistics.median(bans), max(bans)
    print(f"\nban effective after the last offence: median {usual:.2f} s, worst {worst:.2f} s")
    goals(setups, kinds, bans)
    return 0


def arguments() -> argparse.Namespace:
    """Return the command line's choices; by default a run takes less than three minutes."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.edge", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds over all setups (default 7)")
    parser.add_argument("--seconds", type=float, default=0.7, help="length of one run (default 0.7)")
    parser.add_argument("--kinds", default="", help="only the kinds of load whose name has this text")
    parser.add_argument("--bare", action="store_true", help="without bans, devices and goals")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=CADDYFILE", help="a draft")
    return parser.parse_args()


def measure(load: Path, setups: list[Setup], kinds: list[str], rounds: int, seconds: float) -> None:
    """Load every setup in every way, in each round in another order, so that none always comes first."""
    for setup in setups:
        run(load, setup, fresh=False, device=False, seconds=0.2)
        setup.memory.append(resident(setup.edge))
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for kind in kinds:
            fresh, device = KINDS[kind]
            first = number % len(setups)
            for setup in setups[first:] + setups[:first]:
                sample = run(load, setup, fresh=fresh, device=device, seconds=seconds)
                setup.samples.setdefault(kind, []).append(sample)
    for setup in setups:
        setup.memory.append(resident(setup.edge))


def programs(folder: Path) -> tuple[Path, Path]:
    """Return the edge's Caddy where an unprivileged user may run it, and the client."""
    caddy = Path(shutil.copy(toolchain.program("caddy"), folder / "caddy"))
    caddy.chmod(0o755)
    load = folder / "load"
    subprocess.run(["go", "build", "-o", load, "."], cwd=LOAD_SOURCE, check=True)
    return caddy, load


@contextmanager
def running_backend(load: Path) -> Iterator[int]:
    """Run the Immich that costs nothing; return its port."""
    port = free_port()
    with running_program([load, "backend", f"127.0.0.1:{port}"], port):
        yield port


@contextmanager
def running_program(
    command: list[str | Path], port: int, *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> Iterator[int]:
    """Run a program that listens on a port; return its process id."""
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, f"{command[0]} listens")
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def running_setup(
    caddy: Path, port: int, name: str, *, caddyfile: str | None = None, bans: int = 0, devices: int = 0
) -> Iterator[Setup]:
    """Run Caddy with so many bans of strangers and devices of others.

    The budget for requests has its usual size, which decides what it costs, and a window and a pace that
    nobody exceeds.
    """
    limits = Limits(requests_window="1ms")
    settings = {"IMMICH": f"127.0.0.1:{port}", "PACE": "1000000"}
    edge = Edge(caddy, limits=limits, caddyfile=caddyfile, settings=settings)
    try:
        first = int(ipaddress.IPv4Address("10.0.0.1"))
        for number in range(bans):
            edge.ban_file("scan", str(ipaddress.IPv4Address(first + number))).touch()
        for number in range(devices):
            (edge.state / "devices" / f"{number:064x}").touch()
        edge.start()
        yield Setup(name, edge, edge.device("phone"))
    finally:
        edge.stop()


def run(load: Path, setup: Setup, *, fresh: bool, device: bool, seconds: float) -> Sample:
    """Load one setup. Raises RuntimeError when it does not answer everything with 200."""
    command: list[str | Path] = [load, "run", "-address", f"127.0.0.1:{setup.edge.port}", "-host", DOMAIN]
    command += ["-target", THUMBNAIL, "-duration", f"{seconds}s"]
    if fresh:
        command.append("-fresh")
    if device:
        command += ["-certificate", setup.phone.certificate, "-key", setup.phone.key]
    before = cpu_seconds(setup.edge.pid)
    seen = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    spent = cpu_seconds(setup.edge.pid) - before
    if set(seen["statuses"]) != {"200"} or seen["errors"]:
        raise RuntimeError(f"{setup.name} did not answer as it should: {seen}")
    count = seen["requests"]
    return Sample(count / seen["seconds"], seen["p99"], 1000 * spent / count)


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(edge: Edge) -> float:
    """Return the resident memory of Caddy in MiB."""
    return memory_of(edge.pid)


def memory_of(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def ban_times(count: int) -> list[float]:
    """Return for so many offenders the seconds from the last offence to the ban."""
    times = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-bench-")))
        folder.chmod(0o755)
        caddy = Path(shutil.copy(toolchain.program("caddy"), folder / "caddy"))
        caddy.chmod(0o755)
        edge = Edge(caddy)
        stack.callback(edge.stop)
        edge.start()
        edge.ask("/")
        stack.enter_context(running_fail2ban(edge, max_retry=10))
        for number in range(count):
            time.sleep(0.37 * number % 1)  # at whatever moment of fail2ban's pauses
            address = edge.new_address()
            for _ in range(10):
                edge.ask("/wp-login.php", address=address)
            began = time.monotonic()
            wait_until(edge.ban_file("scan", address).exists, f"{address} is banned")
            times.append(time.monotonic() - began)
    return times


def report(setups: list[Setup], kinds: list[str]) -> None:
    """Print a table for each kind of load, and one of memory."""
    plain = setups[0]
    for kind in kinds:
        print(f"\n{kind:27} {'per s':>7} {'ratio':>6} {'p99 ms':>7} {'ratio':>6} {'CPU ms':>7} {'ratio':>6}")
        for setup in setups:
            figures = [
                f"{setup.median(kind, figure):7.{digits}f} {setup.ratio(plain, kind, figure):6.2f}"
                for figure, digits in ((rate, 0), (p99, 1), (cpu, 3))
            ]
            print(f"  {setup.name:25} {' '.join(figures)}")
    print(f"\n{'resident memory':27} {'MiB':>7} {'loaded':>7} {'ratio':>6}")
    for setup in setups:
        before, after = setup.memory
        print(f"  {setup.name:25} {before:7.0f} {after:7.0f} {after / plain.memory[1]:6.2f}")


def goals(setups: list[Setup], kinds: list[str], bans: list[float]) -> None:
    """Print which goals are met."""
    plain, edge, *more = setups
    print()
    for kind in kinds:
        ratio = edge.ratio(plain, kind, rate)
        print(f"goal: {kind} at least {LEAST_RATIO} of {BASE}: {verdict(ratio >= LEAST_RATIO)} ({ratio:.2f})")
    dearest = max(statistics.median(setup.ratio(edge, kind, cpu) for kind in kinds) for setup in more[:3])
    print(f"goal: cost flat in bans and devices: {verdict(dearest <= FLAT)} (worst {dearest:.2f} of none)")
    worst = max(bans)
    print(f"goal: ban effective under {BAN_SECONDS} s: {verdict(worst < BAN_SECONDS)} (worst {worst:.2f} s)")


def verdict(met: bool) -> str:
    """Say it in a word."""
    return "met" if met else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
