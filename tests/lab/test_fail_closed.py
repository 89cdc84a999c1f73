"""Whatever fails on the way, nobody gets in unproven, and the next run recovers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.funnel import LEASE_SECONDS
from lab import Lab
from pki import Keystore, ProbeCredential
from tests.lab.operator import PASSPHRASE, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, OpenConnection, seen
from tests.lab.secrets_walk import found_in, secrets_of
from tests.lab.snapshot import output
from tests.lab.strangers import foreign_credential
from tests.programs.harness import OPEN_FUNNEL
from tests.server.waiting import wait_until
from toolchain.paths import PROJECT

pytestmark = pytest.mark.lab

LEASE = "/var/lib/immich-exposure/lease"
DEVICES = "/var/lib/immich-exposure/devices"
DEAD_PORT = "127.0.0.1:9"
LOST_DEVICES = ("tablet", "watch", "reader")


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator who is taken back to nothing at the end, and leaves no open funnel."""
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


def immich_at_home(lab: Lab) -> str:
    """Return the status of Immich at the server's address in the home network; 000 for none."""
    address = "$(ip -4 -o address show | awk '!/ lo / { sub(/\\/.*/, \"\", $4); print $4; exit }')"
    ask = "curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}'"
    return output(lab, f"{ask} http://{address}:2283/api/server/ping || :")


def test_whoever_never_comes_back_has_immich_at_home_in_the_morning(lab: Lab, operator: Operator) -> None:
    """The power goes in the midst of the first run, and the server rebuilds itself at night."""
    process = operator.start("up")
    swapped = "grep -c immich-exposure /etc/nixos/configuration.nix || :"
    wait_until(lambda: output(lab, swapped) != "0", "the configuration imports the module", 120)
    kill_session(process)
    assert lab.ssh("sudo sh", text=KILL_APPLY).stdout == "killed\n"
    output(lab, "sudo nixos-rebuild switch 2>&1")
    wait_until(lambda: immich_at_home(lab) == "200", "Immich is there at home", 60)
    assert (seen(lab, "/"), funnel(lab)) == (REFUSED, "{}")
    operator.pulumi("cancel", "--yes", "--stack", operator.stack)


def test_a_funnel_that_does_not_open_is_told(lab: Lab, operator: Operator) -> None:
    with tailscale_that_opens_nothing(lab):
        assert "did not open the funnel" in operator.fails()
    assert_closed(lab)


def test_a_check_that_reaches_nobody_it_trusts_closes_the_funnel(
    lab: Lab, operator: Operator, tmp_path: Path
) -> None:
    """The check trusts other roots than those that the server's certificate comes from."""
    sound = operator.settings["check"]
    foreign_credential(tmp_path / "foreign")
    operator.set(check={**sound, "rootsFile": str(tmp_path / "foreign" / "ca.crt")})
    printed = operator.fails()
    assert "does not answer from outside" in printed
    assert "CERTIFICATE_VERIFY_FAILED" in printed
    assert_closed(lab)
    operator.set(check=sound)


def assert_closed(lab: Lab) -> None:
    """Nobody gets in, nothing is served, and no lease would let anybody in again."""
    assert seen(lab, "/") == REFUSED
    assert funnel(lab) == "{}"
    assert output(lab, f"sudo cat {LEASE} 2>&1 || :").endswith("No such file or directory")


def test_the_next_run_opens_it_again(lab: Lab, operator: Operator) -> None:
    operator.devices("phone", "laptop", *LOST_DEVICES)
    operator.up()
    assert seen(lab, "/") == FORBIDDEN
    assert output(lab, f"sudo cat {LEASE}") == "confirmed"


def test_devices_that_somebody_took_out_by_hand_are_let_in_again(lab: Lab, operator: Operator) -> None:
    phone = next(one for one in Keystore(operator.keystore).probe_credentials() if one.name == "phone")
    output(lab, f"sudo sh -c 'rm {DEVICES}/*'")
    assert seen(lab, "/api/server/ping", credential=phone, passphrase=PASSPHRASE) == FORBIDDEN
    assert "is no longer enrolled" in operator.preview("--diff")
    operator.up()
    assert seen(lab, "/api/server/ping", credential=phone, passphrase=PASSPHRASE) == "200"
    assert seen(lab, "/") == FORBIDDEN


