"""The preflight of an exposure that stands: it may not go on elsewhere and leave an open funnel behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from components.devices.keystore_location import authorities_in
from components.preflight import preflight
from components.preflight.list_sources import Look
from components.preflight.preflight import PreflightError, clock_apart, examine
from components.remote.remote_script import Server
from pki import AuthorityProfile, Keystore
from tests.unit.components.test_preflight_rules import DIGEST, FLAKE_FACTS, MODULE, SOUND

BEFORE: dict[str, Any] = {
    "host": "192.168.1.20",
    "hostKey": "ssh-ed25519 AAAA-old",
    "configDir": "/etc/nixos",
    "module": "managed",
    "immichPort": 2283,
}


def update(mocker: MockerFixture, **changes: Any) -> dict[str, Any]:
    """Run the resource's update on a server that is ready for everything."""
    mocker.patch.object(preflight, "examine", lambda props, **_: props)
    return preflight._Provider().update("preflight", BEFORE, {**BEFORE, **changes}).outs or {}


def refused(olds: dict[str, Any], news: dict[str, Any]) -> str:
    """Return what an update that must be refused is refused with."""
    with pytest.raises(PreflightError) as refusal:
        preflight._Provider().update("preflight", olds, news)
    return str(refusal.value.args[0])


def test_another_server_is_refused_while_the_old_one_is_exposed() -> None:
    told = refused(BEFORE, {**BEFORE, "host": "192.168.1.99", "hostKey": "ssh-ed25519 AAAA-new"})
    assert "exposed on 192.168.1.20" in told and "pulumi destroy first" in told


def test_another_folder_is_refused_while_the_old_one_is_changed() -> None:
    told = refused(BEFORE, {**BEFORE, "configDir": "/etc/nixos-2"})
    assert "configuration in /etc/nixos " in told and "pulumi destroy first" in told


@pytest.mark.parametrize("way", [("managed", "yours"), ("yours", "managed")])
def test_another_way_in_is_refused_while_the_first_stands(way: tuple[str, str]) -> None:
    olds, news = ({**BEFORE, "module": module} for module in way)
    told = refused(olds, news)
    assert f"exposed with module: {way[0]}, " in told and "pulumi destroy first" in told


def test_a_folder_that_nothing_was_written_to_may_change(mocker: MockerFixture) -> None:
    mocker.patch.object(preflight, "examine", lambda props, **_: props)
    olds = {**BEFORE, "module": "yours"}
    news = {**olds, "configDir": "/etc/nixos-2"}
    assert preflight._Provider().update("preflight", olds, news).outs == news


@pytest.mark.parametrize(
    "changes",
    [{"host": "immich.home.arpa"}, {"hostKey": "ssh-ed25519 AAAA-new"}, {"immichPort": 2284}],
)
def test_the_same_server_may_change(mocker: MockerFixture, changes: dict[str, Any]) -> None:
    assert update(mocker, **changes) == {**BEFORE, **changes}


# When it looks


LOOKED = {**BEFORE, "domain": "immich.example.ts.net", "warnings": [], "notes": []}


@pytest.mark.parametrize(
    ("olds", "news", "changes"),
    [
        (LOOKED, {**BEFORE, "domain": None, "warnings": None}, False),
        (LOOKED, {**BEFORE, "immichPort": 2284}, True),
        ({**LOOKED, "flakeDir": "/etc/nixos"}, {**BEFORE, "flakeDir": None}, True),
        ({**LOOKED, "flakeDir": "/etc/nixos"}, BEFORE, True),
        (LOOKED, {**BEFORE, "flakeDir": "/etc/nixos"}, True),
        ({**LOOKED, "flakeDir": None}, BEFORE, False),
        ({**LOOKED, "warnings": ["Immich does not answer."]}, BEFORE, True),
        ({**LOOKED, "notes": ["Immich 9.0.0 is unknown."]}, {**BEFORE, "notes": None}, False),
    ],
)
def test_it_looks_again_when_something_changed_or_was_worth_a_warning(
    olds: dict[str, Any], news: dict[str, Any], changes: bool
) -> None:
    assert preflight._Provider().diff("preflight", olds, news).changes is changes


