"""What the guard sees of a fault between the home and the internet, and what the owner is notified of."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from lab import network
from tests.faults.home import PUBLIC, STATE, Fault, Home
from tests.lab.outside import seen
from tests.server.waiting import wait_until

TOLD = "/run/told"
CHANNEL = "/usr/local/bin/tell-me"
TELL_ME = f'#!/bin/sh\necho "$1" >>{TOLD}\n'
UNIT = "immich-exposure-guard.service"

LOOK_SECONDS = 300
"""The next look is due then. Where each stranger is kept waiting, one that heals takes about 100."""


def be_told(home: Home) -> None:
    """Let the guard's notices go to a file, and the funnel be one that opened an hour ago."""
    network.lead_to_public_resolvers(there=True)
    home.sh(f"systemctl stop immich-exposure-guard.timer; mkdir -p {CHANNEL.rpartition('/')[0]}")
    home.lab.console(f"cat >{CHANNEL}; chmod 755 {CHANNEL}", text=TELL_ME)
    home.operator.set(notify={"kind": "command", "command": CHANNEL})
    home.up()
    # The looks of this row are those that it begins.
    home.sh(f"systemctl stop immich-exposure-guard.timer; touch -d '-1 hour' {STATE}/funnel")


def sees(home: Home, verdict: str) -> None:
    """Let the guard look once; raises ``Fault`` unless it ends with this word, before the next is due."""
    began = time.monotonic()
    home.sh(f"rm -f {STATE}/guard; systemctl start --no-block {UNIT}")
    wait_until(
        lambda: home.sh(f"systemctl is-active {UNIT} || :") not in ("active", "activating"),
        "the guard has looked",
        LOOK_SECONDS,
    )
    saw = home.sh(f"cut -d ' ' -f 2- {STATE}/guard 2>/dev/null || :")
    if not saw.startswith(f"{verdict} "):
        raise Fault(f"the guard should see {verdict}, and saw {saw or 'nothing'}")
    home.noted.append(f"{verdict} after {time.monotonic() - began:.0f} s: {saw.partition(' ')[2]}")


def need_told_once(home: Home, kind: str) -> None:
    """Raise ``Fault`` unless the owner was told this once."""

    def told() -> int:
        return home.sh(f"cat {TOLD} 2>/dev/null || :").split().count(kind)

    wait_until(lambda: told() > 0, f"the owner is told {kind}", 60)
    if (count := told()) != 1:
        raise Fault(f"the owner was told {kind} {count} times")


def dead_and_healed(home: Home, fault: AbstractContextManager[None]) -> None:
    """Nothing that the guard can do helps: it tells once, and once more when the fault is over."""
    be_told(home)
    with fault:
        dead_and_told(home)
    healthy_again(home)


def dead_and_told(home: Home) -> None:
    """The guard sees it dead in three looks, and tells once."""
    for _ in range(3):
        sees(home, "dead")
    need_told_once(home, "dead")


def healthy_again(home: Home) -> None:
    """The fault is over: visitors get in, the guard tells so once, and destroy takes everything back."""
    wait_until(lambda: seen(home.lab, PUBLIC) == "200", "visitors get through again", 300)
    sees(home, "healthy")
    need_told_once(home, "healed")
    home.need_exposed()
    take_back(home)


def take_back(home: Home) -> None:
    """Destroy, with nobody to be told any more."""
    home.sh(f"rm -f {CHANNEL} {TOLD}")
    home.destroy()
