"""The rows of the fault matrix: what happens to an exposure, and what must hold meanwhile and afterwards.

A row starts with nothing or with an exposure, injects one fault, and ends with an ordinary command. Rows in
which a run is killed are generated from the points below; every other row is a function.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from lab import network, places
from tests.faults import guarded
from tests.faults.home import PRIVATE, PUBLIC, RIGHT_CLOCK, STATE, WRONG_CLOCK, YEAR, Fault, Home, send
from tests.lab.impostor import (
    CONTROL,
    PEERS,
    at_the_operators_side,
    cut_off,
    in_the_ingress_place,
    right_taken,
)
from tests.lab.operator import PulumiFailedError
from tests.lab.outside import REFUSED, seen
from tests.lab.whole_server import root, settle
from tests.server.waiting import wait_until

Happening = Callable[[Home], None]


@dataclass(frozen=True)
class Row:
    """One row: its name, what happens in words, and the function that lets it happen.

    ``make test`` plays the ``often`` ones; what is in a story of tests/lab or in another row as well is none.
    One that ``waits`` does little else, for minutes.
    """

    name: str
    happens: str
    play: Happening
    often: bool = False
    waits: bool = False


# ---- runs that are killed ----------------------------------------------------------------------------

FIRST_UP = {
    "preflight": r"Preflight immich-preflight creat",
    "authority": r"CertificateAuthority \S+ creat",
    "state": r"ServerScript immich-state-folder creating",
    "certificate": r"Asking Tailscale for the certificate",
    "files": r"ModuleFiles immich-nixos-files creating",
    "build": r"Building the configuration",
    "activate": r"Activating it as a test",
    "switch": r"Making it the configuration that boots",
    "devices": r"is enrolled",
    "open": r"The funnel on port \d+ is open",
    "check": r"ExposureCheck immich-check creating",
}
UPDATE = {
    "settings": r"The settings of the edge changed",
    "build": r"Building the configuration",
    "activate": r"Activating it as a test",
    "switch": r"Making it the configuration that boots",
    "check": r"ExposureCheck immich-check updating",
}
DESTROY = {
    "check": r"ExposureCheck immich-check delet",
    "close": r"Closing the funnel",
    "devices": r"is no longer enrolled|immich-devices\S* deleting",
    "restore": r"Restoring \S+",
    "build": r"Building the configuration",
    "activate": r"Activating it as a test",
    "switch": r"Making it the configuration that boots",
    "files": r"ServerScript immich-nixos-files-guard deleting",
    "state": r"ServerScript immich-state-folder-guard deleting",
}
DEATHS: dict[str, str] = {
    "operator": "the operator's machine dies",
    "power": "the server loses power and boots again",
}
OFTEN = {
    ("up", "state", "operator", "destroy"),
    ("up", "build", "operator", "destroy"),
    ("up", "activate", "power", "destroy"),
    ("up", "activate", "operator", "up"),
    ("up", "check", "operator", "destroy"),
    ("update", "activate", "operator", "destroy"),
    ("update", "check", "operator", "up"),
    ("update", "settings", "power", "up"),
    ("destroy", "close", "operator", "destroy"),
    ("destroy", "activate", "operator", "up"),
    ("destroy", "files", "operator", "up"),
    ("destroy", "state", "power", "destroy"),
}


def die(home: Home, verb: str, line: str, death: str) -> None:
    process = home.run_until(verb, line)
    if death == "operator":
        home.operator_dies(process)
    else:
        home.power_fails(process)


def end(home: Home, ends: str) -> None:
    """Bring it to an end with one ordinary command, and take everything back."""
    if ends == "up":
        home.up()
        home.need_exposed()
    home.destroy()


def killed_first_up(line: str, death: str, ends: str) -> Happening:
    def play(home: Home) -> None:
        die(home, "up", line, death)
        home.need_closed_or_proven("nothing")
        end(home, ends)

    return play


LITTLE_ROOM = {"freeGigabytes": 1}
"""The lab's disk has less than guests' uploads must leave by default."""


def killed_update(line: str, death: str, ends: str) -> Happening:
    def play(home: Home) -> None:
        home.up()
        proven = home.edge()
        home.operator.set(lan="keep", bans={"maxRetry": 11}, uploads=True, uploadLimits=LITTLE_ROOM)
        die(home, "up", line, death)
        home.need_closed_or_proven(proven)
        end(home, ends)

    return play


def killed_destroy(line: str, death: str, ends: str) -> Happening:
    def play(home: Home) -> None:
        home.up()
        proven = home.edge()
        die(home, "destroy", line, death)
        home.need_closed_or_proven(proven)
        end(home, ends)

    return play


def killed_rows() -> list[Row]:
    """Every point of every run, killed in both ways, ended by both commands."""
    kinds = (
        ("up", "the first up", FIRST_UP, killed_first_up),
        ("update", "an update that rebuilds", UPDATE, killed_update),
        ("destroy", "destroy", DESTROY, killed_destroy),
    )
    return [
        Row(
            f"{kind}-{point}-{death}-{ends}",
            f"{DEATHS[death]} in {words} at {point!r}; then {ends}",
            make(line, death, ends),
            (kind, point, death, ends) in OFTEN,
        )
        for kind, words, points, make in kinds
        for (point, line), death, ends in product(points.items(), DEATHS, ("up", "destroy"))
    ]


# ---- what happens to an exposure that stands ---------------------------------------------------------

STANDING: list[Row] = []


def standing(
    name: str, happens: str, *, often: bool = False, waits: bool = False
) -> Callable[[Happening], Happening]:
    """Add a row that begins with an exposure."""

    def add(function: Happening) -> Happening:
        def play(home: Home) -> None:
            home.up()
            function(home)

        STANDING.append(Row(name, happens, play, often, waits))
        return function

    return add


@standing("reboot", "the server is rebooted")
def reboot(home: Home) -> None:
    home.lab.reboot()
    settle(home.lab)
    home.need_exposed()
    home.destroy()


@standing("power", "the server loses power and boots again")
def power(home: Home) -> None:
    home.lab.power_off()
    home.need_closed()
    home.power_returns()
    home.need_exposed()
    home.destroy()


@standing("tailscaled-killed", "tailscaled is killed")
def tailscaled_killed(home: Home) -> None:
    home.sh("kill -9 $(systemctl show tailscaled --property=MainPID --value)")
    home.need_exposed()
    home.destroy()


@standing("tailscaled-hangs", "tailscaled stops responding; destroy, after which it runs as before")
def tailscaled_hangs(home: Home) -> None:
    home.sh("systemctl kill --signal=STOP tailscaled")
    home.destroy()


@standing("edge-killed", "the edge is killed")
def edge_killed(home: Home) -> None:
    home.sh("systemctl kill --signal=KILL immich-edge")
    home.need_exposed()
    home.destroy()


@standing("edge-stopped", "the edge is stopped; up starts it")
def edge_stopped(home: Home) -> None:
    home.sh("systemctl stop immich-edge")
    home.up()
    home.need_exposed()
    home.destroy()


@standing(
    "edge-hangs",
    "the edge stops responding; status says so, and up restarts it, also one that changes a setting",
)
def edge_hangs(home: Home) -> None:
    for changes in ({}, {"rateLimits": {"requests": 2000}}):
        home.sh("systemctl kill --signal=STOP immich-edge")
        need_problem(home, "does not respond")
        home.operator.set(**changes)
        home.up()
        home.need_exposed()
    home.destroy()


def need_problem(home: Home, words: str) -> None:
    """Raise ``Fault`` unless status tells people and monitors of this problem."""
    monitored = home.lab.console("immich-exposure status --json")
    if monitored.returncode != 4 or words not in monitored.stdout:
        raise Fault(f"a monitor is told {monitored.returncode}: {monitored.stdout}")
    if "PROBLEM" not in (said := home.sh("immich-exposure status")):
        raise Fault(f"status names no problem:\n{said}")


@standing("log-full", "the disk of the edge's log is full; status says so until there is room again")
def log_full(home: Home) -> None:
    home.sh(f"mount -t tmpfs -o size=64k tmpfs {LOGS}; head -c 1M /dev/zero >{LOGS}/filler || :")
    need_problem(home, "is full")
    home.sh(f"umount {LOGS}")
    home.sh("immich-exposure status --json")
    home.need_exposed()
    home.destroy()


@standing("bans-stopped", "the ban service is stopped; up starts it")
def bans_stopped(home: Home) -> None:
    start_bans(home)
    home.destroy()


def start_bans(home: Home) -> None:
    home.sh("systemctl stop immich-bans")
    home.up()
    home.need_exposed()


@standing(
    "ban-folder-lost",
    "a ban folder is deleted, so the edge refuses every stranger; up recreates it, and scanners are banned",
)
def ban_folder_lost(home: Home) -> None:
    home.sh(f"rm -r {STATE}/bans/scan")
    home.up()
    home.need_exposed()
    need_bans(home)
    home.destroy()


LOGS = "/var/log/immich-edge"
CONTROL_FOLDER = "/etc/systemd/system.control"


@standing("bans-masked", "the service of the bans is masked by hand; up unmasks and starts it")
def bans_masked(home: Home) -> None:
    mask = f"{CONTROL_FOLDER}/immich-bans.service"
    home.sh(f"mkdir -p {CONTROL_FOLDER}; ln -s /dev/null {mask}; systemctl daemon-reload")
    home.sh("systemctl stop immich-bans; ! systemctl start immich-bans")
    home.up()
    home.need_exposed()
    home.sh(f"rmdir {CONTROL_FOLDER}")
    home.destroy()


@standing("locked-drive", "Immich cannot start (its drive is locked); destroy", often=True)
def locked_drive(home: Home) -> None:
    home.sh("systemctl stop immich-server; systemctl mask --runtime immich-server")
    home.operator.destroy()
    home.sh("systemctl unmask --runtime immich-server; systemctl start immich-server")
    wait_until(
        lambda: root(home.lab, "curl -s http://127.0.0.1:2283/api/server/ping").find("pong") > 0, "Immich", 60
    )
    home.need_as_before()


@standing("funnel-off-by-hand", "somebody switches the funnel off with Tailscale's own command; up opens it")
def funnel_off(home: Home) -> None:
    open_funnel(home)
    home.destroy()


def open_funnel(home: Home) -> None:
    home.sh("tailscale funnel reset")
    home.need_closed()
    home.up()
    home.need_exposed()


@standing(
    "closed-by-hand",
    "immich-exposure close; an up that changes something leaves the funnel closed; open lets it up",
)
def closed_by_hand(home: Home) -> None:
    home.sh("immich-exposure close")
    home.need_closed()
    home.operator.set(bans={"maxRetry": 11})
    try:
        home.up()
    except PulumiFailedError as refused:
        if "immich-exposure open" not in str(refused):
            raise
    home.need_closed()
    home.lab.console("immich-exposure open")  # it does not open what has changed, but lets the next up
    home.up()
    home.need_exposed()
    home.destroy()


@standing("close-during-up", "immich-exposure close while an up runs; the funnel stays closed", often=True)
def close_during_up(home: Home) -> None:
    home.operator.set(lan="keep", bans={"maxRetry": 11})
    process = home.run_until("up", r"Activating it as a test")
    home.sh("immich-exposure close")
    process.communicate(timeout=120)
    home.need_closed()
    home.destroy()


@standing(
    "funnel-at-immich", "somebody points our funnel port straight at Immich; destroy closes it", often=True
)
def funnel_at_immich(home: Home) -> None:
    home.sh("tailscale funnel reset; tailscale funnel --bg --yes --tcp 443 tcp://127.0.0.1:2283")
    home.operator.destroy()
    home.need_as_before()


@standing(
    "funnel-at-our-name",
    "somebody points our funnel port at Immich by the server's own name: it is closed within a minute; up",
)
def funnel_at_our_name(home: Home) -> None:
    home.sh("tailscale funnel reset; tailscale funnel --bg --yes --tcp 443 tcp://$(uname -n):2283")
    home.sh("systemctl start immich-exposure-lease.service")
    home.need_closed()
    home.up()
    home.need_exposed()
    home.destroy()


@standing("device-by-hand", "somebody adds a device file by hand; up removes it")
def device_by_hand(home: Home) -> None:
    take_device_out(home)
    home.destroy()


def take_device_out(home: Home) -> None:
    home.sh(f"echo friend >{STATE}/devices/{'ab' * 32}")
    home.up()
    if root(home.lab, f"ls {STATE}/devices").find("abab") >= 0:
        raise Fault("a device that nobody enrolled stays in")
    home.need_exposed()


@standing("device-file-lost", "a device's file is lost; up restores it")
def device_lost(home: Home) -> None:
    home.sh(f"rm {STATE}/devices/*")
    home.up()
    home.need_exposed()
    home.destroy()


@standing(
    "clock-ahead",
    "the server's clock is twenty years ahead, so every device expires, and then it is right again; up "
    "enrols them",
)
def clock_ahead(home: Home) -> None:
    home.sh(WRONG_CLOCK.format(seconds=int(time.time()) + 20 * YEAR))
    home.sh("systemctl start immich-exposure-devices.service")
    home.operator.set(bans={"maxRetry": 11})
    if not home.try_up():
        raise Fault("an up was not refused though the server's clock was wrong by years")
    home.sh(RIGHT_CLOCK)
    home.up()
    home.need_exposed()
    home.destroy()


@standing("state-deleted-up", "/var/lib/immich-exposure is deleted; up recreates it")
def state_deleted_up(home: Home) -> None:
    make_state_anew(home)
    home.destroy()


@standing(
    "state-deleted-changed",
    "/var/lib/immich-exposure is deleted; up with uploads, before which the server is looked at again",
)
def state_deleted_changed(home: Home) -> None:
    home.sh(f"rm -rf {STATE}")
    home.operator.set(uploads=True, uploadLimits=LITTLE_ROOM)
    home.up()
    home.need_exposed()
    home.destroy()


def make_state_anew(home: Home) -> None:
    home.sh(f"rm -rf {STATE}")
    home.up()
    home.need_exposed()
    need_bans(home)


@standing(
    "by-hand-in-turn",
    "on one exposure, the events of bans-stopped, funnel-off-by-hand, device-by-hand and "
    "state-deleted-up, one after the other; each time up fixes it",
    often=True,
)
def by_hand_in_turn(home: Home) -> None:
    for happens in (start_bans, open_funnel, take_device_out, make_state_anew):
        happens(home)
    home.destroy()


@standing("state-emptied-up", "everything in /var/lib/immich-exposure is deleted; up recreates it")
def state_emptied_up(home: Home) -> None:
    home.sh(f"rm -rf {STATE}/*")
    home.up()
    home.need_exposed()
    need_bans(home)
    home.destroy()


@standing("state-wiped-at-boot", "/var/lib/immich-exposure does not survive a reboot; up recreates it")
def state_wiped_at_boot(home: Home) -> None:
    home.sh(f"rm -rf {STATE}")
    home.lab.reboot()
    settle(home.lab)
    home.need_closed()
    home.up()
    home.need_exposed()
    need_bans(home)
    home.destroy()


@standing(
    "state-deleted-revoked",
    "a phone is revoked on the server, an up sees it, and then /var/lib/immich-exposure is deleted; "
    "up keeps the phone out",
)
def state_deleted_revoked(home: Home) -> None:
    phone = home.credential("phone")
    home.sh("immich-exposure revoke phone")
    home.up()
    home.sh(f"rm -rf {STATE}")
    home.up()
    home.need_exposed("laptop")
    home.need_out(phone)
    home.destroy()


@standing(
    "revoked-without-room",
    "a phone is revoked on the server while nothing can be added to the list of the revoked; up keeps the "
    "phone out",
)
def revoked_without_room(home: Home) -> None:
    phone = home.credential("phone")
    home.sh(f"mount -t tmpfs -o nr_inodes=1 tmpfs {STATE}/revoked")
    home.sh("immich-exposure revoke phone")
    home.sh(f"umount {STATE}/revoked")
    home.up()
    home.need_exposed("laptop")
    home.need_out(phone)
    home.destroy()


@standing(
    "server-set-back",
    "/var/lib/immich-exposure is restored from a backup made before one phone was lost and another "
    "was added; up revokes the first and enrols the second",
)
def server_set_back(home: Home) -> None:
    backup = "/var/cache/before.tar"
    lost = home.credential("phone")
    home.sh(f"tar -C {STATE} -cpf {backup} .")
    home.operator.devices("laptop", "tablet")
    home.up()
    home.sh(f"find {STATE} -mindepth 1 -delete; tar -C {STATE} -xpf {backup}; rm {backup}")
    home.up()
    home.need_out(lost)
    home.need_exposed("tablet")
    home.destroy()


@standing(
    "pulumi-state-set-back",
    "the Pulumi state is restored from a backup made before a phone was added, which is now lost and "
    "in no config; up revokes it",
)
def pulumi_state_set_back(home: Home) -> None:
    backend = home.operator.folder / "backend"
    before = shutil.copytree(backend, backend.with_name("backend.before"))
    home.operator.devices("phone", "laptop", "tablet")
    home.up()
    lost = home.credential("tablet")
    shutil.rmtree(backend)
    before.rename(backend)
    home.operator.devices("phone", "laptop")
    home.up()
    home.need_out(lost)
    home.need_exposed()
    home.destroy()


@standing(
    "another-copy-of-the-state",
    "somebody with another copy of the Pulumi state allows uploads by visitors; up with the first, "
    "unchanged copy reverts that",
)
def another_copy_of_the_state(home: Home) -> None:
    backend = home.operator.folder / "backend"
    mine = shutil.copytree(backend, backend.with_name("backend.mine"))
    home.operator.set(uploads=True, uploadLimits=LITTLE_ROOM)
    home.up()
    shutil.rmtree(backend)
    mine.rename(backend)
    home.operator.set(uploads=None, uploadLimits=None)
    home.up()
    if (
        uploads := root(home.lab, f"grep UPLOADS= {STATE}/settings/edge.env")
    ) != "IMMICH_EXPOSURE_UPLOADS=off":
        raise Fault(f"the server still has {uploads}")
    home.need_exposed()
    home.destroy()


def need_bans(home: Home) -> None:
    """Raise ``HarnessError`` unless whoever asks for what only a scanner asks for is banned."""
    scanner = "203.0.113.77"
    for number in range(12):
        seen(home.lab, f"/backup-{number}.zip", source=scanner)
    wait_until(lambda: seen(home.lab, PUBLIC, source=scanner) != "200", "a scanner is banned", 20)
    home.sh(f"immich-exposure unban {scanner}")


@standing("state-deleted-destroy", "/var/lib/immich-exposure is deleted; destroy")
def state_deleted_destroy(home: Home) -> None:
    home.sh(f"rm -rf {STATE}")
    home.operator.destroy()
    need_nothing_of_ours(home)


@standing(
    "state-deleted-destroy-cut",
    "/var/lib/immich-exposure is deleted, and in destroy the server loses its power while it builds; destroy",
)
def state_deleted_destroy_cut(home: Home) -> None:
    home.sh(f"rm -rf {STATE}")
    die(home, "destroy", DESTROY["build"], "power")
    home.operator.destroy()
    need_nothing_of_ours(home)


def need_nothing_of_ours(home: Home) -> None:
    """Raise ``Fault`` unless it is closed and gone; what stood there before, nobody knows any more."""
    home.need_closed()
    if left := root(
        home.lab,
        "ls -d /etc/nixos/immich-exposure /run/current-system/sw/bin/immich-exposure 2>/dev/null || :",
    ):
        raise Fault(f"left behind: {left}")


@standing("settings-edited", "somebody edits the edge's settings on the server; up restores them")
def settings_edited(home: Home) -> None:
    before = home.edge()
    home.sh(f"sed -i s/3000/9000/ {STATE}/settings/edge.env; systemctl reload immich-edge")
    home.up()
    if home.edge() != before:
        raise Fault("the edited settings stay")
    home.need_exposed()
    home.destroy()


@standing("key-mode", "the key of the server's certificate becomes world-readable; up fixes its mode")
def key_mode(home: Home) -> None:
    home.sh(f"chmod 0644 {STATE}/tls/server.key")
    home.up()
    if (mode := root(home.lab, f"stat -c %a {STATE}/tls/server.key")) != "640":
        raise Fault(f"the key's mode is {mode}")
    home.destroy()


@standing("import-removed-up", "the owner removes our import and rebuilds; up adds it again")
def import_removed_up(home: Home) -> None:
    take_import_out(home)
    home.up()
    home.need_exposed()
    home.destroy()


@standing("import-removed-destroy", "the owner removes our import and rebuilds; destroy")
def import_removed_destroy(home: Home) -> None:
    take_import_out(home)
    home.operator.destroy()
    home.need_closed()


def take_import_out(home: Home) -> None:
    home.sh("sed -i s,./immich-exposure,./lan-immich.nix, /etc/nixos/configuration.nix; nixos-rebuild switch")


SLOW = "/usr/local/sbin/nixos-rebuild"
REALLY = "/usr/local/bin/nixos-rebuild"
SLOW_BUILD = f"""mkdir -p {SLOW.rpartition("/")[0]}; cat >{SLOW} <<'END'
#!/bin/sh
status=0; {REALLY} "$@" || status=$?
case $1 in build) touch /run/built; until [ -e /run/go-on ]; do sleep 0.2; done ;; esac
exit $status
END
chmod 755 {SLOW}"""
ANOTHER_GROUP = "  users.groups.mine = { };"


@standing(
    "rebuilt-meanwhile",
    "the owner edits configuration.nix and rebuilds while an up is building: the owner's system stays",
)
def rebuilt_meanwhile(home: Home) -> None:
    home.operator.set(lan="keep")
    home.sh(SLOW_BUILD)
    process = home.run_until("up", r"Building the configuration")
    wait_until(lambda: home.lab.console("test -e /run/built").returncode == 0, "it is built", 60)
    configuration = "/etc/nixos/configuration.nix"
    home.sh(f"sed -i 's/^}}/{ANOTHER_GROUP}\\n}}/' {configuration}; {REALLY} switch; touch /run/go-on")
    process.communicate(timeout=120)
    if not root(home.lab, "getent group mine"):
        raise Fault("what the owner switched to meanwhile was taken back")
    home.need_exposed()
    home.sh(
        f"rm {SLOW} /run/built /run/go-on; sed -i '/users.groups.mine/d' {configuration}; {REALLY} switch"
    )
    home.destroy()


@standing(
    "module-folder-deleted",
    "our module's folder is deleted and our import reverted (git clean, git checkout); up restores both",
)
def module_folder_deleted(home: Home) -> None:
    home.sh("rm -rf /etc/nixos/immich-exposure")
    home.up()
    home.need_exposed()
    home.sh("rm -rf /etc/nixos/immich-exposure")
    home.sh(f"cat {STATE}/configuration.nix.before >/etc/nixos/configuration.nix")
    home.up()
    home.need_exposed()
    home.sh("rm -rf /etc/nixos/immich-exposure")
    home.destroy()


@standing(
    "some-steps-alone",
    "an up --target changes the edge's settings and proves nothing: the funnel is on a short lease; "
    "up proves it",
)
def some_steps_alone(home: Home) -> None:
    home.operator.set(rateLimits={"requests": 2000})
    [settings] = [step.urn for step in home.operator.planned() if step.name == "immich-settings"]
    home.operator.up(f"--target={settings}")
    if home.lease() == "confirmed":
        raise Fault("the funnel is not on a lease")
    home.up()
    home.need_exposed()
    home.destroy()


@standing(
    "unproven-update",
    "the operator's machine dies while an update is being checked: the funnel closes on its own",
)
def unproven_update(home: Home) -> None:
    home.operator.set(
        check={**home.operator.settings["check"], "connectTo": "127.0.0.1:9"}, bans={"maxRetry": 11}
    )
    home.operator_dies(home.run_until("up", r"ExposureCheck immich-check updating"))
    if home.lease() == "confirmed":
        raise Fault("the funnel is not on a lease")


@standing(
    "lease-timer-stopped",
    "the operator's machine dies while an update is being checked, and somebody stops both timers that end "
    "the lease, and masks one: the guard starts it again, and ends the lease where it cannot",
)
def lease_timer_stopped(home: Home) -> None:
    check = home.operator.settings["check"]
    unproven_update(home)
    timers = "immich-exposure-lease.timer immich-exposure-lease-end.timer"
    home.sh(f"systemctl stop {timers}")
    home.sh(f"systemctl start {guarded.UNIT}; systemctl is-active immich-exposure-lease.timer")
    home.sh(f"mkdir -p {CONTROL_FOLDER}; ln -s /dev/null {CONTROL_FOLDER}/immich-exposure-lease.timer")
    home.sh(f"systemctl daemon-reload; systemctl stop {timers} || :; systemctl start {guarded.UNIT}")
    if home.lease() != "trial" or seen(home.lab, PRIVATE) == REFUSED:
        raise Fault("the guard ended a lease that had not expired")
    home.sh(f"sed -i 's/^trial [0-9]*/trial 1/' {STATE}/lease; sleep 2; systemctl start {guarded.UNIT}")
    home.need_closed()
    home.operator.set(check=check)
    home.up()
    home.need_exposed()
    home.sh(f"rmdir {CONTROL_FOLDER}")
    home.destroy()


@standing(
    "changed-while-proven",
    "the operator's laptop sleeps while an update is being checked, and somebody edits the edge's settings: "
    "that check proves nothing; up restores and proves them",
)
def changed_while_proven(home: Home) -> None:
    home.operator.set(bans={"maxRetry": 11})
    process = home.run_until("up", r"its lease is another one now|is open for at most")
    send(process, signal.SIGSTOP)
    home.sh(f"sed -i s/3000/9000/ {STATE}/settings/edge.env; systemctl reload immich-edge")
    send(process, signal.SIGCONT)
    process.communicate(timeout=120)
    if home.lease() == "confirmed":
        raise Fault("what was changed while it was being proven is confirmed")
    home.up()
    home.need_exposed()
    home.destroy()


@standing(
    "read-only-close", "the disk becomes read-only; immich-exposure close closes the funnel", often=True
)
def read_only_close(home: Home) -> None:
    home.sh(f"mount --bind {STATE} {STATE}; mount -o remount,ro,bind {STATE}")
    home.lab.console("immich-exposure close")
    home.need_closed()
    home.sh(f"umount {STATE}")
    home.destroy()


@standing(
    "read-only-revoke",
    "the disk becomes read-only, and a phone is taken out of the config: the edge stays stopped whatever "
    "the guard sees; up revokes the phone once the disk is writable",
)
def read_only_revoke(home: Home) -> None:
    network.lead_to_public_resolvers(there=True)
    lost = home.credential("phone")
    home.sh(f"touch -d '-1 hour' {STATE}/funnel")
    home.sh(f"mount --bind {STATE} {STATE}; mount -o remount,ro,bind {STATE}")
    home.operator.devices("laptop")
    home.operator.fails()
    home.lab.console("immich-exposure guard")
    home.need_out(lost)
    home.sh(f"umount {STATE}")
    home.up()
    home.need_exposed("laptop")
    home.need_out(lost)
    home.destroy()


@standing(
    "read-only-revoke-reboot",
    "the disk becomes read-only, and a phone is taken out of the config; the server is rebooted, and its "
    "disk is writable again: the funnel stays closed until up has revoked the phone",
)
def read_only_revoke_reboot(home: Home) -> None:
    lost = home.credential("phone")
    home.sh(f"mount --bind {STATE} {STATE}; mount -o remount,ro,bind {STATE}")
    home.operator.devices("laptop")
    if "also after a reboot" not in (said := home.operator.fails()):
        raise Fault(f"nothing is said of a reboot:\n{said}")
    home.lab.reboot()
    settle(home.lab)
    home.sh(f"systemctl start {guarded.UNIT}; touch {STATE}/writable && rm {STATE}/writable")
    home.need_out(lost)
    home.need_closed()
    home.up()
    home.need_exposed("laptop")
    home.need_out(lost)
    home.destroy()


@standing(
    "read-only-revoke-starting",
    "the disk becomes read-only, and a phone is taken out of the config while tailscaled, after a restart, "
    "does not reach its control server: the run says that a reboot lets the phone in again; up revokes it",
)
def read_only_revoke_starting(home: Home) -> None:
    lost = home.credential("phone")
    home.sh(f"mount --bind {STATE} {STATE}; mount -o remount,ro,bind {STATE}")
    home.operator.devices("laptop")
    with cut_off(CONTROL):
        home.sh("systemctl restart tailscaled")
        said = home.operator.fails()
    if "until this server reboots" not in " ".join(said.split()):
        raise Fault(f"nothing is said of a reboot:\n{said}")
    home.need_out(lost)
    home.sh(f"umount {STATE}")
    home.up()
    home.need_exposed("laptop")
    home.need_out(lost)
    home.destroy()


@standing(
    "read-only-destroy",
    "the disk becomes read-only; destroy closes the funnel, and finishes once the disk is writable",
)
def read_only_destroy(home: Home) -> None:
    home.sh(f"mount --bind {STATE} {STATE}; mount -o remount,ro,bind {STATE}")
    home.operator.pulumi(*destroy_command(home), ok=range(256))
    home.need_closed()
    home.sh(f"umount {STATE}")
    home.destroy()


def destroy_command(home: Home) -> tuple[str, ...]:
    return ("destroy", "--yes", "--skip-preview", *home.operator._config_file())


@standing("full-run-close", "/run is full; immich-exposure close closes the funnel")
def full_run_close(home: Home) -> None:
    home.sh("head -c 1G /dev/zero >/run/filler 2>/dev/null || :; mount -o remount,size=1k /run || :")
    home.lab.console("immich-exposure close")
    home.need_closed()
    home.sh("rm -f /run/filler; mount -o remount,size=50% /run")
    home.destroy()


# ---- between the home and the internet: what only the guard sees ---------------------------------------
#
# Those that end within a look or two are tests/lab/test_guard.py's.


@standing("guard-stalled", "the ingress accepts connections and never answers; the guard sends one notice")
def guard_stalled(home: Home) -> None:
    guarded.dead_and_healed(home, in_the_ingress_place("silent"))


@standing("guard-no-node", "the ingress cannot reach the node; the guard sends one notice")
def guard_no_node(home: Home) -> None:
    guarded.dead_and_healed(home, cut_off(PEERS))


@standing(
    "guard-no-right",
    "the node loses its permission to use Funnel; the guard sends one notice, and opens again once "
    "the permission is back",
)
def guard_no_right(home: Home) -> None:
    """What the guard takes off to heal cannot be put on again meanwhile."""
    guarded.be_told(home)
    with right_taken():
        guarded.dead_and_told(home)
    guarded.sees(home, "healthy")
    guarded.healthy_again(home)


@standing(
    "guard-control-restart",
    "tailscaled restarts while Tailscale's control server is down; the guard sends one notice",
)
def guard_control_restart(home: Home) -> None:
    guarded.be_told(home)
    with cut_off(CONTROL):
        home.sh("systemctl restart tailscaled")
        guarded.dead_and_told(home)
    guarded.healthy_again(home)


# ---- the node's name -----------------------------------------------------------------------------------

LOG_IN = (
    f"--login-server=http://{places.INTERNET_ADDRESS}:29080 --auth-key=tskey-auth-lab --accept-dns=false "
    "--timeout=30s"
)


def rename(home: Home, name: str, label: str) -> None:
    """Rename the node in the console of the lab's control server, and wait until the server knows."""
    domain = home.lab.domain.partition(".")[2]
    home.lab.internet("/rename", name=f"{name}.{domain}", to=label)
    wait_until_called(home, label)


