"""The guard on a server: it reaches the exposure through the ingress, heals or closes it, and notifies."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from components.remote.outside_probe import PUBLIC_RESOLVERS
from lab import Lab, network, places
from tests.lab.impostor import CONTROL, INTERNET, cut_off, in_the_ingress_place
from tests.lab.operator import Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.snapshot import output
from tests.server.waiting import wait_until

pytestmark = pytest.mark.lab

STATE = "/var/lib/immich-exposure"
TOLD = "/run/told"
CHANNEL = "/usr/local/bin/tell-me"

# In the place of the edge, with its certificate: whoever asks gets an answer.
LENIENT = f"""
import socket, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("{STATE}/tls/server.crt", "{STATE}/tls/server.key")
listener = socket.create_server(("127.0.0.1", 8443))
while True:
    plain, _ = listener.accept()
    plain.settimeout(5)
    try:
        while plain.recv(1) != b"\\n":
            pass
        with context.wrap_socket(plain, server_side=True) as visitor:
            visitor.recv(4096)
            visitor.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi")
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator with an exposure that was opened an hour ago, who is told by a program on the server."""
    network.lead_to_public_resolvers(there=True)
    lab.console(f"mkdir -p /usr/local/bin; cat >{CHANNEL}; chmod 755 {CHANNEL}", text=TELL_ME)
    operator = Operator(tmp_path_factory.mktemp("guard"), lab.info(), stack="guard")
    operator.init()
    operator.set(notify={"kind": "command", "command": CHANNEL})
    operator.up()
    output(lab, f"sudo touch -d '-1 hour' {STATE}/funnel")
    yield operator
    operator.destroy()
    assert seen(lab, "/") == REFUSED
    assert told(lab)[-1] in ("closed", "revoked")


TELL_ME = f'#!/bin/sh\necho "$1" >>{TOLD}\n'


def told(lab: Lab) -> list[str]:
    """Return the kinds of all notices so far."""
    return output(lab, f"cat {TOLD} 2>/dev/null || :").split()


def look(lab: Lab) -> str:
    """Let the guard look once and return what it has noted down, without the time."""
    # A test looks more often than systemd lets a unit start.
    start = "sudo systemctl reset-failed $guard || :; sudo systemctl start $guard"
    done = lab.ssh(f"guard=immich-exposure-guard.service; {start}", timeout=400)
    assert done.returncode == 0, done.stderr
    return output(lab, f"sudo cat {STATE}/guard").partition(" ")[2]


def funnel(lab: Lab) -> str:
    """Return what Tailscale serves, without white space."""
    return output(lab, "sudo tailscale funnel status --json | tr -d ' \\n'")


def test_the_lab_has_the_resolvers_that_are_asked() -> None:
    assert places.PUBLIC_RESOLVERS == PUBLIC_RESOLVERS


def test_an_exposure_is_seen_through_the_ingress_and_told(lab: Lab, operator: Operator) -> None:
    assert operator.stack == "guard"
    assert look(lab) == "healthy strangers are refused and shared links answer at 1 of 1 addresses"
    assert {"channel", "opened", "enrolled"} <= set(told(lab))
    assert seen(lab, "/") == FORBIDDEN


def test_without_public_dns_it_says_so_and_changes_nothing(lab: Lab, operator: Operator) -> None:
    assert operator.stack == "guard"
    network.lead_to_public_resolvers(there=False)
    try:
        assert look(lab).startswith("blind none of the public resolvers")
    finally:
        network.lead_to_public_resolvers(there=True)
    assert seen(lab, "/") == FORBIDDEN


def test_a_home_without_internet_is_told_once_after_an_hour(lab: Lab, operator: Operator) -> None:
    """The hour is shortened: eleven looks of it are said to have been already."""
    assert operator.stack == "guard"
    memory = f"{STATE}/guard.memory"
    output(lab, f"sudo sed -i /blind_looks/d {memory}; echo blind_looks 11 | sudo tee -a {memory}")
    with cut_off(INTERNET):
        assert look(lab).startswith("blind ")
        assert look(lab).startswith("blind ")
    wait_until(lambda: told(lab).count("blind") == 1, "it is told", 30)
    assert look(lab).startswith("healthy ")
    assert seen(lab, "/") == FORBIDDEN


def test_tailscales_control_server_may_be_away(lab: Lab, operator: Operator) -> None:
    """What is on its way needs it no more. The time is shortened: it is away for two looks."""
    assert operator.stack == "guard"
    before = told(lab)
    with cut_off(CONTROL):
        for _ in range(2):
            assert look(lab).startswith("healthy ")
        assert seen(lab, "/") == FORBIDDEN
    assert look(lab).startswith("healthy ")
    assert told(lab) == before


IMPOSTORS = {
    "another": "unsafe at 203.0.113.1 another certificate is shown than the one of this server",
    "plainly": "unsafe at 203.0.113.1 somebody answers without TLS",
}


@pytest.mark.parametrize("manner", IMPOSTORS)
def test_who_answers_in_our_name_closes_the_funnel_at_once(lab: Lab, operator: Operator, manner: str) -> None:
    """Another server at the name, an ingress with a wrong certificate, one that does not speak TLS."""
    before = told(lab).count("unsafe")
    with in_the_ingress_place(manner):
        assert look(lab) == IMPOSTORS[manner]
        assert (seen(lab, "/"), funnel(lab)) == (REFUSED, "{}")
    look(lab)
    wait_until(lambda: told(lab).count("unsafe") == before + 1, "it is told once", 30)
    assert lab.console("immich-exposure status --json").returncode == 3
    assert "since it was proven, or was never proven" in lab.console("immich-exposure open").stderr
    planned = operator.preview("--json")
    assert "because the exposure was not safe; up opens it again only if it proves to be safe." in planned
    changed = [step["urn"] for step in json.loads(planned)["steps"] if step["op"] != "same"]
    assert {urn.rsplit("::", 1)[1] for urn in changed} == FUNNEL_STEPS
    operator.up()
    assert seen(lab, "/") == FORBIDDEN
    output(lab, f"sudo touch -d '-1 hour' {STATE}/funnel")


FUNNEL_STEPS = {"immich-drift", "immich-check"}
"""What runs again where the funnel alone was closed."""


def test_a_tailscaled_that_hangs_is_healed_and_told_once(lab: Lab, operator: Operator) -> None:
    assert operator.stack == "guard"
    output(lab, "sudo systemctl kill --kill-who=main --signal=STOP tailscaled")
    assert look(lab).startswith("healthy")
    assert seen(lab, "/") == FORBIDDEN
    look(lab)
    wait_until(lambda: told(lab).count("healed") == 1, "it is told once", 30)


def test_a_private_path_that_answers_closes_the_funnel_at_once(lab: Lab, operator: Operator) -> None:
    assert operator.stack == "guard"
    before = told(lab).count("unsafe")
    output(lab, "sudo systemctl stop immich-edge")
    lab.console("cat >/run/lenient.py", text=LENIENT)
    output(lab, "sudo systemd-run --quiet --collect --unit=lenient python3 /run/lenient.py")
    try:
        assert look(lab).startswith("unsafe at 203.0.113.1 the private path / answers 200")
        assert seen(lab, "/") == REFUSED
        assert funnel(lab) == "{}"
        wait_until(lambda: told(lab).count("unsafe") == before + 1, "it is told", 30)
        look(lab)
        assert told(lab).count("unsafe") == before + 1
    finally:
        output(lab, "sudo systemctl stop lenient; sudo rm -f /run/lenient.py")
