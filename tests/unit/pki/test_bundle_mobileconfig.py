"""The Apple configuration profile: what stands in it, and how it comes and goes with its bundle."""

from __future__ import annotations

import plistlib
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pki import AuthorityProfile, DeviceCredential, DeviceProfile, Keystore, Platform
from pki.bundle import open_bundle
from pki.mobileconfig import make_mobileconfig, takes_profile
from tests.unit.pki.facts import quick_keystore, snapshot
from tests.unit.pki.killing import deaths

PHONE = DeviceProfile("phone", platform=Platform.IOS)
NAME = "devices/phone.mobileconfig"


@pytest.fixture
def iphone(folder: Path) -> DeviceCredential:
    """The device of `folder` after it has become an iPhone."""
    return adopt(quick_keystore(folder))


def adopt(store: Keystore, profile: DeviceProfile = PHONE) -> DeviceCredential:
    store.adopt_or_create_authority(AuthorityProfile())
    return store.adopt_or_issue_device("phone", profile)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = plistlib.loads(path.read_bytes(), fmt=plistlib.FMT_XML)
    return content


def assert_fits(device: DeviceCredential) -> None:
    """The profile holds the bundle that lies beside it, and that opens with the device's password."""
    assert device.mobileconfig_path is not None
    [identity] = read(device.mobileconfig_path)["PayloadContent"]
    assert identity["PayloadContent"] == device.bundle_path.read_bytes()
    opened = open_bundle(identity["PayloadContent"], device.bundle_password)
    assert opened.cert is not None
    assert opened.cert.certificate == device.certificate


def test_a_profile_holds_the_bundle_alone_and_not_its_password(iphone: DeviceCredential) -> None:
    assert_fits(iphone)
    assert iphone.mobileconfig_path is not None
    profile = read(iphone.mobileconfig_path)
    assert profile["PayloadType"] == "Configuration"
    [identity] = profile["PayloadContent"]
    assert identity["PayloadType"] == "com.apple.security.pkcs12"
    assert "Password" not in identity
    assert iphone.bundle_password not in iphone.mobileconfig_path.read_text()
    for payload in (profile, identity):
        assert payload["PayloadVersion"] == 1
        assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", payload["PayloadUUID"])
    assert profile["PayloadIdentifier"] == "immich-exposure.home.phone"
    assert identity["PayloadIdentifier"] == "immich-exposure.home.phone.identity"
    assert profile["PayloadUUID"] != identity["PayloadUUID"]


def test_a_renewed_certificate_has_the_same_identifier_and_other_uuids() -> None:
    def profile(fingerprint: str) -> dict[str, Any]:
        content = make_mobileconfig(name="phone", owner="home", fingerprint=fingerprint, bundle=b"p12")
        parsed: dict[str, Any] = plistlib.loads(content)
        return parsed

    first, again, renewed = profile("aa"), profile("aa"), profile("bb")
    assert first == again
    assert renewed["PayloadIdentifier"] == first["PayloadIdentifier"]
    assert renewed["PayloadUUID"] != first["PayloadUUID"]
    assert renewed["PayloadContent"][0]["PayloadUUID"] != first["PayloadContent"][0]["PayloadUUID"]


def test_only_apples_platforms_take_one() -> None:
    assert {platform for platform in Platform if takes_profile(platform)} == {Platform.IOS, Platform.MACOS}


@pytest.mark.parametrize("platform", Platform)
def test_the_profile_comes_and_goes_with_the_platform(platform: Platform, folder: Path) -> None:
    store = quick_keystore(folder)
    device = adopt(store, replace(PHONE, platform=platform))
    assert (device.mobileconfig_path is not None) is takes_profile(platform)
    assert (NAME in snapshot(folder)) is takes_profile(platform)
    assert adopt(store).mobileconfig_path == folder / NAME
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600
    assert adopt(store, replace(PHONE, platform=Platform.ANDROID)).mobileconfig_path is None
    assert NAME not in snapshot(folder)


def test_adopting_changes_nothing_and_repairs_what_is_lost_or_old(
    iphone: DeviceCredential, folder: Path
) -> None:
    before = snapshot(folder)
    assert adopt(quick_keystore(folder, stack=None)) == iphone
    assert snapshot(folder) == before
    for damage in (b"", b"an old profile", None):
        (folder / NAME).unlink()
        if damage is not None:
            (folder / NAME).write_bytes(damage)
        adopt(quick_keystore(folder))
        assert snapshot(folder) == before


def test_revoking_moves_it_and_purging_removes_it(iphone: DeviceCredential, folder: Path) -> None:
    before = snapshot(folder)
    store = quick_keystore(folder)
    store.revoke_device("phone", iphone.fingerprint)
    after = snapshot(folder)
    assert not any(name.startswith("devices/") for name in after)
    assert after[f"revoked/phone-{iphone.fingerprint[:16]}.mobileconfig"] == before[NAME]
    assert adopt(store).fingerprint != iphone.fingerprint
    store.purge()
    assert not folder.exists()


def test_a_death_at_any_point_of_issuing(tmp_path: Path) -> None:
    for folder, store in deaths(None, tmp_path, adopt):
        assert_fits(adopt(store))
        assert not any(Path(name).name.startswith(".") for name in snapshot(folder))


def test_a_death_at_any_point_of_changing_the_platform(iphone: DeviceCredential, tmp_path: Path) -> None:
    prepared = iphone.bundle_path.parent.parent
    for folder, store in deaths(
        prepared, tmp_path / "gone", lambda store: adopt(store, replace(PHONE, platform=Platform.LINUX))
    ):
        adopt(store, replace(PHONE, platform=Platform.LINUX))
        assert NAME not in snapshot(folder)
        assert_fits(adopt(store))


def test_a_profile_never_lies_beside_a_password_that_does_not_open_it(
    iphone: DeviceCredential, tmp_path: Path
) -> None:
    lost = Path(shutil.copytree(iphone.bundle_path.parent.parent, tmp_path / "lost"))
    (lost / "devices/phone.password").unlink()
    for folder, store in deaths(lost, tmp_path, adopt):
        both = (folder / "devices/phone.password").exists() and (folder / NAME).exists()
        kept = Path(shutil.copytree(folder, folder.parent / "kept"))
        device = adopt(store)
        assert_fits(device)
        if both:
            [identity] = read(kept / NAME)["PayloadContent"]
            assert open_bundle(identity["PayloadContent"], device.bundle_password).cert is not None


def test_a_death_at_any_point_of_revoking(iphone: DeviceCredential, tmp_path: Path) -> None:
    def revoke(store: Keystore) -> None:
        store.revoke_device("phone", iphone.fingerprint)

    for folder, store in deaths(iphone.bundle_path.parent.parent, tmp_path / "killed", revoke):
        revoke(store)
        after = snapshot(folder)
        assert f"revoked/phone-{iphone.fingerprint[:16]}.mobileconfig" in after
        assert NAME not in after