def wait_until_called(home: Home, label: str) -> None:
    words = "tailscale status --json --peers=false | tr -d ' \\n'"
    wait_until(lambda: f'"CertDomains":["{label}.' in root(home.lab, words), f"it is called {label}", 60)


def log_in_elsewhere(home: Home) -> str:
    """Log the server into another account as photos; returns the id by which the first is switched to."""
    home.lab.internet("/accounts", same="0")
    first = home.sh("tailscale switch --list | awk '/[*]$/ { print $1 }'")
    home.sh(f"tailscale login {LOG_IN} --hostname=photos")
    wait_until_called(home, "photos")
    return first


def need_told_of_new_name(home: Home) -> None:
    """Raise ``Fault`` unless the guard tells once, heals nothing, and status has the sentence."""
    for _ in range(2):
        guarded.sees(home, "dead")
    guarded.need_told_once(home, "dead")
    home.need_closed()
    if "name has changed from" not in (said := home.sh("immich-exposure status")):
        raise Fault(f"status does not know the new name:\n{said}")


def back_under_the_old_name(home: Home) -> None:
    home.up()
    home.need_exposed()
    guarded.take_back(home)


@standing(
    "node-renamed",
    "the node is renamed in Tailscale's console; the guard sends one notice and opens nothing under the new "
    "name; up exposes and proves it there, and under the old one once it is back",
)
def node_renamed(home: Home) -> None:
    guarded.be_told(home)
    rename(home, "immich", "photos")
    need_told_of_new_name(home)
    home.up()
    home.sh("immich-exposure status --json")
    rename(home, "photos", "immich")
    back_under_the_old_name(home)