def test_when_the_operators_machine_dies_in_an_update_the_lease_is_what_is_left(
    lab: Lab, operator: Operator
) -> None:
    """It was proven and open without an end; what stands behind it now nobody has proven."""
    assert (seen(lab, "/"), output(lab, f"sudo cat {LEASE}")) == (FORBIDDEN, "confirmed")
    edge = "sudo sha256sum /var/lib/immich-exposure/settings/bans.conf"
    before = output(lab, edge)
    sound = operator.settings["check"]
    operator.set(check={**sound, "connectTo": DEAD_PORT}, bans={"maxRetry": 11})
    process = operator.start("up")
    wait_until(lambda: output(lab, edge) != before, "the change has begun", 60)
    lease = output(lab, f"sudo cat {LEASE}").split()
    kill_session(process)
    assert lease[0] == "trial" and 0 < int(lease[1]) <= LEASE_SECONDS
    assert seen(lab, "/") == FORBIDDEN
    assert "immich-exposure-lease-end.timer" in output(lab, "systemctl list-timers --no-pager --plain")
    assert lab.console("immich-exposure status --json").returncode == 2
    # What the timer will find when the time has come, or after a boot.
    output(
        lab,
        f"echo trial 1 another-boot 1 | sudo tee {LEASE}; sudo systemctl start immich-exposure-lease.service",
    )
    assert funnel(lab) == "{}"
    assert "has changed since it was proven" in lab.console("immich-exposure open").stderr
    assert seen(lab, "/") == REFUSED
    operator.pulumi("cancel", "--yes", "--stack", operator.stack)
    operator.set(check=sound)
    operator.up()
    assert seen(lab, "/") == FORBIDDEN
    assert lab.console("immich-exposure status --json").returncode == 0


def test_a_funnel_straight_at_immich_is_closed_within_a_minute(lab: Lab, operator: Operator) -> None:
    """Somebody at the server means well: everybody would see Immich's login page."""
    output(lab, "sudo tailscale funnel reset; sudo tailscale funnel --bg 2283")
    assert seen(lab, "/") == "200"
    assert "Immich itself is public on port 443" in lab.console("immich-exposure status").stdout
    assert lab.console("immich-exposure status --json").returncode == 4
    # As each minute. A run that began before would be waited for, and may have looked already.
    enforce = "sudo systemctl start immich-exposure-lease.service"
    wait_until(lambda: (output(lab, enforce), funnel(lab)) == ("", "{}"), "the funnel is closed", 70)
    assert seen(lab, "/") == REFUSED
    assert "bypassed the edge" in lab.console("immich-exposure status").stdout


def test_a_lease_that_nobody_confirms_ends(lab: Lab, operator: Operator) -> None:
    opened = lab.ssh("sudo sh -s -- 443 8443 3", text=OPEN_FUNNEL)
    assert opened.returncode == 0, opened.stderr
    visitor = OpenConnection(lab)
    assert visitor.status("/api/server/config") == 200
    wait_until(lambda: seen(lab, "/") == REFUSED, "the lease ends", 20)
    wait_until(visitor.is_cut, "who was in is out as well", 20)
    assert funnel(lab) == "{}"


def test_a_lease_outlives_a_reboot_and_a_clock_at_1970(lab: Lab, operator: Operator) -> None:
    """It counts on; what was proven stays."""
    opened = lab.ssh("sudo sh -s -- 443 8443 40", text=OPEN_FUNNEL)
    assert opened.returncode == 0, opened.stderr
    output(lab, "sudo systemctl start immich-exposure-lease.service")  # as each minute
    lab.reboot()
    assert lab.ssh("sudo sh", text=OLD_CLOCK).returncode == 0
    try:
        output(lab, "sudo systemctl start immich-exposure-lease.service")
        kind, left, *_ = output(lab, f"sudo cat {LEASE}").split()
        assert kind == "trial" and 0 < int(left) < 40
        wait_until(lambda: funnel(lab) == "{}", "the lease ends all the same", 90)
    finally:
        output(lab, "sudo mv /usr/bin/date.real /usr/bin/date")
    operator.set(bans={"maxRetry": 12})
    operator.up()
    assert seen(lab, "/") == FORBIDDEN