# What it asks and answers


def props_of(keystore: Path, **changes: Any) -> dict[str, Any]:
    """Return the properties as the engine hands them over."""
    props = {
        "host": "pi",
        "port": 22.0,
        "user": "admin",
        "hostKey": "ssh-ed25519 AAAA",
        "configDir": "/etc/nixos",
        "module": "managed",
        "immichPort": 2283.0,
        "immichManaged": True,
        "lan": "close",
        "proxyPort": 8443.0,
        "funnelPort": 443.0,
        "keystore": str(keystore),
        "takeOver": False,
        "adopt": False,
        "allowUpgrade": False,
    }
    return {**props, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"module": "yours", "moduleDigest": DIGEST}, "facts yours /etc/nixos - - - 2283 8443 443"),
        ({}, "facts managed /etc/nixos - - - 2283 8443 443"),
        (
            {
                "module": "yours",
                "moduleDigest": DIGEST,
                "flakeDir": "/home/a/nix",
                "flakeHost": "pi",
                "immichAddress": "127.0.0.1",
            },
            "facts flake /etc/nixos /home/a/nix pi 127.0.0.1 2283 8443 443",
        ),
    ],
)
def test_the_server_is_asked_for_what_the_config_names(
    mocker: MockerFixture, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    facts = {**SOUND, **FLAKE_FACTS, "module": MODULE}
    if "flakeDir" not in changes:
        facts["evaluated"] = None
    run = mocker.patch.object(preflight, "run_script", return_value=json.dumps(facts))
    outputs = examine(props_of(tmp_path, **changes))
    assert run.call_args.args[1] == f"sudo -n sh -s -- {words}"
    assert (outputs["domain"], outputs["warnings"]) == ("immich.example.ts.net", [])


def test_an_update_knows_that_a_funnel_to_the_edge_is_its_own(mocker: MockerFixture, tmp_path: Path) -> None:
    """The server has lost /var/lib/immich-exposure, by which it would say so itself."""
    facts = {**SOUND, "funnel": {"TCP": {"443": {"TCPForward": "127.0.0.1:8443", "ProxyProtocol": 1}}}}
    mocker.patch.object(preflight, "run_script", return_value=json.dumps(facts))
    props = props_of(tmp_path)
    with pytest.raises(PreflightError) as refusal:
        preflight._Provider().create(props)
    assert "opened by hand" in refusal.value.args[0]
    assert (preflight._Provider().update("preflight", props, props).outs or {})["warnings"] == []


@pytest.mark.parametrize(("folder", "word"), [({}, "-"), ({"folder": "/srv/photos"}, "/srv/photos")])
def test_the_disk_is_asked_for_where_guests_upload(
    mocker: MockerFixture, tmp_path: Path, folder: dict[str, str], word: str
) -> None:
    """What is not set the engine leaves out, also in a group."""
    run = mocker.patch.object(preflight, "run_script", return_value=json.dumps(SOUND))
    uploads = {**folder, "freeGigabytes": 20.0, "megabytesPerHour": 10_000.0}
    outputs = examine(props_of(tmp_path, uploads=uploads))
    assert run.call_args.args[1].endswith(f" 2283 8443 443 {word}")
    assert "The server does not know how much is free" in outputs["warnings"][0]


def test_a_password_changes_the_line_and_is_not_in_it(mocker: MockerFixture, tmp_path: Path) -> None:
    run = mocker.patch.object(preflight, "run_script", return_value=json.dumps(SOUND))
    examine(props_of(tmp_path, sudoPassword="geheim"))
    server, line, script = run.call_args.args
    assert isinstance(server, Server) and server.sudo_password == "geheim"
    assert line.startswith("sh -c 'IFS= read -r password; ") and "geheim" not in line + script + repr(server)


def test_an_immich_that_is_off_is_told_and_does_not_stop_the_run(
    mocker: MockerFixture, tmp_path: Path
) -> None:
    facts = {**SOUND, "immich": {"port": 2283, "address": None, "ping": False, "initialized": None}}
    mocker.patch.object(preflight, "run_script", return_value=json.dumps(facts))
    [warning] = examine(props_of(tmp_path))["warnings"]
    assert "Immich does not answer" in warning


def test_a_release_of_immich_that_nobody_knows_is_named_and_does_not_stop_the_run(
    mocker: MockerFixture, tmp_path: Path
) -> None:
    facts = {**SOUND, "immich": {**SOUND["immich"], "version": "9.1.0"}}
    mocker.patch.object(preflight, "run_script", return_value=json.dumps(facts))
    outputs = examine(props_of(tmp_path))
    assert outputs["warnings"] == []
    [note] = outputs["notes"]
    assert note.startswith("Immich 9.1.0 is not among the releases")


def test_all_that_is_in_the_way_comes_as_one_message(mocker: MockerFixture, tmp_path: Path) -> None:
    facts = {**SOUND, "proxyPortOwner": "nginx", "theirs": ["/etc/nixos/immich-exposure"]}
    mocker.patch.object(preflight, "run_script", return_value=json.dumps(facts))
    with pytest.raises(PreflightError) as refusal:
        examine(props_of(tmp_path))
    assert [line[:2] for line in str(refusal.value).splitlines()] == ["Th", "- ", "- "]


@pytest.mark.parametrize("answer", ["Welcome!\n{}", "[]", ""])
def test_an_answer_that_is_none_is_told(mocker: MockerFixture, tmp_path: Path, answer: str) -> None:
    mocker.patch.object(preflight, "run_script", return_value=answer)
    with pytest.raises(PreflightError, match="answer to the preflight is not"):
        examine(props_of(tmp_path))


def test_the_keystores_authorities_are_known_without_its_passphrase(tmp_path: Path) -> None:
    assert authorities_in(tmp_path / "none") == ()
    store = Keystore(tmp_path / "keystore", "a passphrase of some length", kdf_rounds=2)
    authority = store.adopt_or_create_authority(AuthorityProfile())
    assert authorities_in(tmp_path / "keystore") == (authority.fingerprint,)
    (tmp_path / "keystore/ca.crt").write_text("rubbish")
    assert authorities_in(tmp_path / "keystore") == ()
    (tmp_path / "keystore/ca.crt").unlink()
    os.mkfifo(tmp_path / "keystore/ca.crt")
    assert authorities_in(tmp_path / "keystore") == (), "nothing waits for what nobody writes"


@pytest.mark.parametrize(
    ("clock", "apart"),
    [
        (1000, 0.0),
        (1001, 0.0),
        (1003, 0.0),
        (999, -0.5),
        (4600, 3597.0),
        (0, -999.5),
        (None, 0.0),
        ("x", 0.0),
    ],
)
def test_a_clock_is_only_wrong_when_no_moment_of_the_question_fits(clock: object, apart: float) -> None:
    """The question took from 1000.5 to 1003.0 by this machine's clock."""
    assert clock_apart(clock, 1000.5, 1003.0) == apart


def test_a_list_that_would_ban_nobody_is_in_the_way_and_another_is_told(
    mocker: MockerFixture, tmp_path: Path
) -> None:
    mocker.patch.object(preflight, "run_script", return_value=json.dumps(SOUND))
    look = mocker.patch.object(preflight, "look_at_lists", return_value=Look([], ["/y is old."]))
    assert "/y is old." not in examine(props_of(tmp_path))["warnings"] and look.call_count == 0
    asked = props_of(tmp_path, banLists="networks /y\n", crowdsecKey="geheim")
    assert "/y is old." in examine(asked)["warnings"]
    assert look.call_args.args[1:] == ("networks /y\n", "geheim")
    look.return_value = Look(["/x is damaged."], [])
    with pytest.raises(PreflightError, match=r"- /x is damaged\."):
        examine(asked)