@standing(
    "another-at-our-address",
    "public DNS gives somebody else's address while an update is checked; that up fails and closes the "
    "funnel, and the next one proves it",
)
def another_at_our_address(home: Home) -> None:
    check = home.operator.settings["check"]
    with at_the_operators_side("another") as address:
        home.operator.set(check={**check, "connectTo": address}, bans={"maxRetry": 11})
        said = home.operator.fails()
    if "does not answer from outside (SSLCertVerificationError" not in said:
        raise Fault(f"up does not say that it met another certificate:\n{said}")
    home.need_closed()
    home.operator.set(check=check)
    home.up()
    home.need_exposed()
    home.destroy()


@standing("node-renamed-destroy", "the node is renamed in Tailscale's console; destroy")
def node_renamed_destroy(home: Home) -> None:
    rename(home, "immich", "photos")
    home.operator.destroy()
    rename(home, "photos", "immich")
    home.need_as_before()


@standing(
    "node-renamed-shared-destroy",
    "the node, which also serves something else, is renamed in Tailscale's console; destroy leaves that "
    "alone and says what of the former name it cannot remove",
)
def node_renamed_shared_destroy(home: Home) -> None:
    home.sh("tailscale serve --bg --https=10000 http://127.0.0.1:8123")
    rename(home, "immich", "photos")
    said = home.operator.destroy()
    if "under this server's former name" not in " ".join(said.split()):
        raise Fault(f"destroy says nothing of the former name:\n{said}")
    if "127.0.0.1:8123" not in home.sh("tailscale serve status --json"):
        raise Fault("what else was served is gone")
    home.sh("tailscale funnel reset")
    rename(home, "photos", "immich")
    home.need_as_before()


