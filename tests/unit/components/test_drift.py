"""What is found on the server is a change in words, and a reason to run everything again."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pulumi.dynamic import CreateResult, ReadResult, UpdateResult
from pytest_mock import MockerFixture

from components import drift
from components.config.home import Immich
from components.devices.let_in import Authorized
from components.drift import ANOTHER_PROOF, NEVER, ClockError, Seen, _Provider, judged
from components.remote.remote_script import Server
from components.remote.ssh import SshError
from pki import AuthorityProfile, Keystore, KeystoreError, Revocation

PROPS: dict[str, Any] = {
    "host": "server.invalid",
    "port": 22.0,
    "user": "admin",
    "hostKey": "ssh-ed25519 AAAA",
    "funnelPort": 443.0,
    "proxyPort": 8443.0,
    "found": [],
    "foundInFunnel": [],
    "refused": [],
    "revokedOnTheServer": {},
    "repaired": NEVER,
    "funnelRepaired": NEVER,
}


def outs(result: CreateResult | UpdateResult | ReadResult) -> dict[str, Any]:
    assert result.outs is not None
    return result.outs


GONE = "immich-bans.service is not running; up starts it."
FIRST = "repaired at 2026-11-26T01:00:00+00:00"
CLOSED = "The funnel was closed on the server; up opens and proves it again."


def test_what_is_as_it_was_is_no_change() -> None:
    assert not _Provider().diff("drift", PROPS, PROPS).changes
    moment = "repaired at 2026-11-26T01:00:00+00:00"
    mended = {**PROPS, "repaired": moment, "funnelRepaired": moment}
    assert not _Provider().diff("drift", mended, PROPS).changes, "the program does not know when that was"


@pytest.mark.parametrize("by_the_program", [True, False])
@pytest.mark.parametrize(
    ("kind", "moved", "stays"),
    [("found", "repaired", "funnelRepaired"), ("foundInFunnel", "funnelRepaired", "repaired")],
)
def test_what_the_program_or_a_refresh_has_found_is_a_change(
    by_the_program: bool, kind: str, moved: str, stays: str
) -> None:
    """Where the funnel alone is closed, only what opens and proves it runs again."""
    state, program = PROPS, {**PROPS, kind: [CLOSED], moved: "repaired at 2026-11-26T01:00:00+00:00"}
    if not by_the_program:
        state, program = {**PROPS, kind: [CLOSED]}, PROPS
    assert _Provider().diff("drift", state, program).changes
    outputs = outs(_Provider().update("drift", state, program))
    assert outputs[kind] == []
    assert outputs[moved].startswith("repaired at 20")
    assert outputs[stays] == NEVER


@pytest.mark.parametrize("kind", ["found", "foundInFunnel"])
def test_a_preview_announces_no_repair_that_an_up_does_not_make(kind: str) -> None:
    """Every step carries the moment. What a preview takes for it, `check`, is what `update` makes of it."""
    provider, moment = _Provider(), {"found": "repaired", "foundInFunnel": "funnelRepaired"}[kind]
    state = outs(provider.create(provider.check({}, {**PROPS, kind: [GONE], moment: FIRST}).inputs))
    assert state[moment] == NEVER == provider.check({}, {**PROPS, kind: [GONE], moment: FIRST}).inputs[moment]

    repair = provider.check({**PROPS}, {**PROPS, kind: [GONE], moment: FIRST}).inputs
    state = outs(provider.update("drift", state, repair))
    assert state[moment] == repair[moment] == FIRST

    later = provider.check(repair, {**PROPS, "exposedDigest": "another"}).inputs
    assert later[moment] == FIRST, "or else a preview says that every step runs again"
    assert outs(provider.update("drift", state, later))[moment] == FIRST


A, B = "a" * 16, "b" * 16


@pytest.mark.parametrize(
    ("olds", "proven_for", "another"),
    [
        ({}, B, False),
        ({"exposedDigest": A}, A, False),
        ({"exposedDigest": A}, "", False),
        ({"exposedDigest": A}, B, True),
    ],
    ids=["the first up", "as this state has it", "nobody knows", "another state's"],
)
def test_what_another_copy_of_the_state_has_proven_is_told_and_put_right(
    olds: dict[str, Any], proven_for: str, another: bool
) -> None:
    """Whatever this run asks for: a config that was changed since the last up is none of it."""
    news = {**PROPS, "found": [GONE], "provenFor": proven_for, "exposedDigest": "c" * 16}
    inputs = _Provider().check(olds, news).inputs
    if not another:
        assert inputs == news
        return
    assert inputs["found"] == [GONE, ANOTHER_PROOF]
    assert inputs["repaired"].startswith("repaired at 20")
    assert {**inputs, "found": [], "repaired": ""} == {**news, "found": [], "repaired": ""}


def test_a_refresh_tells_of_what_another_has_proven(mocker: MockerFixture) -> None:
    mocker.patch.object(drift, "look", return_value=Seen(proven_for=B))
    state = {**PROPS, "exposedDigest": A, "provenFor": A}
    assert outs(_Provider().read("drift", state))["found"] == [ANOTHER_PROOF]
    assert not _Provider().diff("drift", state, {**state, "provenFor": ""}).changes


APART = "The clocks differ: the server's is 90 minutes behind this machine's."


def test_clocks_that_are_far_apart_are_refused_before_anything_changes() -> None:
    refused = {**PROPS, "refused": [APART]}
    assert _Provider().diff("drift", PROPS, refused).changes
    for run in (lambda: _Provider().create(refused), lambda: _Provider().update("drift", PROPS, refused)):
        with pytest.raises(ClockError) as told:
            run()
        assert told.value.args == (APART,)


PRINT = "a" * 64
WORDS = "phone on 2025-12-29 09:20:00+00:00"
REVOKED = {**PROPS, "revokedOnTheServer": {PRINT: WORDS}}


def keystore_in(folder: Path) -> tuple[Keystore, dict[str, Any]]:
    store = Keystore(folder, "correct horse battery", stack="home")
    store.adopt_or_create_authority(AuthorityProfile())
    return store, {"keystore": str(folder), "stack": "home"}


def test_the_keystore_learns_what_was_revoked_on_the_server(tmp_path: Path) -> None:
    store, where = keystore_in(tmp_path)
    assert _Provider().diff("drift", PROPS, REVOKED).changes
    outputs = outs(_Provider().update("drift", {**PROPS, **where}, {**REVOKED, **where}))
    assert store.revocations() == {PRINT: Revocation(PRINT, "phone", 1767000000, by_hand=True)}
    assert outputs["repaired"] == outputs["funnelRepaired"] == NEVER, "nothing else runs again for it"
    assert not _Provider().diff("drift", outputs, {**REVOKED, **where}).changes
    assert not _Provider().diff("drift", outputs, {**PROPS, **where}).changes, "nobody could look"
    assert outs(_Provider().update("drift", outputs, {**PROPS, **where}))["revokedOnTheServer"] == {
        PRINT: WORDS
    }


def test_a_revocation_is_shown_in_words() -> None:
    assert drift._in_words([f"{PRINT} 1767000000 phone"]) == {PRINT: WORDS}


def test_a_lost_state_learns_it_as_well(tmp_path: Path) -> None:
    store, where = keystore_in(tmp_path)
    _Provider().create({**REVOKED, **where})
    assert set(store.revocations()) == {PRINT}


def test_a_keystore_that_cannot_be_told_fails_the_step_so_that_the_next_run_tells_it(tmp_path: Path) -> None:
    _, where = keystore_in(tmp_path)
    (tmp_path / "revoked.json").write_text("{", encoding="utf-8")
    with pytest.raises(KeystoreError) as told:
        _Provider().update("drift", {**PROPS, **where}, {**REVOKED, **where})
    assert "revoked.json is damaged" in told.value.args[0]


def test_another_way_to_the_server_runs_nothing_again() -> None:
    moved = {**PROPS, "host": "other.invalid"}
    assert _Provider().diff("drift", PROPS, moved).changes
    assert outs(_Provider().update("drift", PROPS, moved)) == moved


def test_a_first_exposure_has_nothing_to_put_right() -> None:
    outputs = outs(_Provider().create({**PROPS, "found": [CLOSED], "repaired": "repaired at ..."}))
    assert (outputs["found"], outputs["repaired"]) == ([], NEVER)


def test_a_refresh_looks(mocker: MockerFixture) -> None:
    said = f"mend {GONE}\nfunnel {CLOSED}\ntell Only you can.\n"
    asked = mocker.patch("components.drift.run_script", return_value=said)
    found = outs(_Provider().read("drift", PROPS))
    assert (found["found"], found["foundInFunnel"]) == ([GONE], [CLOSED])
    assert asked.call_args.args[1] == "sudo -n sh -s -- look 443 8443"


SERVER = Server("server.invalid", 22, "admin", "ssh-ed25519 AAAA", None)


def test_a_look_tells_the_kinds_apart(mocker: MockerFixture) -> None:
    mocker.patch(
        "components.drift.run_script",
        return_value=f"clock {int(time.time())}\ntell Only you can.\nmend {GONE}\nfunnel {CLOSED}\n"
        "closed By hand.\nnode-key \n"
        f"revoked {PRINT} 1767000000 phone\nrevoked {PRINT} 1767000000 ../phone\nrevoked x\n"
        f"device {PRINT} phone\ndevice ../x phone\n"
        "version immich 2.7.5\nversion tailscale 1.98.9\nversion caddy 2.11.9\n",
    )
    assert drift.look(SERVER, 443, 8443) == Seen(
        [GONE],
        [CLOSED],
        ["Only you can."],
        [],
        ["By hand."],
        [f"{PRINT} 1767000000 phone"],
        [f"{PRINT} phone"],
    )


def test_the_key_of_immichs_api_travels_on_standard_input(mocker: MockerFixture) -> None:
    run = mocker.patch(
        "components.drift.run_script", return_value="tell Of 3 shared links, 1 never expires.\n"
    )
    assert drift.look(SERVER, 443, 8443, "an-api-key").to_tell == ["Of 3 shared links, 1 never expires."]
    _, line, text = run.call_args.args
    assert ("an-api-key" in text, "an-api-key" in line) == (True, False)
    drift.look(SERVER, 443, 8443, "an-api-key", Immich(None, 2283, managed=True))
    assert run.call_args.args[1].endswith(" look 443 8443 - 2283")
    drift.look(SERVER, 443, 8443, None, Immich(None, 2283, managed=True))
    assert run.call_args.args[1].endswith(" look 443 8443")
    drift.look(SERVER, 443, 8443)
    assert "payload() {" not in run.call_args.args[2]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("version immich 2.6.0", "Immich 2.6.0 has known faults in what visitors see"),
        ("version immich 9.0.0", "Immich 9.0.0 is not among the releases that this project knows."),
        ("version tailscale 1.102.1", "Tailscale 1.102.1 rejects every funnel connection"),
        ("version tailscale 1.90.0", "Tailscale 1.90.0 is too old"),
        ("version caddy 2.11.3", "The edge runs Caddy 2.11.3, which has known vulnerabilities"),
        ("node-key 2001-01-01T00:00:00Z", "The server's key in the tailnet ended on 2001-01-01"),
    ],
)
def test_what_the_server_says_is_judged_here(mocker: MockerFixture, line: str, said: str) -> None:
    mocker.patch("components.drift.run_script", return_value=f"{line}\n")
    seen = drift.look(SERVER, 443, 8443)
    (sentence,) = seen.to_tell
    assert sentence.startswith(said)
    assert (seen.to_mend, seen.in_the_funnel, seen.to_refuse) == ([], [], [])


@pytest.mark.parametrize(
    ("ahead", "words"), [(-5400, "90 minutes behind"), (86400 * 4000, "minutes ahead of"), (3000, None)]
)
def test_a_clock_that_is_off_by_more_than_an_hour_is_refused(
    mocker: MockerFixture, ahead: int, words: str | None
) -> None:
    mocker.patch("components.drift.run_script", return_value=f"clock {int(time.time()) + ahead}\n")
    refused = drift.look(SERVER, 443, 8443).to_refuse
    assert refused == [] if words is None else words in refused[0]


def test_a_server_that_cannot_be_asked_is_an_error_of_a_refresh(mocker: MockerFixture) -> None:
    mocker.patch("components.drift.run_script", side_effect=SshError("The server does not answer."))
    with pytest.raises(SshError):
        _Provider().read("drift", PROPS)


def test_a_device_that_the_server_has_lost_is_let_in_again_unless_nothing_is_or_everything_runs() -> None:
    """A new one has no certificate yet."""
    expected = Authorized(["phone"], {"phone": PRINT})
    assert "certificate of phone; up enrols it." in judged(Seen(), expected).to_mend[0]
    assert judged(Seen(), Authorized(["phone"])) == Seen()
    for seen in (
        Seen(devices=[f"{PRINT} phone"]),
        Seen(to_mend=[GONE]),
        Seen(closed=[CLOSED]),
    ):
        assert judged(seen, expected) == seen


@pytest.mark.parametrize(
    ("seen", "authorized", "told"),
    [
        (Seen(), Authorized(["phone"], {"phone": PRINT}), True),
        (Seen(closed=[CLOSED]), Authorized(["phone"], {}, {PRINT: True}), True),
        (Seen(), Authorized(["phone"]), True),
        (Seen(), Authorized(["laptop"]), False),
        (Seen(), Authorized(["phone"], {}, {PRINT: False}), False),
        (Seen(devices=[f"{'b' * 64} phone"]), Authorized(["phone"], {}, {PRINT: True}), False),
    ],
    ids=["new", "known", "without a keystore", "left the config", "named again", "has a new certificate"],
)
def test_every_run_tells_of_a_device_that_was_revoked_on_the_server_and_is_still_named(
    seen: Seen, authorized: Authorized, told: bool
) -> None:
    found = judged(replace(seen, revoked=[f"{PRINT} 1767000000 phone"]), authorized)
    assert [each[: each.index(".")] for each in found.to_tell] == (
        ["phone was revoked on the server on 2025-12-29 and stays revoked"] if told else []
    )
    assert found.to_mend == []