OLD_CLOCK = """set -e
cp -a /usr/bin/date /usr/bin/date.real
cat >/usr/bin/date.new <<'END'
#!/bin/sh
case "$*" in +%s) echo 20 ;; *) exec /usr/bin/date.real "$@" ;; esac
END
chmod 755 /usr/bin/date.new
mv /usr/bin/date.new /usr/bin/date
"""


def kill_session(process: subprocess.Popen[str]) -> None:
    """Kill the CLI and all that it started, as a power cut on the operator's machine does.

    The engine gives its plugins process groups of their own: one left alive would end the check by itself
    and close the funnel, whenever that may be.
    """
    members = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    for pid in members:
        try:
            if os.getsid(pid) == process.pid:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it has ended
    process.wait()


UNREADABLE = ("\tbind 127.0.0.1\n", "\tbind 127.0.0.1\n\tno_such_directive\n")
"""What a Caddyfile says, and what Caddy does not read instead."""

UNLOADABLE = (
    "admin {$IMMICH_EXPOSURE_ADMIN:unix//run/immich-edge/admin.sock}",
    "admin unix//nowhere/admin.sock",
)
"""What it says, and what is valid instead and cannot be loaded."""

LOST = "{} is revoked: its certificate is never accepted again"

CUT = """
systemd-run --quiet --collect --unit=lab-cut sh -c '
  while grep -qsx {name} {devices}/*; do sleep 0.02; done
  systemctl kill --signal=KILL sshd.service
  systemctl stop sshd.service; sleep 20; systemctl start sshd.service'
"""


@pytest.fixture(scope="module")
def lost(
    lab: Lab, operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ProbeCredential]:
    """Three devices that get in, by copies of their credentials; each is lost in a test of its own."""
    folder = tmp_path_factory.mktemp("lost")
    found = {}
    for name in LOST_DEVICES:
        paths = [
            Path(shutil.copy(operator.keystore / f"devices/{name}.{kind}", folder)) for kind in ("crt", "key")
        ]
        found[name] = ProbeCredential(name, *paths)
        assert sees(lab, found[name]) == "200"
    return found


def sees(lab: Lab, credential: ProbeCredential) -> str:
    """Return what somebody with this credential sees from outside."""
    return seen(lab, "/api/server/ping", credential=credential, passphrase=PASSPHRASE)


def test_an_edge_that_caddy_refuses_is_not_built_and_a_lost_device_is_out_all_the_same(
    lab: Lab, operator: Operator, tmp_path: Path, lost: dict[str, ProbeCredential]
) -> None:
    """Deletes run last, and not at all after a step that failed."""
    before = standing(lab)
    operator.devices("phone", "laptop", "watch", "reader")
    printed = fails_with_another_caddyfile(operator, tmp_path, *UNREADABLE)
    assert "unrecognized directive: no_such_directive" in printed
    assert "The checks before the switch failed, and nothing was changed" in printed
    assert_as_before_and_unproven(lab, before)
    assert LOST.format("tablet") in printed
    assert [sees(lab, lost[name]) for name in ("tablet", "watch")] == [FORBIDDEN, "200"]


def test_an_edge_that_cannot_be_loaded_is_taken_back(lab: Lab, operator: Operator, tmp_path: Path) -> None:
    before = standing(lab)
    printed = fails_with_another_caddyfile(operator, tmp_path, *UNLOADABLE)
    assert "Going back to the previous generation" in printed
    assert re.search(
        r"was rolled back, because these units failed in it: [^\n]*\bimmich-edge\.service", printed
    ), printed
    assert_as_before_and_unproven(lab, before)
    operator.up()
    assert (seen(lab, "/"), output(lab, f"sudo cat {LEASE}")) == (FORBIDDEN, "confirmed")


