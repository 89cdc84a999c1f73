"""Renewal as the engine sees it: when a resource changes, what it puts out, how it is enrolled."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.output import Unknown
from pulumi.runtime.rpc import UNKNOWN

from components import certificate_authority, client_certificate
from components.config.stack_config import ExposureConfig, load
from components.device_list import device_lines
from components.devices.keystore_location import KeystoreLocation
from components.devices.renewal import authority_renewal, device_renewal, renewal_plan_of, renewing_diff
from components.engine.operator_error import OperatorError
from pki import AuthorityProfile, DeviceProfile, Keystore, KeystoreError, Platform, Renewal

PASSPHRASE = "correct horse battery staple"
OTHER_PASSPHRASE = "lantern otter gravel 58"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ"
QUICK = 1_000


def keystore_of_age(folder: Path, days: int) -> Path:
    """Make a keystore with an authority and a phone for a year each, so many days ago."""
    made = datetime.now(UTC) - timedelta(days=days)
    store = Keystore(folder, PASSPHRASE, stack="home", kdf_rounds=QUICK, clock=lambda: made)
    store.adopt_or_create_authority(AuthorityProfile(validity_days=3650))
    store.adopt_or_issue_device("phone", DeviceProfile("phone", platform=Platform.LINUX, validity_days=365))
    return folder


def authority_props(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "keystore": str(folder),
        "stack": "home",
        "passphrase": PASSPHRASE,
        "commonName": "Immich Client CA",
        "organization": "Personal",
        "country": "US",
        "validityDays": 3650.0,
        "keyType": "ecdsa-p256",
        "purgeKeystore": False,
        "devices": ["phone"],
        "renewBeforeDays": 31.0,
        "graceDays": 14.0,
        "renewal": "",
        **changes,
    }


def device_props(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "keystore": str(folder),
        "stack": "home",
        "passphrase": PASSPHRASE,
        "authority": "ab",
        "device": "phone",
        "commonName": "phone",
        "organization": "MyOrg",
        "platform": "linux",
        "validityDays": 365.0,
        "keyType": "ecdsa-p256",
        "renewBeforeDays": 30.0,
        "graceDays": 14.0,
        "renewal": "",
        **changes,
    }


def config(folder: Path, **changes: Any) -> ExposureConfig:
    values = {
        "host": "192.168.1.20",
        "hostKey": HOST_KEY,
        "keystorePassphrase": PASSPHRASE,
        "keystore": str(folder),
        "devices": [{"name": "phone", "platform": "linux"}],
        "clientValidityDays": 365,
        **changes,
    }
    return load(values, stack="home", project_dir=folder.parent)


DEVICE = client_certificate._Provider()
AUTHORITY = certificate_authority._Provider()


def changes(provider: Any, olds: dict[str, Any], news: dict[str, Any]) -> bool:
    """Return whether the engine would update."""
    return bool(provider.diff("id", olds, news).changes)


# The program's words and the provider's deeds


def test_outside_the_window_there_is_no_step_and_no_change(tmp_path: Path) -> None:
    folder = keystore_of_age(tmp_path / "keystore", 300)
    renewal_plan = renewal_plan_of(config(folder))
    assert (renewal_plan.authority_due, renewal_plan.devices_due) == ("", {"phone": ""})
    olds = DEVICE.create(device_props(folder)).outs or {}
    assert not changes(DEVICE, olds, device_props(folder))


def test_a_step_is_a_change_although_all_else_is_equal(tmp_path: Path) -> None:
    folder = keystore_of_age(tmp_path / "keystore", 340)
    step = renewal_plan_of(config(folder)).devices_due["phone"]
    assert step.startswith("due since 20")
    olds = device_props(folder, fingerprint="ab", notAfter="2026-01-01T00:00:00+00:00")
    news = device_props(folder, renewal=step)
    assert changes(DEVICE, olds, news)
    outs = DEVICE.update("id", olds, news).outs or {}
    assert outs["previousFingerprint"] != outs["fingerprint"]
    until = datetime.fromisoformat(outs["previousUntil"])
    assert timedelta(days=13, hours=23) < until - datetime.now(UTC) <= timedelta(days=14)
    # the next run has no step, and the words of this one are no change
    assert renewal_plan_of(config(folder)).devices_due == {"phone": ""}
    assert not changes(DEVICE, outs, device_props(folder))


def test_the_notices_name_what_is_near_and_what_to_install(tmp_path: Path) -> None:
    folder = keystore_of_age(tmp_path / "keystore", 310)
    (near,) = renewal_plan_of(config(folder)).notices
    assert near.startswith("The certificate of the device phone ends on ")
    DEVICE.update("id", {}, device_props(folder, renewBeforeDays=100.0))
    (install,) = renewal_plan_of(config(folder)).notices
    assert "Install " in install


def test_a_revoked_device_is_none_of_the_configurations(tmp_path: Path) -> None:
    devices = [
        {"name": "phone", "platform": "ios", "revoked": True},
        {"name": "laptop", "platform": "linux", "revoked": False},
    ]
    loaded = config(tmp_path / "keystore", devices=devices)
    assert [device.name for device in loaded.devices] == ["laptop"]


def test_the_authority_is_replaced_before_its_devices_are_due(tmp_path: Path) -> None:
    loaded = config(tmp_path / "keystore")
    assert device_renewal(loaded) == Renewal(30, 14)
    late = config(tmp_path / "keystore", renewBeforeDays=7)
    assert (device_renewal(late), authority_renewal(late)) == (Renewal(7, 7), Renewal(8, 7))
    assert authority_renewal(loaded) == Renewal(31, 14)
    early = replace(loaded, ca=replace(loaded.ca, renew_before_days=400))
    assert authority_renewal(early) == Renewal(400, 14)
    short = config(
        tmp_path / "keystore", ca={"validityDays": 10}, clientValidityDays=10, renewBeforeDays=9, graceDays=2
    )
    assert authority_renewal(short).renew_before_days == 9, "a new authority must never be due at once"


def test_the_pool_has_both_authorities_until_the_last_device_has_moved(tmp_path: Path) -> None:
    folder = keystore_of_age(tmp_path / "keystore", 340)
    first = AUTHORITY.create(authority_props(folder)).outs or {}
    assert len(first["trusted"]) == 1
    assert first["trustedPem"] == first["certificatePem"]
    assert not changes(AUTHORITY, first, authority_props(folder, devices=["phone", "new"]))
    early = authority_props(folder, renewBeforeDays=3500.0)
    both = AUTHORITY.update("id", first, early).outs or {}
    assert both["trusted"] == [first["fingerprint"], both["fingerprint"]]
    assert both["trustedPem"] == first["certificatePem"] + both["certificatePem"]
    moved = DEVICE.update("id", {}, device_props(folder)).outs or {}
    assert moved["previousFingerprint"]
    still = AUTHORITY.update("id", both, early).outs or {}
    assert len(still["trusted"]) == 2, "the old certificate still counts"
    Keystore(folder, PASSPHRASE, stack="home").revoke_device("phone", moved["fingerprint"])
    assert renewal_plan_of(config(folder, ca={"renewBeforeDays": 3500})).authority_due.startswith("ends: ")
    alone = AUTHORITY.update("id", still, early).outs or {}
    assert alone["trusted"] == [both["fingerprint"]]


# A run that died after the keystore took a step and before the engine noted it down


def test_a_renewal_that_the_state_does_not_know_of_is_a_change(tmp_path: Path) -> None:
    folder = keystore_of_age(tmp_path / "keystore", 340)
    olds = DEVICE.create(device_props(folder, renewBeforeDays=1.0)).outs or {}
    DEVICE.update("id", olds, device_props(folder))
    assert renewal_plan_of(config(folder)).devices_due == {"phone": ""}
    news = device_props(folder)
    assert changes(DEVICE, olds, news), "else the new certificate is never enrolled"
    outs = DEVICE.update("id", olds, news).outs or {}
    assert outs["previousFingerprint"] == olds["fingerprint"]
    assert not changes(DEVICE, outs, news)


@pytest.mark.parametrize("half", [False, True])
def test_what_was_revoked_is_never_enrolled_again(tmp_path: Path, half: bool) -> None:
    """The run died in revoking, so the state still has the lost phone; then its name is back."""
    folder = keystore_of_age(tmp_path / "keystore", 10)
    olds = DEVICE.create(device_props(folder)).outs or {}
    certificate = (folder / "devices" / "phone.crt").read_bytes()
    DEVICE.delete("id", olds)
    if half:
        (folder / "devices" / "phone.crt").write_bytes(certificate)
    step = renewal_plan_of(config(folder)).devices_due["phone"]
    news = device_props(folder, renewal=step)
    assert changes(DEVICE, olds, news), "else the enrolment is made anew with the fingerprint in the state"
    outs = DEVICE.update("id", olds, news).outs or {}
    assert outs["fingerprint"] != olds["fingerprint"]
    assert outs["previousFingerprint"] == ""
    assert renewal_plan_of(config(folder)).devices_due == {"phone": ""}
    others = config(folder, devices=[{"name": "phon", "platform": "linux"}])
    assert renewal_plan_of(others).devices_due == {"phon": ""}


def test_an_older_keystore_brings_no_old_certificate_back(tmp_path: Path) -> None:
    folder = keystore_of_age(tmp_path / "keystore", 10)
    olds = device_props(folder, fingerprint="cd", notAfter="2090-01-01T00:00:00+00:00")
    assert not changes(DEVICE, olds, device_props(folder))
    (folder / "devices" / "phone.crt").unlink()
    assert not changes(DEVICE, olds, device_props(folder))


def test_a_change_of_authority_that_the_state_does_not_know_of_is_a_change(tmp_path: Path) -> None:
    folder = keystore_of_age(tmp_path / "keystore", 340)
    first = AUTHORITY.create(authority_props(folder)).outs or {}
    early = authority_props(folder, renewBeforeDays=3500.0)
    both = AUTHORITY.update("id", first, early).outs or {}
    assert changes(AUTHORITY, first, early), "else devices get ahead of the pool"
    assert not changes(AUTHORITY, both, early)
    Keystore(folder, PASSPHRASE, stack="home").revoke_all_but([])
    alone = AUTHORITY.update("id", both, early).outs or {}
    assert changes(AUTHORITY, both, early), "else the server trusts the old one for ever"
    assert not changes(AUTHORITY, alone, early)


# The diff


@pytest.mark.parametrize("key", ["renewBeforeDays", "graceDays", "renewal", "authority"])
def test_what_says_when_is_no_change_by_itself(key: str, tmp_path: Path) -> None:
    olds = device_props(tmp_path, **{key: "before"})
    assert not changes(DEVICE, olds, device_props(tmp_path, **{key: ""}))


def test_a_grace_that_runs_can_be_made_longer(tmp_path: Path) -> None:
    olds = device_props(tmp_path, previousFingerprint="cd")
    assert changes(DEVICE, olds, device_props(tmp_path, graceDays=20.0))


@pytest.mark.parametrize("key", ["platform", "commonName", "passphrase", "validityDays", "keystore"])
def test_every_other_input_is_a_change(key: str, tmp_path: Path) -> None:
    assert changes(DEVICE, device_props(tmp_path, **{key: "before"}), device_props(tmp_path))


def test_a_key_that_was_re_encrypted_is_opened_before_anything_else_is_changed(tmp_path: Path) -> None:
    """Else a passphrase that the stack was not told of fails at the check, and the funnel is closed."""
    folder = keystore_of_age(tmp_path / "keystore", 1)
    olds = AUTHORITY.create(authority_props(folder)).outs or {}
    assert not changes(AUTHORITY, olds, authority_props(folder))
    Keystore(folder, PASSPHRASE, stack="home").change_passphrase(OTHER_PASSPHRASE)
    assert changes(AUTHORITY, olds, authority_props(folder))
    with pytest.raises(KeystoreError):
        AUTHORITY.update("id", olds, authority_props(folder))
    told = authority_props(folder, passphrase=OTHER_PASSPHRASE)
    outs = AUTHORITY.update("id", olds, told).outs or {}
    assert not changes(AUTHORITY, outs, told)
    (folder / "ca.key").unlink()
    assert not changes(AUTHORITY, outs, told), "a preview gets along without a keystore"


def test_outputs_that_are_not_known_yet_are_no_inputs() -> None:
    news = {"a": 1, "out": None}
    assert not renewing_diff({"a": 1, "out": "x"}, news, expiries=lambda _: (), ignore=()).changes


# Enrolling


def test_the_list_says_when_each_certificate_stops_counting() -> None:
    phone = {"fingerprint": "ab", "until": "2036-11-21T00:00:00+00:00"}
    before = {"before": "cd", "beforeUntil": "2026-12-08T00:00:00+00:00"}
    none = {"before": "", "beforeUntil": ""}
    assert list(device_lines({"phone": {**phone, **before}, "laptop": {**phone, **none}, "ben": phone})) == [
        "ab 2110838400 phone\n",
        "cd 1796688000 phone\n",
        "ab 2110838400 laptop\n",
        "ab 2110838400 ben\n",
    ]


# A keystore that is not the one that the state knows


def known_authority(folder: Path) -> dict[str, Any]:
    """Return what the state has of the authority in a keystore."""
    outs: dict[str, Any] = AUTHORITY.create(authority_props(folder)).outs or {}
    return outs


@pytest.mark.parametrize("how", ["missing", "empty", "another's"])
def test_a_strange_keystore_is_refused_before_anything_changes(tmp_path: Path, how: str) -> None:
    """A stack that was renamed looks for its keystore elsewhere; a drive may not be mounted."""
    olds = known_authority(keystore_of_age(tmp_path / "keystore", 1))
    folder = tmp_path / "elsewhere"
    if how == "empty":
        folder.mkdir()
    elif how == "another's":
        keystore_of_age(folder, 1)
    news = authority_props(folder)
    assert changes(AUTHORITY, {**olds, "keystore": str(folder)}, news)
    before = sorted(folder.rglob("*"))
    with pytest.raises(OperatorError) as refused:
        AUTHORITY.update("id", olds, news)
    (sentence,) = refused.value.args
    found = "holds another" if how == "another's" else "has no"
    assert sentence.startswith(f"The keystore {folder} {found} authority")
    assert "import a backup" in sentence
    assert sorted(folder.rglob("*")) == before


def test_its_own_keystore_at_another_place_is_fine(tmp_path: Path) -> None:
    olds = known_authority(keystore_of_age(tmp_path / "keystore", 1))
    moved = (tmp_path / "keystore").rename(tmp_path / "moved")
    news = authority_props(moved)
    assert (AUTHORITY.update("id", olds, news).outs or {})["fingerprint"] == olds["fingerprint"]


@pytest.mark.parametrize(("preview", "there"), [(True, False), (True, True), (False, False)])
def test_a_preview_without_a_keystore_keeps_what_the_state_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preview: bool, there: bool
) -> None:
    """A pull request's runner has none; its plan must fit the run that has it."""
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: preview)
    folder = keystore_of_age(tmp_path / "keystore", 1) if there else tmp_path / "none"
    location = KeystoreLocation(str(folder), "home", pulumi.Output.from_input("secret"))
    read: dict[str, Any] = {"renewal": "due since 2036-10-22", "renewals": []}
    unknown = dict.fromkeys(read, UNKNOWN)
    assert location.read_off(read) == (unknown if preview and not there else read)


def test_what_a_preview_does_not_know_is_no_change(tmp_path: Path) -> None:
    olds = known_authority(keystore_of_age(tmp_path / "keystore", 1))
    (tmp_path / "keystore").rename(tmp_path / "at home")
    unknown = {"renewal": Unknown()}  # type: ignore[no-untyped-call]
    assert not changes(AUTHORITY, olds, {**authority_props(tmp_path / "keystore"), **unknown})


def test_a_keystore_that_cannot_be_looked_into_is_refused_beside_known_devices(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="Is its drive not mounted"):
        certificate_authority.refuse_foreign(["ab" * 32], str(tmp_path / ("k" * 300)))
