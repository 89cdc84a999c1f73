"""The keystore: what it creates, adopts, repairs, revokes and refuses."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from pki import (
    AuthorityProfile,
    DeviceCredential,
    DeviceProfile,
    Keystore,
    KeystoreError,
    KeyType,
    Platform,
)
from pki.authority import create_authority
from pki.bundle import BundleFormat, format_of, open_bundle
from pki.certificate import certificate_builder, key_usage, pem, subject_name
from pki.files import explain, locked, write_file
from pki.key import decrypt_key, generate_key
from tests.unit.pki.facts import NOW, PASSPHRASE, assert_is_ca, assert_is_leaf, quick_keystore, snapshot

PHONE = DeviceProfile("phone")
ALL_FILES = {
    "ca.crt",
    "ca.key",
    "keystore.json",
    "devices/phone.crt",
    "devices/phone.key",
    "devices/phone.p12",
    "devices/phone.password",
}


def assert_refused(sentence: str, folder: Path, action: Callable[[], object]) -> None:
    """The action is refused with this in the message, and no file is other than before."""
    before = snapshot(folder)
    with pytest.raises(KeystoreError, match=sentence) as refusal:
        action()
    assert snapshot(folder) == before
    assert PASSPHRASE not in str(refusal.value)
    assert str(refusal.value).endswith(".")


def adopt_both(store: Keystore) -> DeviceCredential:
    store.adopt_or_create_authority(AuthorityProfile())
    return store.adopt_or_issue_device("phone", PHONE)


# Creating and adopting


def test_a_new_keystore_holds_an_authority_and_a_device(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "keystore"
    store = quick_keystore(folder)
    authority = store.adopt_or_create_authority(AuthorityProfile())
    device = store.adopt_or_issue_device("phone", PHONE)
    assert_is_ca(authority.certificate)
    assert_is_leaf(device.certificate, authority.certificate)
    assert set(snapshot(folder)) == ALL_FILES
    assert device.certificate_path.read_text() == device.certificate_pem
    key = decrypt_key(device.key_path.read_bytes(), PASSPHRASE)
    assert key.public_key() == device.certificate.public_key()
    opened = open_bundle(device.bundle_path.read_bytes(), device.bundle_password)
    assert opened.cert is not None
    assert opened.cert.certificate == device.certificate
    assert [each.certificate for each in opened.additional_certs] == [authority.certificate]


def test_files_are_the_owners_alone(folder: Path, store: Keystore) -> None:
    adopt_both(store)
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_no_secret_stands_in_a_file_or_a_text(folder: Path, store: Keystore) -> None:
    device = adopt_both(store)
    for content in snapshot(folder).values():
        assert device.bundle_password.encode() not in content
        assert PASSPHRASE.encode() not in content
        assert b"BEGIN PRIVATE KEY" not in content
    authority = store.adopt_or_create_authority(AuthorityProfile())
    shown = f"{device!r} {authority!r} {vars(store)!r}"
    assert device.bundle_password not in shown
    assert PASSPHRASE not in shown
    assert "PrivateKey" not in shown


def test_what_is_there_is_adopted_byte_for_byte(folder: Path, store: Keystore) -> None:
    first = adopt_both(store)
    before = snapshot(folder)
    second = adopt_both(quick_keystore(folder, now=NOW + timedelta(days=300)))
    assert second == first
    assert snapshot(folder) == before


def test_another_validity_concerns_new_certificates_alone(folder: Path, store: Keystore) -> None:
    before = snapshot(folder)
    store.adopt_or_create_authority(AuthorityProfile(validity_days=10))
    store.adopt_or_issue_device("phone", replace(PHONE, validity_days=10))
    assert snapshot(folder) == before


def test_a_keystore_that_its_owner_made_by_hand_is_adopted(folder: Path) -> None:
    (folder / "keystore.json").unlink()
    first = adopt_both(quick_keystore(folder))
    assert first.name == "phone"
    assert json.loads((folder / "keystore.json").read_text())["stack"] == "home"


def test_another_platform_rewrites_the_bundle_and_nothing_else(folder: Path, store: Keystore) -> None:
    first, before = adopt_both(store), snapshot(folder)
    second = store.adopt_or_issue_device("phone", replace(PHONE, platform=Platform.LINUX))
    after = snapshot(folder)
    assert {name for name in after if after[name] != before[name]} == {"devices/phone.p12"}
    assert (second.fingerprint, second.bundle_password) == (first.fingerprint, first.bundle_password)
    assert second.platform is Platform.LINUX
    assert format_of(after["devices/phone.p12"]) is BundleFormat.MODERN
    assert open_bundle(after["devices/phone.p12"], second.bundle_password).key is not None
    store.adopt_or_issue_device("phone", replace(PHONE, platform=Platform.LINUX))
    assert snapshot(folder) == after


@pytest.mark.parametrize("lost", [("p12",), ("password",), ("p12", "password")])
def test_a_lost_bundle_is_made_again_from_key_and_certificate(
    lost: tuple[str, ...], folder: Path, store: Keystore
) -> None:
    first = adopt_both(store)
    for suffix in lost:
        (folder / f"devices/phone.{suffix}").unlink()
    second = adopt_both(store)
    assert second.fingerprint == first.fingerprint
    assert (second.bundle_password == first.bundle_password) is ("password" not in lost)
    assert open_bundle(second.bundle_path.read_bytes(), second.bundle_password).key is not None


def test_a_key_type_of_rsa_reaches_authority_and_device(tmp_path: Path) -> None:
    store = quick_keystore(tmp_path)
    profile = AuthorityProfile(key_type=KeyType.RSA_4096)
    authority = store.adopt_or_create_authority(profile)
    assert store.adopt_or_create_authority(profile).fingerprint == authority.fingerprint
    device = store.adopt_or_issue_device("phone", PHONE)
    assert_is_leaf(device.certificate, authority.certificate)


# Refusing


def test_a_wrong_passphrase_is_told_from_a_damaged_file(folder: Path) -> None:
    wrong = quick_keystore(folder, "another passphrase")
    assert_refused(
        "ca.key does not open with this passphrase. Set `keystorePassphrase`",
        folder,
        lambda: wrong.adopt_or_create_authority(AuthorityProfile()),
    )
    assert_refused(
        "phone.key does not open with this", folder, lambda: wrong.adopt_or_issue_device("phone", PHONE)
    )
    assert_refused(
        "ca.key does not open with this",
        folder,
        lambda: wrong.adopt_or_issue_device("new", DeviceProfile("new")),
    )


@pytest.mark.parametrize("passphrase", [None, "", "x" * 11])
def test_a_short_passphrase_is_refused_before_anything_is_made(
    passphrase: str | None, tmp_path: Path
) -> None:
    store = quick_keystore(tmp_path / "keystore", passphrase)
    with pytest.raises(KeystoreError, match="at least 12 characters"):
        store.adopt_or_create_authority(AuthorityProfile())
    with pytest.raises(KeystoreError, match="at least 12 characters"):
        store.adopt_or_issue_device("phone", PHONE)
    assert not (tmp_path / "keystore").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ca.crt", "does not hold a certificate. Restore it"),
        ("ca.key", "the passphrase is right, but the file does not open. Restore it"),
        ("keystore.json", "is damaged. Restore it from a backup, or delete it"),
        ("devices/phone.crt", "does not hold a certificate. Restore it"),
        ("devices/phone.key", "the passphrase is right, but the file does not open. Restore it"),
        ("devices/phone.p12", "does not open with its password. Delete it; the next run writes it again"),
        ("devices/phone.password", "is damaged. Restore it from a backup, or delete it"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "empty", "garbage"])
def test_a_damaged_file_is_named_and_left_alone(
    name: str, sentence: str, damage: str, folder: Path, store: Keystore
) -> None:
    content = (folder / name).read_bytes()
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "garbage": bytes(range(256))}[damage]
    (folder / name).write_bytes(damaged)
    assert_refused(f"{name}.*{sentence}", folder, lambda: adopt_both(store))


def test_the_remedies_for_a_bundle_and_its_password_work(folder: Path, store: Keystore) -> None:
    first = adopt_both(store)
    for suffix in ("p12", "password"):
        (folder / f"devices/phone.{suffix}").write_bytes(b"damaged")
        with pytest.raises(KeystoreError, match="elete it"):
            adopt_both(store)
        (folder / f"devices/phone.{suffix}").unlink()
        assert adopt_both(store).fingerprint == first.fingerprint


def test_files_of_two_keystores_do_not_mix(folder: Path, store: Keystore, tmp_path: Path) -> None:
    other = tmp_path / "other"
    adopt_both(quick_keystore(other))
    for name, sentence in [
        ("ca.key", "ca.key is not the key of .*ca.crt"),
        ("ca.crt", "ca.key is not the key of .*ca.crt"),
        ("devices/phone.key", "phone.key is not the key of .*phone.crt"),
        ("devices/phone.crt", "phone.crt was not signed by .*ca.crt"),
        ("devices/phone.p12", "phone.p12 is damaged: it does not open with its password"),
    ]:
        mixed = Path(shutil.copytree(folder, tmp_path / "mixed", dirs_exist_ok=True))
        (mixed / name).write_bytes((other / name).read_bytes())
        assert_refused(sentence, mixed, lambda: adopt_both(quick_keystore(mixed)))  # noqa: B023


def test_a_bundle_of_an_older_certificate_is_refused(folder: Path, store: Keystore) -> None:
    first = adopt_both(store)
    store.revoke_device("phone", first.fingerprint)
    adopt_both(store)
    stem = f"revoked/phone-{first.fingerprint[:16]}"
    for suffix in ("p12", "password"):
        shutil.copy(folder / f"{stem}.{suffix}", folder / f"devices/phone.{suffix}")
    assert_refused("phone.p12 is not the bundle of .*phone.crt", folder, lambda: adopt_both(store))


def test_two_devices_passwords_cannot_be_swapped(folder: Path, store: Keystore) -> None:
    store.adopt_or_issue_device("tablet", DeviceProfile("tablet"))
    shutil.copy(folder / "devices/tablet.password", folder / "devices/phone.password")
    assert_refused("phone.password is damaged", folder, lambda: adopt_both(store))


def test_a_plain_key_is_refused(folder: Path, store: Keystore) -> None:
    key = decrypt_key((folder / "ca.key").read_bytes(), PASSPHRASE)
    (folder / "ca.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    assert_refused("ca.key is not encrypted. Encrypt it with `openssl", folder, lambda: adopt_both(store))


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (["ca.key"], "ca.key is missing, but its certificate is there. Restore the key"),
        (["ca.crt"], r"ca.crt is missing, but there are certificates of devices \(phone\). Restore"),
        (["ca.crt", "ca.key"], r"ca.crt is missing, but there are certificates of devices \(phone\)"),
        (["devices/phone.key"], "phone.key is missing, but its certificate is there. Restore it"),
    ],
)
def test_half_of_a_pair_is_refused(missing: list[str], sentence: str, folder: Path, store: Keystore) -> None:
    for name in missing:
        (folder / name).unlink()
    assert_refused(sentence, folder, lambda: adopt_both(store))


def test_a_device_needs_an_authority_first(tmp_path: Path) -> None:
    store = quick_keystore(tmp_path / "keystore")
    with pytest.raises(KeystoreError, match="has no authority: .*ca.crt is missing"):
        store.adopt_or_issue_device("phone", PHONE)


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        (AuthorityProfile(common_name="Other CA"), "is for 'CN=Immich Client CA, .*asks for 'CN=Other CA, "),
        (AuthorityProfile(country="DE"), "Change the config back, or move the folder"),
        (AuthorityProfile(key_type=KeyType.RSA_4096), "has a key of type ecdsa-p256, .*asks for rsa-4096"),
    ],
)
def test_another_profile_does_not_change_an_authority(
    profile: AuthorityProfile, sentence: str, folder: Path, store: Keystore
) -> None:
    assert_refused(sentence, folder, lambda: store.adopt_or_create_authority(profile))


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        (DeviceProfile("Anna"), "is for 'CN=phone, O=MyOrg', but the config asks for 'CN=Anna, O=MyOrg'"),
        (
            DeviceProfile("phone", "Family"),
            "Change the config back, or move the files .*phone.{crt,key,p12,password} to",
        ),
        (replace(PHONE, key_type=KeyType.RSA_4096), "has a key of type ecdsa-p256, .*asks for rsa-4096"),
    ],
)
def test_another_profile_does_not_change_a_device(
    profile: DeviceProfile, sentence: str, folder: Path, store: Keystore
) -> None:
    assert_refused(sentence, folder, lambda: store.adopt_or_issue_device("phone", profile))
    first = adopt_both(store)
    store.revoke_device("phone", first.fingerprint)
    assert store.adopt_or_issue_device("phone", profile).fingerprint != first.fingerprint


def test_the_remedy_for_another_profile_works(folder: Path, store: Keystore, tmp_path: Path) -> None:
    for path in folder.glob("devices/phone.*"):
        path.rename(tmp_path / path.name)
    assert store.adopt_or_issue_device("phone", DeviceProfile("Anna")).subject == "CN=Anna, O=MyOrg"


def test_a_certificate_out_of_its_time_is_refused(folder: Path) -> None:
    late = quick_keystore(folder, now=NOW + timedelta(days=3651))
    assert_refused("ca.crt expired on 2036-11-21. To go on, move", folder, lambda: adopt_both(late))
    early = quick_keystore(folder, now=NOW - timedelta(days=1))
    assert_refused("is valid only from .* Set the clock right", folder, lambda: adopt_both(early))


def test_an_expired_device_is_refused_while_others_go_on(folder: Path, store: Keystore) -> None:
    store.adopt_or_issue_device("guest", DeviceProfile("guest", validity_days=7))
    late = quick_keystore(folder, now=NOW + timedelta(days=8))
    sentence = "guest.crt expired on 2026-12-01. To go on, move the files"
    assert_refused(sentence, folder, lambda: late.adopt_or_issue_device("guest", DeviceProfile("guest")))
    adopt_both(late)


@pytest.mark.parametrize("name", ["Phone", "PHONE"])
def test_names_may_not_differ_in_case_alone(name: str, folder: Path, store: Keystore) -> None:
    assert_refused(
        f"{name!r} differs only in upper and lower case from 'phone'",
        folder,
        lambda: store.adopt_or_issue_device(name, DeviceProfile(name)),
    )


def test_another_stacks_keystore_is_refused_whatever_is_asked(folder: Path) -> None:
    other = quick_keystore(folder, stack="lab")
    sentence = "belongs to the stack 'home', not to 'lab'. Set `keystore`"
    assert_refused(sentence, folder, lambda: other.adopt_or_create_authority(AuthorityProfile()))
    assert_refused(sentence, folder, lambda: other.adopt_or_issue_device("phone", PHONE))
    assert_refused(sentence, folder, lambda: other.revoke_device("phone", "0" * 64))
    assert_refused(sentence, folder, other.purge)
    adopt_both(quick_keystore(folder, stack=None))


def test_a_device_certificate_is_no_authority(folder: Path, store: Keystore) -> None:
    shutil.copy(folder / "devices/phone.crt", folder / "ca.crt")
    assert_refused("ca.crt is not the certificate of an authority", folder, lambda: adopt_both(store))


def test_a_certificate_that_only_signed_itself_is_no_authority(folder: Path, store: Keystore) -> None:
    key, name = generate_key(KeyType.ECDSA_P256), subject_name(common_name="Web", organization="Me")
    certificate = (
        certificate_builder(subject=name, issuer=name, key=key, not_before=NOW, not_after=NOW)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(pem(certificate))
    assert_refused("ca.crt is not the certificate of an authority", folder, lambda: adopt_both(store))


def test_an_authority_that_was_renewed_by_hand_gets_into_the_bundle(folder: Path, store: Keystore) -> None:
    first = adopt_both(store)
    key = decrypt_key((folder / "ca.key").read_bytes(), PASSPHRASE)
    renewed = create_authority(AuthorityProfile(), key, NOW)
    (folder / "ca.crt").write_bytes(pem(renewed.certificate))
    second = adopt_both(store)
    assert second.fingerprint == first.fingerprint
    opened = open_bundle(second.bundle_path.read_bytes(), second.bundle_password)
    assert [each.certificate for each in opened.additional_certs] == [renewed.certificate]


@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "disk is full. Free some space"),
        (errno.EROFS, "is on a read-only disk. Mount"),
        (errno.EACCES, "cannot be read or written by this user"),
        (errno.EIO, "could not be read or written"),
    ],
)
def test_a_disk_that_takes_no_writes_costs_nothing(
    function: str, number: int, sentence: str, folder: Path, store: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(folder))

    before = snapshot(folder)
    with monkeypatch.context() as patch:
        patch.setattr(f"pki.files.os.{function}", refuse)
        with pytest.raises(KeystoreError, match=sentence):
            store.adopt_or_issue_device("new", DeviceProfile("new"))
    assert snapshot(folder) == before
    assert store.adopt_or_issue_device("new", DeviceProfile("new")).name == "new"


@pytest.mark.parametrize("writes", range(4))
def test_a_disk_that_fills_up_on_the_way_costs_nothing(
    writes: int, folder: Path, store: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = iter(range(writes))

    def fills_up(path: Path, content: bytes) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_file(path, content)

    before = snapshot(folder)
    with monkeypatch.context() as patch:
        patch.setattr("pki.device_files.write_file", fills_up)
        with pytest.raises(KeystoreError, match="disk is full"):
            store.adopt_or_issue_device("new", DeviceProfile("new"))
    assert snapshot(folder) == before
    assert store.adopt_or_issue_device("new", DeviceProfile("new")).name == "new"


def test_something_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "keystore").write_text("a file")
    with pytest.raises(KeystoreError, match="has something in the way at .*keystore"):
        quick_keystore(tmp_path / "keystore").adopt_or_create_authority(AuthorityProfile())
    assert "something in the way" in str(explain(IsADirectoryError(errno.EISDIR, "is a folder"), tmp_path))


# Modes and the lock


def test_open_modes_are_closed_with_a_warning(
    folder: Path, store: Keystore, caplog: pytest.LogCaptureFixture
) -> None:
    for path, mode in [(folder, 0o755), (folder / "ca.key", 0o644), (folder / "devices/phone.key", 0o640)]:
        path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        adopt_both(store)
    assert len(caplog.records) == 3
    assert "ca.key had mode 0644; it is 0600 now" in caplog.text
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_second_run_waits_and_then_gives_up(folder: Path) -> None:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        impatient = quick_keystore(folder, lock_wait_seconds=0.05)
        assert_refused("Another run has been using the keystore", folder, lambda: adopt_both(impatient))
        released = threading.Timer(0.05, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        released.start()
        assert adopt_both(quick_keystore(folder)).name == "phone"
        released.join()


def test_a_lock_on_a_file_that_was_purged_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, purged = fcntl.flock, iter([True])

    def purged_before_the_lock(descriptor: int, operation: int) -> None:
        if next(purged, False):
            (tmp_path / ".lock").unlink()
        take(descriptor, operation)

    monkeypatch.setattr("pki.files.fcntl.flock", purged_before_the_lock)
    with (
        locked(tmp_path, wait_seconds=5),
        (tmp_path / ".lock").open() as other,
        pytest.raises(BlockingIOError),
    ):
        take(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_that_comes_or_goes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, make, meanwhile = tmp_path / "keystore", os.mkdir, iter(["made", "purged"])

    def with_another_run(path: Path, mode: int) -> None:
        event = next(meanwhile, "nothing") if path == folder else "nothing"
        make(path, mode)
        if event == "made":
            raise FileExistsError(errno.EEXIST, "was made by another run", str(path))
        if event == "purged":
            path.rmdir()

    monkeypatch.setattr("pki.files.os.mkdir", with_another_run)
    with locked(folder, wait_seconds=5):
        folder.joinpath(".lock").unlink()
    folder.rmdir()
    with locked(folder, wait_seconds=5):
        assert folder.joinpath(".lock").exists()


def test_many_at_once_make_one_authority_and_one_certificate_each(tmp_path: Path) -> None:
    def work(number: int) -> tuple[str, str]:
        store = quick_keystore(tmp_path / "keystore")
        authority = store.adopt_or_create_authority(AuthorityProfile())
        name = f"phone-{number % 4}"
        return authority.fingerprint, store.adopt_or_issue_device(name, DeviceProfile(name)).fingerprint

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(16)))
    assert len({authority for authority, _ in results}) == 1
    assert len({device for _, device in results}) == 4


def test_purging_while_others_work_breaks_neither(tmp_path: Path) -> None:
    def work(number: int) -> None:
        store = quick_keystore(tmp_path / "keystore")
        store.adopt_or_create_authority(AuthorityProfile()) if number % 2 else store.purge()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(48)))
    adopt_both(quick_keystore(tmp_path / "keystore"))


# Revoking, probing and purging


def test_revoking_moves_all_files_and_a_new_certificate_follows(folder: Path, store: Keystore) -> None:
    first, before = adopt_both(store), snapshot(folder)
    store.revoke_device("phone", first.fingerprint.upper())
    stem = f"revoked/phone-{first.fingerprint[:16]}"
    after = snapshot(folder)
    assert not any(name.startswith("devices/") for name in after)
    for suffix in ("crt", "key", "p12", "password"):
        assert after[f"{stem}.{suffix}"] == before[f"devices/phone.{suffix}"]
    second = adopt_both(store)
    assert second.fingerprint != first.fingerprint
    assert second.bundle_password != first.bundle_password


@pytest.mark.parametrize("end", ["revoke", "purge"])
def test_no_install_sheet_outlives_its_device(folder: Path, store: Keystore, end: str) -> None:
    phone = adopt_both(store)
    sheet = folder / "devices/phone.html"
    write_file(sheet, b"<p>Install it.</p>")
    assert store.inspect() == []
    if end == "revoke":
        store.revoke_device("phone", phone.fingerprint)
    else:
        store.purge()
    assert not list(folder.rglob("*.html"))


def test_revoking_what_is_not_current_changes_nothing(folder: Path, tmp_path: Path) -> None:
    store = quick_keystore(folder, passphrase=None)
    before = snapshot(folder)
    store.revoke_device("phone", "0" * 64)
    store.revoke_device("unknown", "0" * 64)
    assert snapshot(folder) == before
    quick_keystore(tmp_path / "nowhere").revoke_device("phone", "0" * 64)
    assert not (tmp_path / "nowhere").exists()


def test_probe_credentials_are_the_devices_that_are_valid_now(folder: Path, store: Keystore) -> None:
    store.adopt_or_issue_device("guest", DeviceProfile("guest", validity_days=7))
    store.adopt_or_issue_device("old", DeviceProfile("old"))
    old = store.adopt_or_issue_device("broken", DeviceProfile("broken"))
    old.certificate_path.write_text("damaged")
    (folder / "devices/old.key").unlink()
    assert [probe.name for probe in store.probe_credentials()] == ["guest", "phone"]
    later = quick_keystore(folder, passphrase=None, now=NOW + timedelta(days=8))
    [probe] = later.probe_credentials()
    assert (probe.name, probe.key_path) == ("phone", folder / "devices/phone.key")
    assert decrypt_key(probe.key_path.read_bytes(), PASSPHRASE).key_size == 256


def test_probing_without_an_authority_finds_nobody(folder: Path, tmp_path: Path) -> None:
    assert quick_keystore(tmp_path / "nowhere").probe_credentials() == []
    assert not (tmp_path / "nowhere").exists()
    (folder / "ca.crt").write_bytes(b"damaged")
    assert quick_keystore(folder).probe_credentials() == []


def test_purging_leaves_what_is_not_ours(folder: Path, store: Keystore, tmp_path: Path) -> None:
    store.revoke_device("phone", adopt_both(store).fingerprint)
    adopt_both(store)
    store.purge()
    assert not folder.exists()
    store.purge()
    adopt_both(store)
    (folder / "devices/notes.txt").write_text("mine")
    quick_keystore(folder, passphrase=None).purge()
    assert set(snapshot(folder)) == {"devices/notes.txt"}


def test_a_key_without_a_certificate_is_completed_and_never_overwritten(tmp_path: Path) -> None:
    store = quick_keystore(tmp_path)
    store.adopt_or_create_authority(AuthorityProfile())
    (tmp_path / "ca.crt").unlink()
    key = (tmp_path / "ca.key").read_bytes()
    wrong = quick_keystore(tmp_path, "another passphrase")
    assert_refused(
        "ca.key does not open", tmp_path, lambda: wrong.adopt_or_create_authority(AuthorityProfile())
    )
    rsa = AuthorityProfile(key_type=KeyType.RSA_4096)
    assert_refused("has a key of type ecdsa-p256", tmp_path, lambda: store.adopt_or_create_authority(rsa))
    authority = store.adopt_or_create_authority(AuthorityProfile())
    assert_is_ca(authority.certificate)
    assert (tmp_path / "ca.key").read_bytes() == key
    assert generate_key(KeyType.ECDSA_P256).public_key() != authority.certificate.public_key()
