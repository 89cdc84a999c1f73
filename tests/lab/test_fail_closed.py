"""Whatever breaks on the way, nobody gets in unproven, and the next run finds its way."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.remote_script import script_text, sudo_line
from lab import Lab
from tests.lab.operator import PROJECT, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.snapshot import output
from tests.server.waiting import wait_until

pytestmark = pytest.mark.lab

LEASE = "/var/lib/immich-exposure/lease"
DEAD_PORT = "127.0.0.1:9"


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator who is taken back to nothing at the end, and leaves no open door."""
    operator = Operator(tmp_path_factory.mktemp("fail-closed"), lab.info(), stack="fail-closed")
    operator.init()
    yield operator
    operator.destroy()
    assert seen(lab, "/") == REFUSED


def funnel(lab: Lab) -> str:
    """Return what Tailscale serves, without white space."""
    return output(lab, "sudo tailscale funnel status --json | tr -d ' \\n'")


@contextmanager
def tailscale_that_opens_nothing(lab: Lab) -> Iterator[None]:
    """Put a ``tailscale`` in front that says yes to opening a funnel and does nothing."""
    wrapper = "/usr/local/sbin/tailscale"
    real = output(lab, "command -v tailscale")
    lies = '*"funnel --bg"*) echo "To enable, visit a page."; exit 0;;'
    text = f'#!/bin/sh\ncase "$*" in {lies} esac\nexec {real} "$@"\n'
    lab.ssh(f"sudo mkdir -p {Path(wrapper).parent}; sudo tee {wrapper} >/dev/null", text=text)
    lab.ssh(f"sudo chmod 755 {wrapper}")
    try:
        yield
    finally:
        output(lab, f"sudo rm -f {wrapper}")


def test_a_funnel_that_does_not_open_is_told_and_destroy_cleans_up(lab: Lab, operator: Operator) -> None:
    with tailscale_that_opens_nothing(lab):
        assert "did not open the funnel" in operator.fails()
    assert funnel(lab) == "{}"
    assert seen(lab, "/") == REFUSED
    operator.destroy()
    assert output(lab, "sudo ls /var/lib/immich-exposure 2>&1 || :").endswith("No such file or directory")


def test_a_failed_check_closes_the_funnel(lab: Lab, operator: Operator) -> None:
    sound = operator.settings["check"]
    operator.set(check={**sound, "connectTo": DEAD_PORT})
    assert "does not answer from outside" in operator.fails()
    assert funnel(lab) == "{}"
    assert seen(lab, "/") == REFUSED
    operator.set(check=sound)


def test_the_next_run_opens_it_again(lab: Lab, operator: Operator) -> None:
    operator.up()
    assert seen(lab, "/") == FORBIDDEN
    assert output(lab, f"cat {LEASE}") == "confirmed"


def test_an_exposure_that_no_longer_proves_itself_is_closed_and_mended(lab: Lab, operator: Operator) -> None:
    sound = operator.settings["check"]
    operator.set(check={**sound, "connectTo": DEAD_PORT})
    operator.fails()
    assert seen(lab, "/") == REFUSED
    operator.set(check=sound, uploads=True)
    operator.up()
    operator.set(uploads=None)
    assert seen(lab, "/") == FORBIDDEN


def test_a_lease_that_nobody_confirms_ends(lab: Lab, operator: Operator) -> None:
    opened = lab.ssh(sudo_line("open", 443, 8443, 3), text=script_text("funnel"))
    assert opened.returncode == 0, opened.stderr
    assert seen(lab, "/") == FORBIDDEN
    wait_until(lambda: seen(lab, "/") == REFUSED, "the lease ends", 20)
    assert funnel(lab) == "{}"


def test_when_the_operators_machine_dies_the_lease_is_what_is_left(lab: Lab, operator: Operator) -> None:
    sound = operator.settings["check"]
    operator.set(check={**sound, "connectTo": DEAD_PORT}, bans={"maxRetry": 11})
    process = operator.start("up")
    wait_until(
        lambda: output(lab, f"cat {LEASE}").startswith("until "), "the funnel is open for the check", 60
    )
    wait_until(lambda: funnel(lab) != "{}", "the funnel is open", 30)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert "immich-exposure-lease-end.timer" in output(lab, "systemctl list-timers --no-pager --plain")
    # what the timer will find when the time has come
    output(lab, f"echo 'until 1' | sudo tee {LEASE}; sudo systemctl start immich-exposure-lease.service")
    assert funnel(lab) == "{}"
    operator.pulumi("cancel", "--yes", "--stack", operator.stack)
    operator.set(check=sound, bans=None)
    operator.up()
    assert seen(lab, "/") == FORBIDDEN


def test_a_configuration_that_caddy_refuses_is_taken_back(
    lab: Lab, operator: Operator, tmp_path: Path
) -> None:
    generation = output(lab, "readlink -f /run/current-system")
    broken = project_with_broken_caddyfile(tmp_path / "project")
    operator.project = broken
    try:
        printed = operator.fails()
    finally:
        operator.project = PROJECT
    assert "unrecognized directive: no_such_directive" in printed
    assert "The checks before the switch failed, and nothing was changed" in printed
    assert output(lab, "readlink -f /run/current-system") == generation
    assert output(lab, "systemctl is-active caddy") == "active"
    assert seen(lab, "/") in (FORBIDDEN, REFUSED)
    operator.up()
    assert seen(lab, "/") == FORBIDDEN


def project_with_broken_caddyfile(folder: Path) -> Path:
    """Return a copy of the project whose edge has a directive that no Caddy knows."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv", ".toolchain", ".lab*", "keystore", "__pycache__", ".*_cache"
    )
    shutil.copytree(PROJECT, folder, ignore=ignored, symlinks=True)
    (folder / ".venv").symlink_to(PROJECT / ".venv")
    caddyfile = folder / "server" / "Caddyfile"
    text = caddyfile.read_text(encoding="utf-8")
    caddyfile.write_text(
        text.replace("\tbind 127.0.0.1\n", "\tbind 127.0.0.1\n\tno_such_directive\n"), encoding="utf-8"
    )
    return folder