@standing(
    "another-account",
    "somebody logs the server into another account of Tailscale's, under another name; the guard sends one "
    "notice; up exposes and proves it there, and in the first account once the server is back in it",
)
def another_account(home: Home) -> None:
    guarded.be_told(home)
    first = log_in_elsewhere(home)
    need_told_of_new_name(home)
    home.up()
    home.sh("immich-exposure status --json")
    home.sh(f"tailscale switch {first}")
    wait_until_called(home, "immich")
    back_under_the_old_name(home)


@standing(
    "another-account-destroy",
    "somebody logs the server into another account of Tailscale's, under another name; destroy says how the "
    "funnel's entry in the first one is removed",
)
def another_account_destroy(home: Home) -> None:
    first = log_in_elsewhere(home)
    said = home.operator.destroy()
    if f"sudo tailscale switch {first}" not in said:
        raise Fault(f"destroy says nothing of the first account:\n{said}")
    home.sh(f"tailscale switch {first}")
    wait_until_called(home, "immich")
    home.sh("tailscale funnel reset")
    home.need_as_before()


# ---- devices that are lost ---------------------------------------------------------------------------
#
# By day tests/lab/test_fail_closed.py's: in one lab, with three more devices.


@standing(
    "revoke-failing-rebuild",
    "a phone is taken out of the config, and the rebuild in the same up fails: the phone is revoked "
    "all the same",
)
def revoke_failing_rebuild(home: Home) -> None:
    lost = home.credential("phone")
    home.sh("sed -i 's/^}/  services.nonsense = 1;\\n}/' /etc/nixos/configuration.nix")
    home.operator.devices("laptop")
    home.operator.set(lan="keep")
    home.operator.fails()
    home.need_out(lost)


