"""Bubbles: labs side by side, each on a machine of its own, which leave nothing behind however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lab import bubble, cgroups, processes
from tests.server.waiting import wait_until
from toolchain.paths import PROJECT

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="a bubble is made of namespaces, which only root may make"),
]

BUBBLE = [sys.executable, "-m", "lab", "bubble", "--"]
LIVE = f"{sys.executable} -m lab up && echo up && sleep 60"


def left(process: subprocess.Popen[str]) -> set[str]:
    """The control groups and the folder of this bubble, as far as they are there."""
    places = [place.point for place in cgroups.hierarchies()] + [Path(tempfile.gettempdir())]
    return {str(path) for place in places for path in place.glob(f"{bubble.PREFIX}{process.pid}-*")}


def start(command: str) -> subprocess.Popen[str]:
    """A bubble around a shell command; its output is read by the test."""
    return subprocess.Popen(
        [*BUBBLE, "sh", "-c", command],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    """Read until a line comes."""
    assert process.stdout
    assert line in (text.strip() for text in process.stdout), "the bubble ended before it was ready"


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_the_status_of_the_command_is_the_bubbles(command: str, status: int) -> None:
    with start(command) as process:
        assert process.wait(30) == status


def test_a_bubble_has_a_network_processes_and_records_of_its_own() -> None:
    look = "ip -brief link; cat /run/*.json; ps -e -o pid=; echo $IMMICH_LAB_STATE"
    with start(look) as process:
        assert process.stdout
        words = process.stdout.read().split()
    assert words[0] == "lo"
    assert len(words) < 10, words
    assert words[-1].startswith(f"{tempfile.gettempdir()}/{bubble.PREFIX}")


def test_two_labs_of_one_clone_live_at_once_and_leave_nothing() -> None:
    with start(LIVE) as first, start(LIVE) as second:
        for process in (first, second):
            wait_for(process, "up")
        assert left(first) and left(second)
        first.send_signal(signal.SIGTERM)
        first.wait(30)
        assert left(first) == set()
        assert second.poll() is None, "the end of one is none of the other's business"
        second.terminate()
        second.wait(30)
        assert left(second) == set()


def test_a_killed_bubble_takes_its_lab_with_it_and_the_next_one_clears_up() -> None:
    with start(LIVE) as neighbour, start(LIVE) as process:
        for bubble_process in (neighbour, process):
            wait_for(bubble_process, "up")
        (folder,) = (path for path in left(process) if path.startswith(tempfile.gettempdir()))
        process.kill()
        process.wait(30)
        wait_until(lambda: not _with_state(folder), "all that ran in the bubble has ended", 20)
        assert left(process) != set()
        there = left(neighbour)
        subprocess.run([*BUBBLE, "true"], cwd=PROJECT, check=True, timeout=30)
        assert left(process) == set()
        assert left(neighbour) == there, "who lives is not cleared away"
        neighbour.terminate()


def _with_state(folder: str) -> list[int]:
    """The processes that keep their state in this folder."""
    wanted = f"IMMICH_LAB_STATE={folder}/state".encode()
    return [process.pid for process in processes._running() if wanted in processes._environment(process.pid)]
