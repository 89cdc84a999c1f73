"""What is found on the server is a change in words, and a reason to run everything again."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from pulumi.dynamic import CreateResult, ReadResult, UpdateResult
from pytest_mock import MockerFixture

from components import drift
from components.drift import NEVER, Seen, _Provider
from components.remote_script import Server
from components.ssh import SshError

PROPS: dict[str, Any] = {
    "host": "server.invalid",
    "port": 22.0,
    "user": "admin",
    "hostKey": "ssh-ed25519 AAAA",
    "funnelPort": 443.0,
    "proxyPort": 8443.0,
    "found": [],
    "putRight": NEVER,
}


def outs(result: CreateResult | UpdateResult | ReadResult) -> dict[str, Any]:
    assert result.outs is not None
    return result.outs


SHUT = "The funnel was shut on the server; up opens and proves it again."


def test_what_is_as_it_was_is_no_change() -> None:
    assert not _Provider().diff("drift", PROPS, PROPS).changes
    mended = {**PROPS, "putRight": "put right at 2026-11-26T01:00:00+00:00"}
    assert not _Provider().diff("drift", mended, PROPS).changes, "the program does not know when that was"


@pytest.mark.parametrize(
    ("state", "program"), [(PROPS, {**PROPS, "found": [SHUT]}), ({**PROPS, "found": [SHUT]}, PROPS)]
)
def test_what_the_program_or_a_refresh_has_found_is_a_change(
    state: dict[str, Any], program: dict[str, Any]
) -> None:
    assert _Provider().diff("drift", state, program).changes
    outputs = outs(_Provider().update("drift", state, program))
    assert outputs["found"] == []
    assert outputs["putRight"].startswith("put right at 20")


def test_another_way_to_the_server_runs_nothing_again() -> None:
    moved = {**PROPS, "host": "other.invalid"}
    assert _Provider().diff("drift", PROPS, moved).changes
    assert outs(_Provider().update("drift", PROPS, moved)) == moved


def test_a_first_exposure_has_nothing_to_put_right() -> None:
    outputs = outs(_Provider().create({**PROPS, "found": [SHUT], "putRight": "put right at ..."}))
    assert (outputs["found"], outputs["putRight"]) == ([], NEVER)


def test_a_refresh_looks(mocker: MockerFixture) -> None:
    asked = mocker.patch("components.drift.run_script", return_value=f"mend {SHUT}\ntell Only you can.\n")
    assert outs(_Provider().read("drift", PROPS))["found"] == [SHUT]
    assert asked.call_args.args[1] == "sudo -n sh -s -- look 443 8443"


def test_a_look_tells_the_two_kinds_apart(mocker: MockerFixture) -> None:
    mocker.patch("components.drift.run_script", return_value=f"tell Only you can.\nmend {SHUT}\n")
    server = Server("server.invalid", 22, "admin", "ssh-ed25519 AAAA", None)
    assert drift.look(server, 443, 8443) == Seen([SHUT], ["Only you can."])


def test_a_server_that_cannot_be_asked_is_an_error_of_a_refresh(mocker: MockerFixture) -> None:
    mocker.patch("components.drift.run_script", side_effect=SshError("The server does not answer."))
    with pytest.raises(SshError):
        try:
            _Provider().read("drift", PROPS)
        finally:
            sys.__dict__.pop("tracebacklimit", None)  # it is told without frames, and the process is pytest's
