"""The sheets as a resource: written, rewritten when their words change, removed without ever failing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components import install_sheets
from components.install_sheets import _Provider
from pki.files import locked


def _sheet(**changes: str) -> dict[str, str]:
    sheet = {
        "platform": "android",
        "fingerprint": "ab" * 32,
        "notAfter": "2036-01-01T00:00:00+00:00",
        "previousUntil": "",
    }
    return sheet | changes


@pytest.fixture
def props(tmp_path: Path) -> dict[str, Any]:
    return {
        "keystore": str(tmp_path / "keystore"),
        "stack": "home",
        "url": "https://immich.example.ts.net",
        "sheets": {"phone": _sheet(), "tablet": _sheet(platform="ios")},
        "wording": "a digest",
    }


def _path(props: dict[str, Any], device: str) -> Path:
    return Path(props["keystore"]) / "devices" / f"{device}.html"


def test_create_writes_each_sheet_with_its_own_content(props: dict[str, Any]) -> None:
    assert _Provider().create(props).outs == props
    texts = [_path(props, device).read_text(encoding="utf-8") for device in ("phone", "tablet")]
    assert all("https://immich.example.ts.net" in text for text in texts)
    assert texts[0] != texts[1]


def test_update_writes_what_has_changed_and_what_was_lost(props: dict[str, Any]) -> None:
    provider = _Provider()
    provider.create(props)
    _path(props, "tablet").unlink()
    renewed = {**props, "sheets": {**props["sheets"], "phone": _sheet(fingerprint="cd" * 32)}}
    assert provider.update("sheets", props, renewed).outs == renewed
    assert "cdcd" in _path(props, "phone").read_text(encoding="utf-8")
    assert _path(props, "tablet").exists()


@pytest.mark.parametrize("changed", ["url", "stack", "wording", None])
def test_update_leaves_the_other_sheets_alone_unless_all_change(
    props: dict[str, Any], changed: str | None
) -> None:
    """With many devices, one more would otherwise take as long as all of them."""
    provider = _Provider()
    provider.create(props)
    _path(props, "tablet").write_text("as it was")
    news = {**props, "sheets": {**props["sheets"], "laptop": _sheet()}}
    provider.update(
        "sheets", props, news if changed is None else {**news, changed: "https://new.example.ts.net"}
    )
    assert (_path(props, "tablet").read_text() == "as it was") is (changed is None)
    assert _path(props, "laptop").exists()


def test_delete_removes_them_and_can_be_repeated(props: dict[str, Any]) -> None:
    provider = _Provider()
    provider.create(props)
    provider.delete("sheets", props)
    provider.delete("sheets", props)
    assert not _path(props, "phone").exists() and not _path(props, "tablet").exists()


def test_delete_never_fails_and_never_waits_long(
    props: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sheet must not keep a destroy from closing the funnel."""
    monkeypatch.setattr(install_sheets, "DELETE_WAIT_SECONDS", 0.0)
    provider = _Provider()
    provider.create(props)
    with locked(Path(props["keystore"]), 1):
        provider.delete("sheets", props)
    assert _path(props, "phone").exists()
    # No more than a drive that cannot be read: what this gets is an OSError as from that.
    provider.delete("sheets", {**props, "keystore": str(tmp_path / ("k" * 300))})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fingerprint", "cd" * 32),
        ("notAfter", "2030-01-01T00:00:00+00:00"),
        ("platform", "ios"),
        ("previousUntil", "2030-01-01T00:00:00+00:00"),
    ],
)
def test_a_sheet_says_what_its_entry_says(props: dict[str, Any], key: str, value: str) -> None:
    provider = _Provider()
    provider.create(props)
    before = _path(props, "phone").read_text(encoding="utf-8")
    changed = {**props, "sheets": {**props["sheets"], "phone": _sheet(**{key: value})}}
    provider.update("sheets", props, changed)
    assert _path(props, "phone").read_text(encoding="utf-8") != before
