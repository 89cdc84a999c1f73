"""A run killed at any point: the next one finds the old state or the new one, and completes it.

Every change goes through a handful of system calls. Each test runs an operation again and again, killed
before the first of them, before the second, and so on, until it survives; after each death a new keystore is
opened. The kill is an exception that nothing catches, so no clean-up code runs that a real death would skip.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from pki import AuthorityProfile, DeviceCredential, DeviceProfile, Keystore, Platform
from pki.bundle import open_bundle
from pki.key import decrypt_key
from tests.unit.pki.facts import PASSPHRASE, assert_is_ca, assert_is_leaf, quick_keystore, snapshot
from tests.unit.pki.killing import deaths

PHONE = DeviceProfile("phone")


def create(store: Keystore) -> DeviceCredential:
    store.adopt_or_create_authority(AuthorityProfile())
    return store.adopt_or_issue_device("phone", PHONE)


def assert_whole(folder: Path, store: Keystore, device: DeviceCredential) -> None:
    """Authority and device are complete and fit together, and adopting them again changes nothing."""
    authority = store.adopt_or_create_authority(AuthorityProfile())
    assert_is_ca(authority.certificate)
    assert_is_leaf(device.certificate, authority.certificate)
    key = decrypt_key(device.key_path.read_bytes(), PASSPHRASE)
    assert key.public_key() == device.certificate.public_key()
    opened = open_bundle(device.bundle_path.read_bytes(), device.bundle_password)
    assert opened.cert is not None
    assert opened.cert.certificate == device.certificate
    before = snapshot(folder)
    assert store.adopt_or_issue_device("phone", replace(PHONE, platform=device.platform)) == device
    assert snapshot(folder) == before
    assert not any(Path(name).name.startswith(".") for name in before)
    assert {Path(name).suffix for name in before} == {".crt", ".key", ".p12", ".password", ".json"}


def test_creating_authority_and_device(tmp_path: Path) -> None:
    for folder, store in deaths(None, tmp_path, create):
        seen = snapshot(folder)
        device = create(store)
        assert_whole(folder, store, device)
        after = snapshot(folder)
        for name in {"ca.key", "ca.crt", "devices/phone.crt"} & seen.keys():
            assert after[name] == seen[name], f"{name} was there and is another now"


def test_creating_and_then_purging(tmp_path: Path) -> None:
    for folder, store in deaths(None, tmp_path, create):
        store.purge()
        assert not folder.exists()


def test_issuing_over_what_a_killed_purge_left(made_once: Path, tmp_path: Path) -> None:
    left = Path(shutil.copytree(made_once, tmp_path / "left"))
    (left / "devices/phone.crt").unlink()
    for folder, store in deaths(left, tmp_path, create):
        assert_whole(folder, store, create(store))


def test_rewriting_a_bundle_for_another_platform(made_once: Path, tmp_path: Path) -> None:
    linux = replace(PHONE, platform=Platform.LINUX)
    first = create(quick_keystore(Path(shutil.copytree(made_once, tmp_path / "first"))))
    for folder, store in deaths(
        made_once, tmp_path, lambda store: store.adopt_or_issue_device("phone", linux)
    ):
        device = store.adopt_or_issue_device("phone", linux)
        assert device.bundle_password == first.bundle_password
        assert device.fingerprint == first.fingerprint
        assert_whole(folder, store, device)


def test_making_a_bundle_whose_password_was_lost(made_once: Path, tmp_path: Path) -> None:
    lost = Path(shutil.copytree(made_once, tmp_path / "lost"))
    (lost / "devices/phone.password").unlink()
    for folder, store in deaths(lost, tmp_path, create):
        assert_whole(folder, store, create(store))


def test_revoking(made_once: Path, tmp_path: Path) -> None:
    old = create(quick_keystore(Path(shutil.copytree(made_once, tmp_path / "first"))))

    def revoke(store: Keystore) -> None:
        store.revoke_device("phone", old.fingerprint)

    stem = f"revoked/phone-{old.fingerprint[:16]}"
    for folder, store in deaths(made_once, tmp_path, revoke):
        promised = (folder / f"{stem}.crt").exists()
        probes = [probe.name for probe in store.probe_credentials()]
        assert probes == ([] if promised else ["phone"]), "a device is in use or revoked, never both"
        again = Path(shutil.copytree(folder, folder.parent / "again"))
        revoke(store)
        after = snapshot(folder)
        assert {f"{stem}.{suffix}" for suffix in ("crt", "key", "p12", "password")} <= after.keys()
        assert not any(name.startswith("devices/") for name in after)
        # or the next run wants the device back, as when it was taken out and put in again
        device = create(quick_keystore(again))
        assert (device.fingerprint == old.fingerprint) is not promised


def test_purging(made_once: Path, tmp_path: Path) -> None:
    for folder, store in deaths(made_once, tmp_path, lambda store: store.purge()):
        again = folder.parent / "again"
        if folder.exists():
            shutil.copytree(folder, again)
        store.purge()
        assert not folder.exists()
        assert_whole(again, quick_keystore(again), create(quick_keystore(again)))


def test_adopting_a_keystore_without_its_marker(made_once: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(made_once, tmp_path / "bare"))
    (bare / "keystore.json").unlink()
    for folder, store in deaths(bare, tmp_path, create):
        assert_whole(folder, store, create(store))
