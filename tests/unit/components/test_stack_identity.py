"""The last word of a destroy: what Pulumi's state has lost is not taken back, and that is told."""

from __future__ import annotations

import pytest
from pytest_mock import MockerFixture

from components import stack_identity
from components.engine.props import props_of
from components.remote.remote_script import Server
from components.remote.ssh import SshError
from components.stack_identity import StillExposedError, _Provider

SERVER = Server("pi.lan", 22, "admin", "ssh-ed25519 AAAA", None)
PROPS = props_of(SERVER)


def test_an_exposure_that_the_state_has_lost_is_told(mocker: MockerFixture) -> None:
    asked = mocker.patch.object(stack_identity, "run_script", return_value="ours\n")
    with pytest.raises(StillExposedError):
        _Provider().delete("ours", PROPS)
    assert asked.call_args.args[1] == "sudo -n sh -s -- whose"


@pytest.mark.parametrize("owner", ["", "theirs\n"])
def test_a_server_without_an_exposure_or_with_anothers_is_left(mocker: MockerFixture, owner: str) -> None:
    mocker.patch.object(stack_identity, "run_script", return_value=owner)
    _Provider().delete("ours", PROPS)


def test_a_server_that_nobody_reaches_stops_no_destroy(
    mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    mocker.patch.object(stack_identity, "run_script", side_effect=SshError("It is off."))
    _Provider().delete("ours", PROPS)
    assert "It could not be checked whether anything of the exposure is left on pi.lan: It is off." in (
        capsys.readouterr().err
    )


def test_another_way_to_the_server_is_kept_and_the_id_stays() -> None:
    news = {**PROPS, "host": "192.168.1.5"}
    assert _Provider().diff("ours", PROPS, news).changes
    assert not _Provider().diff("ours", PROPS, PROPS).changes
    assert _Provider().update("ours", PROPS, news).outs == news
