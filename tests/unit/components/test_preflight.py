"""The preflight of an exposure that stands: it may not go on elsewhere and leave an open door behind."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_mock import MockerFixture

from components import preflight
from components.preflight import PreflightError

BEFORE: dict[str, Any] = {
    "host": "192.168.1.20",
    "hostKey": "ssh-ed25519 AAAA-old",
    "configDir": "/etc/nixos",
    "immichPort": 2283,
}


def update(mocker: MockerFixture, **changes: Any) -> dict[str, Any]:
    """Run the resource's update on a server that is ready for everything."""
    mocker.patch.object(preflight, "examine", lambda props: props)
    return preflight._Provider().update("preflight", BEFORE, {**BEFORE, **changes}).outs or {}


def test_another_server_is_refused_while_the_old_one_is_exposed(mocker: MockerFixture) -> None:
    with pytest.raises(PreflightError, match="exposed on 192.168.1.20.*pulumi destroy first"):
        update(mocker, host="192.168.1.99", hostKey="ssh-ed25519 AAAA-new")


def test_another_folder_is_refused_while_the_old_one_is_changed(mocker: MockerFixture) -> None:
    with pytest.raises(PreflightError, match="configuration in /etc/nixos .*pulumi destroy first"):
        update(mocker, configDir="/etc/nixos-2")


@pytest.mark.parametrize(
    "changes",
    [{"host": "immich.home.arpa"}, {"hostKey": "ssh-ed25519 AAAA-new"}, {"immichPort": 2284}],
)
def test_the_same_server_may_change(mocker: MockerFixture, changes: dict[str, Any]) -> None:
    assert update(mocker, **changes) == {**BEFORE, **changes}
