"""The policy pack, as far as it needs no engine (tests/server/test_policy_pack.py has that)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from policy.rules import NAMES, RULES

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ"
RSA = "ssh-rsa AAAAB3NzaC1yc2E"
pack = pytest.importorskip("policy.pack", reason="`make setup` installs pulumi-policy")
URN = "urn:pulumi:home::immich-exposure::"
COMPONENT = "immich-exposure:index:ImmichExposure"


def resource(typ: str, name: str, parents: str = "", **props: Any) -> Any:
    urn = f"{URN}{parents}{'$' if parents else ''}{typ}::{name}"
    return SimpleNamespace(resource_type=typ, name=name, urn=urn, props=props)


def an_exposure(prefix: str, *, checked: bool, check: str = "") -> list[Any]:
    parts = [
        resource(COMPONENT, prefix),
        resource(pack.FUNNEL, f"{prefix}-funnel", COMPONENT),
        resource(check or pack.CHECK, f"{prefix}-check", COMPONENT),
    ]
    return parts if checked else parts[:2]


def test_a_funnel_is_checked_in_its_own_exposure() -> None:
    for check in (pack.CHECK, pack.CHECK_OF_A_PLUGIN):
        assert list(pack.unproven(an_exposure("immich", checked=True, check=check))) == []
    assert len(list(pack.unproven(an_exposure("immich", checked=True, check="somebody:else:Check")))) == 1
    both = [*an_exposure("home", checked=True), *an_exposure("cabin", checked=False)]
    ((sentence, urn),) = pack.unproven(both)
    assert "never checked from outside" in sentence and urn.endswith("::cabin-funnel")
    (_, urn), *_ = pack.unproven([resource(pack.FUNNEL, "bare-funnel")])
    assert urn.endswith("::bare-funnel")


@pytest.mark.parametrize(
    ("connection", "words"),
    [(None, "whichever machine"), ({"host": "a"}, "whichever machine"), ({"hostKey": RSA}, "RSA")],
)
def test_a_command_is_pinned(connection: Any, words: str) -> None:
    (sentence,) = pack.unpinned({"connection": connection})
    assert words in sentence
    assert list(pack.unpinned({"connection": {"hostKey": HOST_KEY}})) == []


def test_a_private_key_in_any_property_is_found() -> None:
    props = {"a": [{"b": "x -----BEGIN PRIVATE KEY-----"}], "c": "https://me:secret@x/"}
    assert list(pack.private_keys(props)) == ["a[0].b"]


def test_the_pack_has_every_rule_once_with_its_level() -> None:
    named = [policy.name for policy in pack.POLICIES]
    assert len(named) == len(set(named)) and set(NAMES) < set(named)
    levels = {policy.name: policy.enforcement_level.value for policy in pack.POLICIES}
    assert all(levels[rule.name] == rule.level for rule in RULES)
