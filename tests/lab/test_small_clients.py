"""A picture frame on the wall, from the config to the last request: two runs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab import Lab
from tests.lab.operator import Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.snapshot import output

pytestmark = pytest.mark.lab

HEADER = "X-Immich-Exposure-Frame"
PING = "/api/server/ping"
EVERYWHERE = "/var/lib/immich-exposure /var/log /run/immich-edge /etc/nixos"


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator with two frames and a device."""
    operator = Operator(tmp_path_factory.mktemp("frames"), lab.info(), stack="frames")
    operator.set(frames=[{"name": "frame-kitchen"}, {"name": "frame-hall"}])
    operator.devices("phone")
    operator.init()
    operator.up()
    yield operator
    operator.destroy()
    assert seen(lab, PING) == REFUSED
    assert lab.console("ls /var/lib/immich-exposure").returncode != 0


def test_frames_read_until_they_are_taken_out(lab: Lab, operator: Operator) -> None:
    printed = "".join(operator.log)
    outputs = operator.outputs(show_secrets=True)
    secrets: dict[str, str] = outputs["frameSecrets"]
    assert set(secrets) == {"frame-kitchen", "frame-hall"}
    assert outputs["public"]["read-only, with a secret header"]["frame-hall"] == "sees photos and albums"
    kitchen, hall = ({HEADER: secrets[name]} for name in ("frame-kitchen", "frame-hall"))

    assert [seen(lab, PING, headers=each) for each in (kitchen, hall)] == ["200", "200"]
    assert seen(lab, PING, headers={"x-api-key": f"{secrets['frame-hall']}.keyOfImmich"}) == "200"
    assert seen(lab, "/api/users", headers=kitchen) == FORBIDDEN
    assert seen(lab, PING) == FORBIDDEN
    assert seen(lab, PING, headers={HEADER: "ixframe_" + "w" * 32}, source="203.0.113.99") == FORBIDDEN

    status = lab.console("immich-exposure status").stdout
    assert "2 frame-hall frame-kitchen, read-only by a secret header" in status
    assert json.loads(lab.console("immich-exposure status --json").stdout)["frames"] == 2
    for shown in secrets.values():
        done = lab.console(f"grep -rl {shown} {EVERYWHERE}; journalctl --no-pager | grep -c {shown}")
        assert done.stdout.split() in (["0"], ["1"]), "only what sudo notes of this very command"
        assert shown not in operator.export() and shown not in printed

    # By the owner's hand, at once; and the next run knows it.
    assert lab.console("immich-exposure revoke frame-hall").returncode == 0
    assert seen(lab, PING, headers=hall) == FORBIDDEN

    operator.set(frames=[{"name": "frame-hall"}])
    preview = operator.preview("--diff")
    assert '- frame-kitchen: "loses access for good' in " ".join(preview.split())
    assert "frame-hall was revoked on the server" in operator.up()
    assert [seen(lab, PING, headers=each) for each in (kitchen, hall)] == [FORBIDDEN, FORBIDDEN]
    assert "frame-kitchen" in output(lab, "sudo immich-exposure devices")
    assert seen(lab, "/api/server/config", source="203.0.113.98") == "200", "visitors notice nothing"
