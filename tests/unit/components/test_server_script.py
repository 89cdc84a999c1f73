"""A script as a step: what is shown is what runs, once and by the right line."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
from pytest_mock import MockerFixture

from components.engine.operator_error import OperatorError
from components.remote import remote_script, server_script
from components.remote.module_files import digest
from components.remote.remote_script import PayloadFile, script_digest, script_text
from components.remote.server_script import _Provider
from components.remote.ssh import SshError

FILES = (PayloadFile("edge.env", "A=1\n"), PayloadFile("channel", "token t\n", mode="0600"))
SERVER = {"host": "pi", "port": 22.0, "user": "admin", "hostKey": "ssh-ed25519 AAAA", "stackId": "ours"}
SAME = {
    **SERVER,
    "script": "settings",
    "digest": script_digest("settings"),
    "create": "sudo -n sh -s -- --stack=ours begin phone",
    "update": "sudo -n sh -s -- --stack=ours prepare",
    "files": {file.path: file.text for file in FILES},
    "modes": {"channel": "0600"},
    "filesDigest": digest(FILES),
    "note": "The digest is 1.",
}
GUARD = {**SERVER, "script": "files", "delete": "sudo -n sh -s -- --leaving=ours remove /etc/nixos"}


@pytest.fixture
def sent(mocker: MockerFixture) -> Any:
    """What would go to the server."""
    return mocker.patch.object(server_script, "run_script", return_value='{"at":1}\n')


def test_create_and_update_run_each_its_own_line(sent: Any) -> None:
    """What begins an exposure is not for an update: its list of devices is that of the beginning."""
    assert _Provider().create(SAME).outs is not None
    server, line, text = sent.call_args.args
    assert (server.host, line) == ("pi", SAME["create"])
    assert text == script_text("settings", tuple(sorted(FILES, key=lambda file: file.path)))
    outputs = _Provider().update("", {}, SAME).outs
    assert sent.call_args.args[1] == SAME["update"]
    assert outputs is not None and outputs["stdout"] == '{"at":1}'
    assert sent.call_count == 2


def test_an_update_without_a_line_of_its_own_does_the_same_as_the_creation(sent: Any) -> None:
    props = {key: value for key, value in SAME.items() if key != "update"}
    _Provider().update("", {}, props)
    assert sent.call_args.args[1] == SAME["create"]


def test_a_script_may_take_as_long_as_a_build_takes(sent: Any) -> None:
    _Provider().create(SAME)
    assert sent.call_args.kwargs["timeout_seconds"] == math.inf


def test_a_guard_does_nothing_before_it_is_deleted(sent: Any) -> None:
    provider = _Provider()
    outputs = provider.create(GUARD).outs
    provider.update("", outputs or {}, {**GUARD, "host": "elsewhere"})
    sent.assert_not_called()
    provider.delete("", outputs or {})
    assert sent.call_args.args[1:] == (GUARD["delete"], script_text("files"))


def test_what_has_no_way_back_is_forgotten_without_a_word(sent: Any) -> None:
    _Provider().delete("", SAME)
    sent.assert_not_called()


def test_a_script_that_changed_since_it_was_shown_is_not_run(
    sent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = remote_script._read
    monkeypatch.setattr(remote_script, "_read", lambda name: original(name) + "true\n")
    remote_script._lean.cache_clear()
    try:
        for step in (lambda: _Provider().create(SAME), lambda: _Provider().update("", {}, SAME)):
            with pytest.raises(OperatorError) as refusal:
                step()
            # Plainly: the sentence is all that a traceback prints.
            assert type(refusal.value).__qualname__.startswith("server/scripts/settings.sh has changed since")
        sent.assert_not_called()
        # But what must go, goes.
        _Provider().delete("", GUARD)
        sent.assert_called_once()
    finally:
        remote_script._lean.cache_clear()


@pytest.mark.parametrize(
    "key", ["create", "update", "digest", "modes", "note", "host", "repaired", "sudoPassword"]
)
def test_any_change_is_one(key: str, sent: Any) -> None:
    before = _Provider().create(SAME).outs or {}
    assert _Provider().diff("", before, SAME).changes is False
    assert _Provider().diff("", before, {**SAME, key: "another"}).changes is True


def test_the_texts_are_known_by_their_digest(sent: Any) -> None:
    before = _Provider().create(SAME).outs or {}
    assert "files" not in before
    changed = [PayloadFile("edge.env", "A=2\n"), FILES[1]]
    now = {**SAME, "files": {file.path: file.text for file in changed}, "filesDigest": digest(changed)}
    assert _Provider().diff("", before, now).changes is True
    gone = {key: value for key, value in SAME.items() if key not in ("files", "filesDigest", "modes")}
    assert _Provider().diff("", before, gone).changes is True


def test_a_step_that_fails_says_why_in_one_sentence(sent: Any) -> None:
    sent.side_effect = SshError("error: The disk is full; make room and run this again.")
    with pytest.raises(SshError) as refusal:
        _Provider().create(SAME)
    assert type(refusal.value).__qualname__ == "The disk is full; make room and run this again."


def test_the_digest_is_that_of_the_text_that_runs() -> None:
    assert script_digest("settings") == hashlib.sha256(script_text("settings").encode()).hexdigest()