def fails_with_another_caddyfile(operator: Operator, folder: Path, old: str, new: str) -> str:
    """Run ``pulumi up``, which must fail, in a copy of the project; return what a person then reads."""
    operator.project = project_with_another_caddyfile(folder / "project", old, new)
    try:
        return operator.fails()
    finally:
        operator.project = PROJECT


def assert_as_before_and_unproven(lab: Lab, before: list[str]) -> None:
    """It is open, as before; but nobody has proven it since the change began."""
    wait_until(lambda: standing(lab) == before, f"all is as before: {before}", 60)
    wait_until(lambda: seen(lab, "/") == FORBIDDEN, "the edge of before answers", 60)
    assert output(lab, f"sudo cat {LEASE}").startswith("trial ")


def test_a_lost_device_is_out_although_the_passphrase_is_wrong(
    lab: Lab, operator: Operator, lost: dict[str, ProbeCredential]
) -> None:
    operator.devices("phone", "laptop", "reader")
    operator.set_passphrase("the passphrase of another keystore")
    try:
        printed = operator.fails()
    finally:
        operator.set_passphrase(PASSPHRASE)
    assert LOST.format("watch") in printed and "does not open with this passphrase" in printed
    assert [sees(lab, lost[name]) for name in ("watch", "reader")] == [FORBIDDEN, "200"]


def test_a_lost_device_is_out_although_the_way_to_the_server_is_cut(
    lab: Lab, operator: Operator, lost: dict[str, ProbeCredential]
) -> None:
    """From the moment on that it is out nobody reaches the server any more."""
    operator.devices("phone", "laptop")
    operator.set(bans={"maxRetry": 12})
    assert lab.ssh("sudo sh", text=CUT.format(name="reader", devices=DEVICES)).returncode == 0
    printed = operator.fails()
    assert LOST.format("reader") in printed
    assert "cannot be reached by SSH" in printed or "connection refused" in printed
    assert sees(lab, lost["reader"]) == FORBIDDEN
    wait_until(lambda: lab.ssh("true").returncode == 0, "the server can be reached again", 60)
    operator.up()
    assert [sees(lab, each) for each in lost.values()] == [FORBIDDEN] * 3
    operator.up()
    assert set(operator.changes()) == {"same"}


def test_a_device_that_was_revoked_on_the_server_stays_out(lab: Lab, operator: Operator) -> None:
    assert "phone is revoked" in lab.ssh("sudo immich-exposure revoke phone").stderr
    assert "revoked" in output(lab, "sudo immich-exposure devices | grep phone")
    operator.devices("phone", "laptop", "tablet")
    told = "phone was revoked on the server on "
    assert told in operator.up()
    assert output(lab, f"sudo sh -c 'cat {DEVICES}/*' | grep -v until | sort") == "laptop\ntablet"
    assert told in operator.preview(), "it must not be forgotten"
    operator.devices("laptop")
    operator.up()
    operator.devices("phone", "laptop")
    assert told not in operator.up()
    assert output(lab, f"sudo sh -c 'cat {DEVICES}/*' | grep -v until | sort") == "laptop\nphone"


KILL_APPLY = """
for process in /proc/[0-9]*; do
  if tr '\\0' ' ' <$process/cmdline 2>/dev/null | grep -q '^sh -s -- .*managed '; then
    kill -9 ${process#/proc/} && echo killed
  fi
done
"""


