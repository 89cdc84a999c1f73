"""The install sheet: complete for every platform, harmless, and whole on disk."""

from __future__ import annotations

import shutil
import stat
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from string import Template

import pytest

from handover import sheet
from handover.guides import GUIDES
from handover.sheet import (
    Guidance,
    SheetContent,
    groups,
    read_guidance,
    remove_sheet,
    render_sheet,
    sheet_path,
    wording_digest,
    write_sheet,
)
from pki import DeviceProfile, KeystoreError, Platform
from pki.files import locked
from tests.unit.pki.facts import PASSPHRASE, quick_keystore
from toolchain.paths import PROJECT

FINGERPRINT = "0123456789abcdef" * 4
CONTENT = SheetContent(
    device="phone",
    platform=Platform.IOS,
    url="https://immich.example.ts.net",
    fingerprint=FINGERPRINT,
    not_after=datetime(2036, 11, 5, 23, 59, tzinfo=UTC),
    stack="home",
)

BROKEN = "https://immich<wbr>.example<wbr>.ts<wbr>.net"
"""An address as it is in the page, to be broken before a dot."""

VOID = {"meta", "rect", "path", "wbr"}


class Page(HTMLParser):
    """Reads a page strictly: every element must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of this name."""
        return [attributes for name, attributes in self.elements if name == tag]


def words(page: Page) -> str:
    """The page's text with single spaces."""
    return " ".join(page.text.split())


@pytest.mark.parametrize("platform", list(Platform))
def test_a_sheet_says_all_that_a_person_needs(platform: Platform) -> None:
    page = Page(render_sheet(replace(CONTENT, platform=platform)))
    text = words(page)
    for wanted in (
        "Immich on phone",
        "https://immich.example.ts.net",
        "phone.p12",
        "5 November 2036",
        "If the device is lost",
        "Check that it works",
        "https://immich.example.ts.net/immich-exposure shows which one it sends",
        "pulumi up --stack home",
        "make handover DEVICE=phone STACK=home",
        GUIDES[platform].noun,
    ):
        assert wanted in text, wanted
    assert FINGERPRINT in text.replace(" ", "")
    assert "{" not in text and "$" not in text
    assert len(page.named("h3")) == len(GUIDES[platform].steps) >= 3


def test_the_sheet_of_a_renewed_device_says_until_when_the_old_certificate_counts() -> None:
    renewed = replace(CONTENT, previous_until=datetime(2026, 12, 8, tzinfo=UTC))
    text = words(Page(render_sheet(renewed)))
    assert "The one that phone has keeps working until 8 December 2026: take the steps below" in text
    assert "This is a new certificate." not in words(Page(render_sheet(CONTENT)))


def test_each_platform_is_told_its_own_way() -> None:
    texts = {
        platform: words(Page(render_sheet(replace(CONTENT, platform=platform)))) for platform in Platform
    }
    assert "VPN & app user certificate" in texts[Platform.ANDROID]
    assert "VPN &amp; app user" in render_sheet(replace(CONTENT, platform=Platform.ANDROID))
    assert "Profile Downloaded" in texts[Platform.IOS]
    assert "login keychain" in texts[Platform.MACOS]
    assert "Current User" in texts[Platform.WINDOWS]
    assert "chrome://settings/certificates" in texts[Platform.LINUX]
    for platform in (Platform.IOS, Platform.ANDROID):
        assert "SSL client certificate" in texts[platform]


@pytest.mark.parametrize("platform", [Platform.IOS, Platform.ANDROID, Platform.LINUX])
def test_the_readme_leads_through_the_same_menus(platform: Platform) -> None:
    readme = (PROJECT / "README.md").read_text()
    for step in GUIDES[platform].steps:
        assert ", ".join(step.menu) in readme
    assert "Privacy & Security, View Certificates, Your Certificates, Import" in readme
    [android] = [step.menu for step in GUIDES[Platform.ANDROID].steps if "Install a certificate" in step.menu]
    assert ", ".join(android) in (PROJECT / "docs/troubleshooting.md").read_text()


@pytest.mark.parametrize("platform", list(Platform))
def test_a_sheet_loads_nothing_and_runs_nothing(platform: Platform) -> None:
    page = Page(render_sheet(replace(CONTENT, platform=platform)))
    assert {name for name, _ in page.elements}.isdisjoint(
        {"script", "link", "img", "iframe", "object", "form", "base", "embed", "input", "use", "image"}
    )
    assert page.named("a") == [{"href": f"{CONTENT.url}/immich-exposure"}]
    for name, attributes in page.elements:
        if name == "a":
            continue
        assert not {key for key in attributes if key.startswith("on") or key in ("src", "href", "style")}, (
            name
        )
    policy = next(meta["content"] for meta in page.named("meta") if "http-equiv" in meta)
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "url(" not in render_sheet(CONTENT) and "@import" not in render_sheet(CONTENT)


HOSTILE = "<script>alert('x')</script>\"&{bundle}$url"


