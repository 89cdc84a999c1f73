"""An edge that is built here: for the server's kind of machine, and sent as what was built."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from components import edge_build, edge_upload
from components.edge_build import EdgeBuildError, build_for_the_server, source_digest
from toolchain import ToolchainError, edge, paths

PROPS: dict[str, Any] = {"host": "pi", "port": 22.0, "user": "admin", "hostKey": "ssh-ed25519 AAAA"}
DIGEST = hashlib.sha256(b"arm64").hexdigest()
BUILT = {**PROPS, "machine": "aarch64", "sha256": DIGEST}


def build(architecture: str, output: Path) -> str:
    """Build as little as possible."""
    output.write_bytes(architecture.encode())
    return hashlib.sha256(architecture.encode()).hexdigest()


@pytest.fixture
def built(mocker: MockerFixture, tmp_path: Path) -> Any:
    """A server that is a Raspberry Pi and greets whoever logs in."""
    mocker.patch.object(paths, "HOME", tmp_path)
    mocker.patch.object(edge_build, "run_script", return_value="Welcome!\naarch64\n")
    return mocker.patch.object(edge, "build", side_effect=build)


@pytest.fixture
def sent(mocker: MockerFixture, built: Any) -> Any:
    """What is sent to it."""
    return mocker.patch.object(edge_upload, "send_file")


def test_it_is_built_for_the_servers_machine_and_sent_under_its_hash(built: Any, sent: Any) -> None:
    assert build_for_the_server(PROPS) == BUILT
    sent.assert_not_called()
    assert edge_upload.send(BUILT) == BUILT
    assert sent.call_args.args[1:] == (b"arm64", f"/var/lib/immich-exposure/edge-{DIGEST}", DIGEST)
    assert built.call_count == 1


def test_one_that_has_gone_since_is_built_again(built: Any, sent: Any) -> None:
    edge_upload.send(BUILT)
    assert sent.call_args.args[1] == b"arm64"
    assert built.call_count == 1


def test_one_that_became_another_is_not_sent(built: Any, sent: Any) -> None:
    with pytest.raises(EdgeBuildError, match="changed during this run"):
        edge_upload.send({**BUILT, "sha256": "00" * 32})
    sent.assert_not_called()


def test_a_machine_that_it_cannot_be_built_for_is_named(built: Any, mocker: MockerFixture) -> None:
    mocker.patch.object(edge_build, "run_script", return_value="riscv64\n")
    with pytest.raises(EdgeBuildError, match=r"\(riscv64\); set edgeBuild: server"):
        build_for_the_server(PROPS)
    built.assert_not_called()


def test_a_build_that_fails_is_told_plainly(built: Any) -> None:
    built.side_effect = ToolchainError("There is no go on PATH. Install it.")
    with pytest.raises(EdgeBuildError, match="There is no go on PATH"):
        build_for_the_server(PROPS)


def test_it_goes_when_nothing_names_it(mocker: MockerFixture) -> None:
    run = mocker.patch.object(edge_upload, "run_script")
    edge_upload._Provider().delete("edge", {**PROPS, "stackId": "ours"})
    _, line, text = run.call_args.args
    assert line == "sudo -n sh -s -- --leaving=ours remove"
    assert text.endswith("\nlock\nrm -f /var/lib/immich-exposure/edge-*\n"), "another stack's stays"


def test_the_source_is_what_decides_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_digest()
    assert before == source_digest()
    monkeypatch.setattr(edge, "GO_RELEASE", "go1.99.0")
    assert source_digest() != before
