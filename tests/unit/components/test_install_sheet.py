"""The sheet as a resource: written, rewritten when its words change, removed without ever failing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pulumi.dynamic import CreateResult

from components import install_sheet
from components.install_sheet import _content, _Provider
from handover.sheet import sheet_digest
from pki.files import locked


@pytest.fixture
def props(tmp_path: Path) -> dict[str, Any]:
    return {
        "keystore": str(tmp_path / "keystore"),
        "stack": "home",
        "device": "phone",
        "platform": "android",
        "url": "https://immich.example.ts.net",
        "fingerprint": "ab" * 32,
        "notAfter": "2036-01-01T00:00:00+00:00",
        "previousUntil": "",
        "digest": "of the sheet",
    }


def _outs(result: CreateResult) -> dict[str, Any]:
    assert result.outs is not None
    return result.outs


def test_create_writes_the_sheet_and_names_its_path(props: dict[str, Any]) -> None:
    result = _Provider().create(props)
    path = Path(_outs(result)["path"])
    assert path == Path(props["keystore"]) / "devices" / "phone.html"
    assert "https://immich.example.ts.net" in path.read_text(encoding="utf-8")
    assert {**props, "path": str(path)} == result.outs


def test_update_writes_it_anew(props: dict[str, Any]) -> None:
    provider = _Provider()
    path = Path(_outs(provider.create(props))["path"])
    renewed = {**props, "fingerprint": "cd" * 32, "digest": "of another"}
    result = provider.update("phone", props, renewed)
    assert result.outs == {**renewed, "path": str(path)}
    assert "cdcd" in path.read_text(encoding="utf-8")


def test_delete_removes_it_and_can_be_repeated(props: dict[str, Any]) -> None:
    provider = _Provider()
    path = Path(_outs(provider.create(props))["path"])
    provider.delete("phone", props)
    provider.delete("phone", props)
    assert not path.exists()


def test_delete_never_fails_and_never_waits_long(
    props: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sheet must not keep a destroy from closing the funnel."""
    monkeypatch.setattr(install_sheet, "DELETE_WAIT_SECONDS", 0.0)
    provider = _Provider()
    path = Path(_outs(provider.create(props))["path"])
    with locked(Path(props["keystore"]), 1):
        provider.delete("phone", props)
    assert path.exists()
    # No more than a drive that cannot be read: what this gets is an OSError as from that.
    provider.delete("phone", {**props, "keystore": str(tmp_path / ("k" * 300))})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("url", "https://other.example.ts.net"),
        ("fingerprint", "cd" * 32),
        ("notAfter", "2030-01-01T00:00:00+00:00"),
        ("platform", "ios"),
        ("stack", "work"),
        ("previousUntil", "2030-01-01T00:00:00+00:00"),
    ],
)
def test_the_digest_follows_what_the_sheet_says(props: dict[str, Any], key: str, value: str) -> None:
    assert sheet_digest(_content(props)) != sheet_digest(_content({**props, key: value}))
    assert sheet_digest(_content(props)) == sheet_digest(_content(dict(props)))