@pytest.mark.parametrize("platform", list(Platform))
def test_hostile_values_stay_text(platform: Platform) -> None:
    """Names are checked long before; the sheet does not rely on it."""
    page = Page(
        render_sheet(
            replace(CONTENT, platform=platform, device=HOSTILE, url=f"https://{HOSTILE}", stack=HOSTILE)
        )
    )
    assert not page.named("script")
    assert page.named("a") == [{"href": f"https://{HOSTILE}/immich-exposure"}]
    assert HOSTILE in page.text
    assert f"https://{HOSTILE}" in page.text


@pytest.mark.parametrize("changed", ["_STYLE", "_TEMPLATE", "guide"])
def test_other_words_on_any_platform_are_another_wording(
    monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    before = wording_digest()
    assert wording_digest() == before
    if changed == "guide":
        guide = GUIDES[Platform.LINUX]
        monkeypatch.setitem(GUIDES, Platform.LINUX, replace(guide, test=f"{guide.test} Truly."))
    elif changed == "_STYLE":
        monkeypatch.setattr(sheet, "_STYLE", f"{sheet._STYLE} ")
    else:
        monkeypatch.setattr(sheet, "_TEMPLATE", Template(f"{sheet._TEMPLATE.template}<!-- -->"))
    assert wording_digest() != before


@pytest.mark.parametrize("platform", list(Platform))
def test_a_sheet_tells_the_hand_over_its_platform_and_address(
    tmp_path: Path, keystore: Path, platform: Platform
) -> None:
    copy = Path(shutil.copytree(keystore, tmp_path / "keystore"))
    for url in (CONTENT.url, f"{CONTENT.url}:8443"):
        write_sheet(copy, replace(CONTENT, platform=platform, url=url))
        assert read_guidance(copy, "phone") == Guidance(platform, url)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (f"{BROKEN}</p>", f"{BROKEN}/?<b>x</b></p>"),
        (f"{BROKEN}</p>", f"{BROKEN.replace('https', 'http')}</p>"),
        ("Install sheet · iPhone or iPad", "Install sheet · <script>"),
        ("Install sheet · iPhone or iPad", "Install sheet · phone"),
    ],
)
def test_a_sheet_that_was_altered_tells_it_nothing(
    tmp_path: Path, keystore: Path, ours: str, theirs: str
) -> None:
    copy = Path(shutil.copytree(keystore, tmp_path / "keystore"))
    sheet_path(copy, "phone").unlink(missing_ok=True)
    assert read_guidance(copy, "phone") is None
    path = write_sheet(copy, CONTENT)
    text = path.read_text()
    assert ours in text
    path.write_text(text.replace(ours, theirs))
    assert read_guidance(copy, "phone") is None


def test_a_fingerprint_comes_in_groups_of_four() -> None:
    assert groups(FINGERPRINT.upper()) == ["0123", "4567", "89ab", "cdef"] * 4
    with pytest.raises(ValueError):
        groups("not hexadecimal")


# On disk


def test_a_sheet_is_written_for_its_owner_alone_and_holds_no_secret(tmp_path: Path, keystore: Path) -> None:
    store = quick_keystore(keystore, now=datetime.now(UTC))
    phone = store.adopt_or_issue_device("phone", DeviceProfile("phone"))
    path = write_sheet(
        tmp_path / "keystore", replace(CONTENT, fingerprint=phone.fingerprint, not_after=phone.not_after)
    )
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "keystore" / "devices" / "phone.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for secret in (phone.bundle_password, PASSPHRASE, "PRIVATE KEY"):
        assert secret not in text


def test_a_sheet_waits_for_a_run_that_uses_the_keystore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run sweeps unfinished files from that folder, so writing without the lock could fail half-way."""
    path = write_sheet(tmp_path, CONTENT)
    before = path.read_bytes()
    monkeypatch.setattr(sheet, "_LOCK_WAIT_SECONDS", 0.0)
    with locked(tmp_path, 1):
        with pytest.raises(KeystoreError, match="Another run"):
            write_sheet(tmp_path, replace(CONTENT, url="https://other.example.ts.net"))
        with pytest.raises(KeystoreError, match="Another run"):
            remove_sheet(tmp_path, "phone", lock_wait_seconds=0)
    assert path.read_bytes() == before


def test_the_keystore_is_not_disturbed_by_a_sheet(tmp_path: Path, keystore: Path) -> None:
    store = quick_keystore(keystore, now=datetime.now(UTC))
    before = store.probe_credentials()
    path = write_sheet(keystore, CONTENT)
    phone = store.adopt_or_issue_device("phone", DeviceProfile("phone"))
    assert store.probe_credentials() == before
    assert path.exists() and phone.name == "phone"
    remove_sheet(keystore, "phone")
    assert not path.exists()


def test_removing_a_sheet_can_be_repeated_and_makes_nothing(tmp_path: Path) -> None:
    remove_sheet(tmp_path / "nowhere", "phone")
    assert not (tmp_path / "nowhere").exists()
    write_sheet(tmp_path, CONTENT)
    remove_sheet(tmp_path, "phone")
    remove_sheet(tmp_path, "phone")
    assert not sheet_path(tmp_path, "phone").exists()


@pytest.mark.parametrize("name", ["../phone", "a/b", "", ".hidden"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeystoreError, match="cannot be used as a file name"):
        write_sheet(tmp_path, replace(CONTENT, device=name))
    assert not list(tmp_path.iterdir())
