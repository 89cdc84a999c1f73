"""The module's files: what a preview has shown is what lands on the server, and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from components import module_folder
from components.config.home import Immich, Lan
from components.engine.operator_error import OperatorError
from components.module_folder import _Provider, as_shown, install, shown
from components.remote.module_files import digest, entry_and_module, in_folder
from components.remote.remote_script import script_text

IMMICH = Immich(address=None, port=2283, managed=True)
FILES = entry_and_module(IMMICH, Lan.CLOSE)


@pytest.fixture
def props() -> dict[str, Any]:
    """What the resource is given."""
    files = shown(FILES)
    server = {"host": "pi", "port": 22.0, "user": "admin", "hostKey": "ssh-ed25519 AAAA", "stackId": "ours"}
    return {**server, "configDir": "/etc/nixos", "files": files, "digest": digest(FILES), "script": "x"}


def test_all_but_the_program_is_there_to_be_read() -> None:
    files = shown(FILES)
    assert set(files) == {file.path for file in FILES}
    hashes = {path for path, text in files.items() if text.startswith("sha256 ")}
    programs = {path for path in files if path.endswith((".go", ".sh", ".py", "/go.mod", "/go.sum"))}
    assert hashes == programs and {"caddy/main.go", "scripts/lib.sh"} < programs
    # What decides who gets in is there to be read.
    assert "client_auth" in files["Caddyfile"] and "systemd.services" in files["nix/edge.nix"]


def test_what_was_shown_is_what_is_sent(props: dict[str, Any], mocker: MockerFixture) -> None:
    sent = mocker.patch.object(module_folder, "run_script", return_value="")
    outputs = install(props)
    server, line, text = sent.call_args.args
    assert line == "sudo -n sh -s -- --stack=ours install /etc/nixos"
    assert text == script_text("files", in_folder(FILES))
    assert server.host == "pi"
    assert outputs == {key: value for key, value in props.items() if key != "files"}


def test_a_program_that_changed_since_is_not_sent(props: dict[str, Any], mocker: MockerFixture) -> None:
    sent = mocker.patch.object(module_folder, "run_script")
    for path in ("caddy/main.go", "caddy/gone.go", "scripts/guard.sh"):
        files = {**props["files"], path: f"sha256 {hashlib.sha256(b'another').hexdigest()[:16]}"}
        with pytest.raises(OperatorError, match=f"server/{path} is no longer the one that was shown"):
            install({**props, "files": files})
    # The beginning of a hash is shown, and the digest holds what is sent to all of it.
    with pytest.raises(OperatorError, match="are no longer those that were shown"):
        install({**props, "digest": "ab" * 32})
    sent.assert_not_called()


def test_a_changed_text_is_sent_as_it_was_shown(props: dict[str, Any]) -> None:
    files = {**props["files"], "Caddyfile": "another\n"}
    assert dict(as_shown(files))["Caddyfile"] == "another\n"


def test_any_change_is_one_and_the_texts_are_known_by_their_digest(
    props: dict[str, Any], mocker: MockerFixture
) -> None:
    mocker.patch.object(module_folder, "run_script", return_value="")
    provider, before = _Provider(), install(props)
    assert provider.diff("", before, props).changes is False
    for path in ("Caddyfile", "caddy/main.go", "default.nix"):
        files = [replace(file, text="another\n") if file.path == path else file for file in FILES]
        changed = {**props, "files": shown(files), "digest": digest(files)}
        assert provider.diff("", before, changed).changes is True
    for key in ("configDir", "script", "host", "repaired"):
        assert provider.diff("", before, {**props, key: "another"}).changes is True
