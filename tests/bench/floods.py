"""What one network's flood changes for others: a visitor's 99th percentile under it, beside that at rest.

    python -m tests.bench.floods [--seconds S] [--rounds N] [ATTACK...]

The edge runs with its usual settings, fail2ban watches its log. The attacker (`tests/bench/load attack`, one
IPv4 address or one IPv6 /48) does what the attack's name says as often as it can, at idle priority: a real
one would have a machine of its own. Meanwhile a visitor asks fifty times a second, each tenth time over a new
connection, and an offender elsewhere scans until it is banned. Load stays on loopback.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.edge import THUMBNAIL, cpu_seconds, programs, resident, running_backend, verdict
from tests.server.edge import Edge
from tests.server.fail2ban import running_fail2ban
from tests.server.visitor import DOMAIN
from tests.server.waiting import HarnessError, wait_until

MAX_RETRY = 10
MOST = 3.0
"""A visitor may wait so many times as long under attack as at rest, 99th percentile."""

ATTACKS = (
    *("log", "requests", "cheap", "scans", "guesses", "passwords", "handshakes", "certificates", "connects"),
    *("streams", "bodies", "addresses", "idle", "resets", "continuation", "pings", "settings", "windows"),
)


@dataclass(frozen=True)
class Seen:
    """One attack: milliseconds at rest and under attack, and what it took of the machine."""

    rest: float
    attacked: float
    errors: int
    done: float
    cores: float
    memory: float
    log: float
    ban: float

    @property
    def ratio(self) -> float:
        """How many times as long the visitor waited."""
        return self.attacked / self.rest


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.floods", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=4, help="length of one attack (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each attack (default 3)")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(ATTACKS)}")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        caddy, load = programs(folder)
        print(f"{'':13}" + "".join(f"{name:>10}" for name in COLUMNS))
        for attack in chosen.attacks or ATTACKS:
            seen = [measure(caddy, load, attack, chosen.seconds) for _ in range(chosen.rounds)]
            print_row(attack, seen)
    return 0


COLUMNS = ("rest ms", "attack ms", "ratio", "errors", "per s", "cores", "MiB", "log kB/s", "ban s")


def print_row(attack: str, seen: list[Seen]) -> None:
    """Print the round with the median ratio; of errors, memory and bans the worst of all rounds."""
    middle = sorted(seen, key=lambda each: each.ratio)[len(seen) // 2]
    figures = (
        *(f"{middle.rest:.1f}", f"{middle.attacked:.1f}", f"{middle.ratio:.1f}"),
        *(f"{max(each.errors for each in seen)}", f"{middle.done:.0f}", f"{middle.cores:.2f}"),
        *(f"{max(each.memory for each in seen):.0f}", f"{middle.log:.0f}"),
        f"{max(each.ban for each in seen):.2f}",
    )
    cells = "".join(f"{figure:>10}" for figure in figures)
    print(f"{attack:13}{cells}  {verdict(middle.ratio < MOST)}", flush=True)


def measure(caddy: Path, load: Path, attack: str, seconds: float) -> Seen:
    """Attack an edge of its own."""
    with ExitStack() as stack:
        port = stack.enter_context(running_backend(load))
        edge = Edge(caddy, settings={"IMMICH": f"127.0.0.1:{port}"})
        stack.callback(edge.stop)
        edge.start()
        edge.ask("/")
        stack.enter_context(running_fail2ban(edge, max_retry=MAX_RETRY))
        rest = watch(load, edge, seconds)
        cpu, log = cpu_seconds(edge.pid), written(edge)
        command = ["chrt", "--idle", "0", *client(load, edge, "attack", seconds + 1.5), "-kind", attack]
        attacker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        stack.callback(attacker.wait)
        stack.callback(attacker.kill)
        time.sleep(0.5)
        bans: list[float] = []
        offender = threading.Thread(target=lambda: bans.append(time_to_ban(edge, seconds)))
        offender.start()
        seen = watch(load, edge, seconds)
        offender.join()
        done = json.loads(attacker.communicate()[0])
        spent = cpu_seconds(edge.pid) - cpu
        return Seen(
            rest=rest["p99"],
            attacked=seen["p99"],
            errors=seen["requests"] - seen["statuses"].get("200", 0),
            done=done["done"] / done["seconds"],
            cores=spent / done["seconds"],
            memory=resident(edge),
            log=(written(edge) - log) / done["seconds"] / 1000,
            ban=bans[0],
        )


def client(load: Path, edge: Edge, verb: str, seconds: float) -> list[str]:
    """Return the command line of the client."""
    options = ["-address", f"127.0.0.1:{edge.port}", "-host", DOMAIN, "-target", THUMBNAIL]
    return [str(load), verb, *options, "-duration", f"{seconds}s"]


def watch(load: Path, edge: Edge, seconds: float) -> dict[str, Any]:
    """Be a visitor for a while and return what it saw."""
    done = subprocess.run(client(load, edge, "watch", seconds), check=True, capture_output=True)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def time_to_ban(edge: Edge, seconds: float) -> float:
    """Scan from elsewhere amid the attack; return the seconds from the last offence to the ban."""
    time.sleep(seconds / 4)
    address = "198.18.5.5"
    for _ in range(MAX_RETRY):
        edge.ask("/wp-login.php", address=address)
    began = time.monotonic()
    try:
        wait_until(edge.ban_file("scan", address).exists, "the offender is banned")
    except HarnessError:
        return float("inf")
    return time.monotonic() - began


def written(edge: Edge) -> int:
    """Return the bytes of all logs and of the journal."""
    return sum(path.stat().st_size for path in edge.logs.iterdir()) + edge.journal.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
