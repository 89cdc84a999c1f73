"""The policy pack, as far as it needs no engine (tests/server/test_policy_pack.py has that)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from components.config.policy_facts import policy_facts
from components.config.stack_config import load
from policy.rules import RULES

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
    [
        (None, "whichever machine"),
        ({"host": "a"}, "whichever machine"),
        ({"hostKey": " "}, "whichever machine"),
        ({"hostKey": RSA}, "RSA"),
        ({"hostKey": HOST_KEY, "proxy": {"host": "b"}}, "connection.proxy.hostKey"),
    ],
)
def test_a_command_is_pinned(connection: Any, words: str) -> None:
    (sentence,) = pack.unpinned({"connection": connection})
    assert words in sentence
    assert list(pack.unpinned({"connection": {"hostKey": HOST_KEY}})) == []
    jumps = {"hostKey": HOST_KEY, "proxy": {"host": "b", "hostKey": HOST_KEY}}
    assert list(pack.unpinned({"connection": jumps})) == []


@pytest.mark.parametrize("kind", ["Command", "CopyToRemote", "CopyFile"])
def test_whatever_goes_to_a_server_is_a_command(kind: str) -> None:
    said: list[str] = []
    args = SimpleNamespace(resource_type=f"command:remote:{kind}", props={"connection": {"host": "a"}})
    pack._commands_are_pinned(args, lambda sentence, _urn: said.append(sentence))
    assert len(said) == 1


def test_an_exposure_that_leaves_out_a_fact_does_not_say_what_it_is() -> None:
    raw = {"host": "a", "hostKey": HOST_KEY, "keystorePassphrase": "correct horse battery"}
    facts = policy_facts(load(raw, stack="home", project_dir=None), "home")
    known = {key: value for key, value in facts.items() if value is not None}
    assert pack.says_what_it_is(known)
    for key in pack.FACTS:
        assert not pack.says_what_it_is({each: known[each] for each in known if each != key})
    assert known.keys() - pack.FACTS == {"rejectWith"}, "which no rule examines"


def test_a_private_key_in_any_property_is_found() -> None:
    props = {"a": [{"b": "x -----BEGIN PRIVATE KEY-----"}], "c": "https://me:secret@x/"}
    assert list(pack.private_keys(props)) == ["a[0].b"]


def test_the_pack_has_every_rule_once_with_its_level() -> None:
    named = [policy.name for policy in pack.POLICIES]
    assert len(named) == len(set(named)) and {rule.name for rule in RULES} < set(named)
    levels = {policy.name: policy.enforcement_level.value for policy in pack.POLICIES}
    assert all(levels[rule.name] == rule.level for rule in RULES)
