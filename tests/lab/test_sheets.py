"""Install sheets with the real engine: created, kept, added one by one, and removed with their device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handover.sheet import groups
from lab import Lab
from tests.lab.operator import PASSPHRASE, Operator, Step

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator who has exposed the server for a phone and a laptop."""
    operator = Operator(tmp_path_factory.mktemp("sheets"), lab.info(), stack="sheets")
    operator.init()
    operator.up()
    yield operator
    operator.destroy()
    assert not sheets(operator)


def sheets(operator: Operator) -> list[str]:
    """Names of the sheets in the keystore."""
    return sorted(path.name for path in (operator.keystore / "devices").glob("*.html"))


def test_each_device_has_a_sheet_with_the_address_and_its_own_fingerprint(operator: Operator) -> None:
    outputs = operator.outputs(show_secrets=True)
    for device in outputs["devices"].values():
        text = Path(device["sheet"]).read_text(encoding="utf-8")
        assert Path(device["sheet"]).parent == Path(device["bundle"]).parent
        assert outputs["url"] in text
        assert "".join(f"<span>{group}</span>" for group in groups(device["fingerprint"])) in text
        for secret in (PASSPHRASE, *outputs["bundlePasswords"].values()):
            assert secret not in text


def test_a_second_up_changes_nothing(operator: Operator) -> None:
    operator.up()
    assert set(operator.changes()) == {"same"}


def assert_alone(device: str, planned: list[Step], op: str) -> None:
    """What is made or goes is this device's, and no other device's own things change."""
    assert {step.op for step in planned} == {op, "update"}
    assert all(device in step.name for step in planned if step.op == op)
    changed = {step.name for step in planned if step.op == "update"}
    assert not [name for name in changed if "-device-" in name]


def test_adding_and_removing_a_device_touches_that_device_alone(operator: Operator) -> None:
    devices = list(operator.settings["devices"])
    operator.set(devices=[*devices, {"name": "tablet", "platform": "android"}])
    assert_alone("tablet", operator.planned(), "create")
    operator.up()
    assert sheets(operator) == ["laptop.html", "phone.html", "tablet.html"]
    operator.set(devices=devices)
    assert_alone("tablet", operator.planned(), "delete")
    operator.up()
    assert sheets(operator) == ["laptop.html", "phone.html"]