@standing(
    "revoke-wrong-passphrase",
    "a phone is taken out of the config, and the keystore passphrase is wrong: the phone is revoked "
    "all the same",
)
def revoke_wrong_passphrase(home: Home) -> None:
    lost = home.credential("phone")
    home.operator.devices("laptop")
    home.operator.set_passphrase("not the passphrase at all")
    home.operator.fails()
    home.operator.set_passphrase("correct horse battery staple")
    home.need_out(lost)


@standing(
    "revoke-killed",
    "a phone is taken out of the config, and the run is killed as soon as it reports that: the phone "
    "is revoked",
)
def revoke_killed(home: Home) -> None:
    lost = home.credential("phone")
    home.operator.devices("laptop")
    home.operator_dies(home.run_until("up", r"is no longer enrolled|is revoked"))
    home.need_out(lost)
    home.up()
    home.need_exposed("laptop")
    home.destroy()


@standing(
    "state-lost",
    "the Pulumi state is lost but the keystore is not: up with takeOver takes over, and destroy succeeds",
)
def state_lost(home: Home) -> None:
    home.operator.pulumi(
        "stack", "rm", "--force", "--yes", "--preserve-config", "--stack", home.operator.stack
    )
    home.operator.pulumi("stack", "init", "--stack", home.operator.stack)
    home.operator.set_passphrase("correct horse battery staple")
    if "takeOver: true" not in (said := home.operator.fails()):
        raise Fault(f"an up without the state was not told how to take over:\n{said}")
    home.operator.set(takeOver=True)
    home.up()
    home.need_exposed()
    home.destroy()


