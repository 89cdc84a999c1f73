"""`up` on merge, restricted to the plan of the preview that was reviewed (docs/review.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from tests.lab.operator import Operator, PulumiFailedError
from tests.lab.outside import REFUSED, seen
from tests.lab.snapshot import output

pytestmark = pytest.mark.lab

PING = "/api/server/ping"


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator with a phone, and nothing exposed yet."""
    operator = Operator(tmp_path_factory.mktemp("plan"), lab.info(), stack="plan")
    operator.devices("phone")
    operator.init()
    yield operator
    operator.destroy()
    assert seen(lab, PING) == REFUSED


@contextmanager
def elsewhere(*places: Path) -> Iterator[None]:
    """Take files and folders away for a while, as from a runner that never had them."""
    there = [place for place in places if place.exists()]
    for place in there:
        place.rename(place.with_name(f"{place.name}.away"))
    try:
        yield
    finally:
        for place in there:
            place.with_name(f"{place.name}.away").rename(place)


def inputs_of(operator: Operator) -> dict[str, Any]:
    """Return what each step in the state was given; secrets look different in each export."""
    resources = json.loads(operator.export())["deployment"]["resources"]
    return {each["urn"]: _without_ciphertext(each["inputs"]) for each in resources if each["custom"]}


def _without_ciphertext(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_ciphertext(each) for key, each in value.items() if key != "ciphertext"}
    return [_without_ciphertext(each) for each in value] if isinstance(value, list) else value


def plan_of_a_runner(operator: Operator, name: str) -> str:
    """Return a plan that a machine without SSH key and keystore has made, as a pull request's runner is."""
    plan = str(operator.folder / f"{name}.json")
    operator.environment["IMMICH_EXPOSURE_PLAN"] = "1"
    with elsewhere(operator.keystore, Path(operator.settings["sshPrivateKeyFile"])):
        operator.preview("--save-plan", plan)
    del operator.environment["IMMICH_EXPOSURE_PLAN"]
    return plan


def test_what_was_reviewed_is_what_happens_and_nothing_else(lab: Lab, operator: Operator) -> None:
    operator.up("--plan", plan_of_a_runner(operator, "first"))
    assert seen(lab, "/api/server/config") == "200"

    operator.set(bans={"banTime": "2h"})
    operator.devices("phone", "tablet")
    operator.up("--plan", plan_of_a_runner(operator, "second"))
    assert set(operator.outputs()["devices"]) == {"phone", "tablet"}

    operator.set(bans=None)
    operator.devices("phone")
    reviewed = plan_of_a_runner(operator, "third")
    operator.devices("phone", "stranger")
    before = inputs_of(operator)
    with pytest.raises(PulumiFailedError, match=r"violates plan: properties changed: .*stranger"):
        operator.up("--plan", reviewed)
    assert inputs_of(operator) == before, "no step was taken"

    operator.devices("phone")
    operator.up("--plan", plan_of_a_runner(operator, "fourth"))
    assert set(operator.outputs()["devices"]) == {"phone"}


def test_one_device_alone(lab: Lab, operator: Operator) -> None:
    """As docs/environments.md has it; what else has changed meanwhile stays as it is."""
    operator.set(bans={"banTime": "3h"})
    operator.devices("phone", "phone-anna")
    operator.up("--target=**phone-anna**", "--target=**immich-sheets**", "--target=**immich-devices**")
    assert operator.touched() == {"immich-device-phone-anna", "immich-sheets", "immich-devices"}
    assert "phone-anna" in output(lab, "sudo immich-exposure devices")
    operator.up()
    operator.preview("--refresh", "--expect-no-changes")


def test_what_would_go_with_a_part_is_shown_and_stays(lab: Lab, operator: Operator) -> None:
    """As docs/environments.md has it: the device list hangs on the device, and the proof on that."""
    before = inputs_of(operator)
    part = ("--target", "**phone-anna**", "--target-dependents")
    shown = operator.pulumi("destroy", "--preview-only", *part, "--stack", operator.stack).stdout
    assert "immich-device-phone-anna" in shown and "immich-check" in shown
    assert inputs_of(operator) == before
    assert seen(lab, "/api/server/config") == "200"
