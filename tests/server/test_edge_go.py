"""The Go tests beside the edge's modules, and what their code shares with other parts."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from components.exposure_check import ANONYMOUS
from components.remote.outside_probe import PUBLIC_RESOLVERS
from toolchain import program
from toolchain.paths import PROJECT

pytestmark = pytest.mark.server

SOURCE = PROJECT / "server/caddy"
STRANGER_GO = (SOURCE / "stranger.go").read_text()


def test_the_go_tests_pass() -> None:
    """Unchanged ones are not run again: Go keeps their outcome."""
    done = subprocess.run(
        ["go", "test", "./..."],
        cwd=SOURCE,
        env={**os.environ, "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stranger_on_the_server_asks_what_the_one_outside_asks() -> None:
    [resolvers] = re.findall(r"publicResolvers = \[\]string\{(.*)\}", STRANGER_GO)
    assert tuple(re.findall(r'"(.+?)"', resolvers)) == PUBLIC_RESOLVERS
    [private] = re.findall(r"privatePaths = \[\]string\{(.*)\}", STRANGER_GO)
    [public] = re.findall(r'publicPath = "(.+)"', STRANGER_GO)
    wanted = {one.path: one.status for one in ANONYMOUS}
    assert {wanted[path] for path in re.findall(r'"(.+?)"', private)} == {403}
    assert wanted[public] == 200


def test_a_look_without_what_it_needs_is_refused() -> None:
    done = subprocess.run(
        [program("caddy"), "stranger", "--name", "immich.example.ts.net", "--certificate", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert "cannot be read" in done.stderr