def test_a_run_that_was_killed_on_the_server_is_taken_back_by_the_next(lab: Lab, operator: Operator) -> None:
    """Its change is active, nobody has looked at it, and the timer that takes it back is still waiting."""
    running = "readlink -f /run/current-system"
    before = output(lab, running)
    operator.set(lan="keep", rejectWith="drop")
    process = operator.start("up")
    wait_until(lambda: output(lab, running) != before, "the change is active", 60)
    assert lab.ssh("sudo sh", text=KILL_APPLY).stdout == "killed\n"
    assert process.wait(60) != 0
    timer = "systemctl is-active immich-exposure-rollback.timer || :"
    assert output(lab, timer) == "active"
    assert "An earlier run was killed halfway; going back" in operator.up()
    assert output(lab, timer) == "inactive"


def test_strangers_are_hung_up_on_when_the_owner_says_so(lab: Lab) -> None:
    """The check of the last run has proven it as well, and that a device gets in."""
    assert (seen(lab, "/"), seen(lab, "/api/server/config")) == (REFUSED, "200")


def test_failures_print_and_keep_no_secret(lab: Lab, operator: Operator) -> None:
    secrets = secrets_of(operator)
    assert any("error:" in printed for printed in operator.log)
    assert found_in("\n".join(operator.log), secrets) == []
    assert found_in(operator.export(), secrets) == []


@pytest.fixture(scope="module")
def successor(lab: Lab, operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The next machine of the same person: it has the keystore's backup, and no state."""
    successor = Operator(tmp_path_factory.mktemp("successor"), lab.info(), stack=operator.stack)
    successor.init()
    shutil.copytree(operator.keystore, successor.keystore)
    successor.devices("laptop")
    successor.set(takeOver=True)
    yield successor
    successor.destroy()  # the first stack's own changes nothing on a server that is another's by now


def test_a_lost_phone_is_out_although_the_state_was_lost_as_well(lab: Lab, successor: Operator) -> None:
    """Laptop and phone in one stolen bag."""
    assert output(lab, f"sudo sh -c 'cat {DEVICES}/*' | grep -v until | sort") == "laptop\nphone"
    successor.up()
    assert output(lab, f"sudo sh -c 'cat {DEVICES}/*' | grep -v until") == "laptop"


def test_a_deleted_state_and_a_tailscale_that_is_down_keep_nobody_from_destroying(
    lab: Lab, successor: Operator
) -> None:
    assert seen(lab, "/") == FORBIDDEN
    enforce = "sudo systemctl start immich-exposure-lease.service"
    output(lab, "sudo rm -rf /var/lib/immich-exposure")
    wait_until(lambda: (output(lab, enforce), funnel(lab)) == ("", "{}"), "the funnel is closed", 70)
    assert seen(lab, "/") == REFUSED
    successor.destroy()
    successor.up()
    assert seen(lab, "/") == FORBIDDEN
    output(lab, "sudo systemctl stop tailscaled")
    try:
        successor.destroy()
    finally:
        output(lab, "sudo systemctl start tailscaled")
    wait_until(lambda: funnel(lab) == "{}", "nothing is left to open", 20)
    assert seen(lab, "/") == REFUSED
    assert output(lab, "sudo ls /var/lib/immich-exposure 2>&1 || :").endswith("No such file or directory")


def standing(lab: Lab) -> list[str]:
    """Return what a failed change leaves as it is: running system, the one that boots, services, funnel."""
    looks = (
        "readlink -f /run/current-system",
        "readlink /nix/var/nix/profiles/system",
        "systemctl is-active immich-edge immich-bans immich-exposure-lease.timer",
        "sudo sha256sum /etc/nixos/configuration.nix",
    )
    return [*(output(lab, look) for look in looks), funnel(lab)]


def project_with_another_caddyfile(folder: Path, old: str, new: str) -> Path:
    """Return a copy of the project whose Caddyfile has one text instead of another."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv", ".toolchain", ".lab*", "keystore", "__pycache__", ".*_cache"
    )
    shutil.copytree(PROJECT, folder, ignore=ignored, symlinks=True)
    (folder / ".venv").symlink_to(PROJECT / ".venv")
    caddyfile = folder / "server" / "Caddyfile"
    text = caddyfile.read_text(encoding="utf-8")
    assert old in text
    caddyfile.write_text(text.replace(old, new), encoding="utf-8")
    return folder