@standing(
    "state-resources-deleted",
    "somebody deletes the exposure and all its resources from Pulumi's state: destroy says so and fails; up "
    "brings them back, and destroy ends",
)
def state_resources_deleted(home: Home) -> None:
    resources = json.loads(home.operator.export())["deployment"]["resources"]
    [exposure] = [each["urn"] for each in resources if each["urn"].endswith("ImmichExposure::immich")]
    home.operator.pulumi(
        "state", "delete", exposure, "--target-dependents", "--yes", "--stack", home.operator.stack
    )
    try:
        home.operator.destroy()
    except PulumiFailedError as refused:
        if "run pulumi up, which restores that" not in str(refused):
            raise
    else:
        raise Fault("destroy said nothing of an exposure that the state has lost")
    home.up()
    home.need_exposed()
    home.destroy()


@standing(
    "state-all-deleted",
    "everything is deleted from Pulumi's state: up with takeOver takes over, and destroy ends",
)
def state_all_deleted(home: Home) -> None:
    home.operator.pulumi("state", "delete", "--all", "--yes", "--stack", home.operator.stack)
    home.operator.set(takeOver=True)
    home.up()
    home.need_exposed()
    home.destroy()


def all_rows() -> list[Row]:
    """The whole matrix."""
    return [*killed_rows(), *STANDING]
