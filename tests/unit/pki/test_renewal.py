"""Renewal and the change of authority: what is issued when, what still counts, and what deaths leave."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pki import (
    AuthorityProfile,
    DeviceCredential,
    DeviceProfile,
    Keystore,
    KeystoreError,
    Platform,
    Renewal,
)
from pki.bundle import open_bundle
from pki.key import decrypt_key
from pki.listing import records
from pki.renewal_plan import UNFINISHED, RenewalPlan, plan_renewals
from tests.unit.pki.facts import NOW, PASSPHRASE, assert_is_ca, assert_is_leaf, quick_keystore, snapshot
from tests.unit.pki.killing import deaths

PHONE = DeviceProfile("phone", validity_days=365)
LAPTOP = DeviceProfile("laptop", validity_days=3650)
AUTHORITY = AuthorityProfile()
DEVICES = Renewal(renew_before_days=30, grace_days=14)
AUTHORITIES = Renewal(renew_before_days=31, grace_days=14)


def on(day: int, second: int = 0) -> datetime:
    """The moment so many days after the keystore was made."""
    return NOW + timedelta(days=day, seconds=second)


def at(folder: Path, moment: datetime) -> Keystore:
    """The keystore as a run at that moment opens it."""
    return quick_keystore(folder, now=moment)


def issue(store: Keystore, profile: DeviceProfile = PHONE) -> DeviceCredential:
    """What a run does: the authority first, then the device."""
    store.adopt_or_create_authority(AUTHORITY, AUTHORITIES)
    return store.adopt_or_issue_device(profile.common_name, profile, DEVICES)


def renewal_plan(folder: Path, moment: datetime, *names: str) -> RenewalPlan:
    """What a preview tells."""
    return plan_renewals(folder, names or ("phone",), authority=AUTHORITIES, devices=DEVICES, now=moment)


def trusted(store: Keystore) -> list[str]:
    return [each.fingerprint for each in store.trusted()]


def certificates(folder: Path) -> set[bytes]:
    """All certificates that came to be, whatever their place."""
    return {path.read_bytes() for path in folder.rglob("*.crt") if not path.name.startswith(".")}


def assert_backup_of_that_moment_is_whole(dead: Path, moment: datetime) -> None:
    """A backup made right after a death holds every device, and can be restored. `dead` stays as it is."""
    copy = Path(shutil.copytree(dead, dead.parent / "copy"))
    restored = at(dead.parent / "restored", moment)
    restored.restore(at(copy, moment).backup())
    assert not [each for each in restored.inspect() if each.damage]
    assert certificates(restored.folder) == certificates(dead)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A keystore made at `NOW`, with an authority for ten years and a phone for one."""
    folder = tmp_path / "keystore"
    issue(at(folder, NOW))
    return folder


# A device


def test_outside_the_window_nothing_changes(folder: Path) -> None:
    before = snapshot(folder)
    credential = issue(at(folder, on(335, -1)))
    assert credential.previous is None
    assert snapshot(folder) == before
    assert renewal_plan(folder, on(335, -1)).devices_due == {"phone": ""}


def test_a_due_device_gets_a_new_key_and_the_old_certificate_counts_for_its_grace(folder: Path) -> None:
    old = issue(at(folder, NOW))
    assert renewal_plan(folder, on(335)).devices_due == {"phone": "due since 2027-10-25"}
    new = issue(at(folder, on(335)))
    authority = at(folder, on(335)).trusted()[0]
    assert_is_leaf(new.certificate, authority.certificate)
    assert new.not_after == on(335 + 365)
    assert new.certificate.public_key() != old.certificate.public_key()
    assert new.bundle_password != old.bundle_password
    assert new.previous is not None
    assert (new.previous.fingerprint, new.previous.until) == (old.fingerprint, on(335 + 14))
    key = decrypt_key(new.key_path.read_bytes(), PASSPHRASE)
    assert key.public_key() == new.certificate.public_key()
    opened = open_bundle(new.bundle_path.read_bytes(), new.bundle_password)
    assert opened.cert is not None
    assert opened.cert.certificate == new.certificate
    # what the phone has goes on working, and can be handed out again
    kept = folder / "previous"
    opened = open_bundle((kept / "phone.p12").read_bytes(), old.bundle_password)
    assert opened.cert is not None
    assert opened.cert.certificate == old.certificate
    assert {path.name for path in kept.iterdir()} == {
        f"phone.{kind}" for kind in ("crt", "key", "p12", "password")
    }
    # and until the grace ends, nothing changes any more
    before = snapshot(folder)
    again = issue(at(folder, on(335 + 14, -1)))
    assert again == new
    assert snapshot(folder) == before
    assert renewal_plan(folder, on(335 + 14, -1)).devices_due == {"phone": ""}


def test_when_the_grace_ends_the_old_certificate_goes(folder: Path) -> None:
    old = issue(at(folder, NOW))
    new = issue(at(folder, on(335)))
    over = on(335 + 14)
    assert renewal_plan(folder, over).devices_due["phone"].startswith("ends: ")
    credential = issue(at(folder, over))
    assert credential == replace(new, previous=None)
    assert not list((folder / "previous").iterdir())
    assert (folder / f"revoked/phone-{old.fingerprint[:16]}.key").exists()
    assert renewal_plan(folder, over).devices_due == {"phone": ""}


def test_the_grace_never_outlasts_the_certificate(folder: Path) -> None:
    old = issue(at(folder, NOW))
    credential = issue(at(folder, on(365, -60)))
    assert credential.previous is not None
    assert credential.previous.until == old.not_after


def test_an_expired_device_is_renewed_without_grace(folder: Path) -> None:
    old = issue(at(folder, NOW))
    new = issue(at(folder, on(400)))
    assert new.fingerprint != old.fingerprint
    assert new.previous is None
    assert [path.name for path in (folder / "revoked").glob("*.crt")] == [f"phone-{old.fingerprint[:16]}.crt"]


def test_without_a_renewal_policy_nothing_is_ever_renewed(folder: Path) -> None:
    store = at(folder, on(340))
    before = snapshot(folder)
    store.adopt_or_create_authority(AUTHORITY)
    store.adopt_or_issue_device("phone", PHONE)
    assert snapshot(folder) == before
    with pytest.raises(KeystoreError, match="expired"):
        at(folder, on(400)).adopt_or_issue_device("phone", PHONE)


def test_a_second_renewal_within_the_grace_keeps_only_the_last_certificate(folder: Path) -> None:
    first = issue(at(folder, NOW))
    second = issue(at(folder, on(335)))
    hasty = Renewal(renew_before_days=364, grace_days=14)
    store = at(folder, on(337))
    third = store.adopt_or_issue_device("phone", PHONE, hasty)
    assert third.previous is not None
    assert third.previous.fingerprint == second.fingerprint
    assert (folder / f"revoked/phone-{first.fingerprint[:16]}.crt").exists()


def test_a_due_certificate_of_another_profile_is_refused_and_stays(folder: Path) -> None:
    before = snapshot(folder)
    other = replace(PHONE, organization="Somebody")
    with pytest.raises(KeystoreError, match="but the config asks for"):
        at(folder, on(340)).adopt_or_issue_device("phone", other, DEVICES)
    assert snapshot(folder) == before


def test_another_platform_in_the_grace_keeps_both_certificates(folder: Path) -> None:
    new = issue(at(folder, on(335)))
    changed = issue(at(folder, on(336)), replace(PHONE, platform=Platform.IOS))
    assert (changed.fingerprint, changed.previous) == (new.fingerprint, new.previous)


def test_revoking_takes_both_certificates(folder: Path) -> None:
    old = issue(at(folder, NOW))
    new = issue(at(folder, on(335)))
    at(folder, on(336)).revoke_device("phone", new.fingerprint)
    names = {path.stem for path in (folder / "revoked").glob("*.crt")}
    assert names == {f"phone-{each.fingerprint[:16]}" for each in (old, new)}
    assert not list((folder / "devices").iterdir())
    assert not list((folder / "previous").iterdir())


def test_a_run_that_died_after_renewing_is_revoked_by_the_fingerprint_it_knew(folder: Path) -> None:
    old = issue(at(folder, NOW))
    issue(at(folder, on(335)))
    at(folder, on(336)).revoke_device("phone", old.fingerprint)
    assert at(folder, on(336)).probe_credentials() == []


def test_strays_in_their_grace_are_revoked_as_well(folder: Path) -> None:
    issue(at(folder, on(335)))
    at(folder, on(336)).revoke_all_but([])
    assert [record.state for record in records(folder)] == ["authority", "revoked", "revoked"]


def test_the_keystores_list_names_what_it_had_before(folder: Path) -> None:
    issue(at(folder, on(335)))
    assert [(record.name, record.state) for record in records(folder)] == [
        ("ca", "authority"),
        ("phone", "device"),
        ("phone", "previous"),
    ]
    assert at(folder, on(335)).inspect() == []


def test_a_device_may_be_named_like_one_that_was_moved_away(folder: Path) -> None:
    profile = replace(PHONE, common_name="tv-0123456789abcdef")
    for day in (0, 335):
        issue(at(folder, on(day)), profile)
    named = [(record.name, record.state) for record in records(folder) if record.name.startswith("tv")]
    assert named == [("tv-0123456789abcdef", "device"), ("tv-0123456789abcdef", "previous")]
    store = at(folder, on(335))
    assert not [finding for finding in store.inspect() if finding.damage]
    store.change_passphrase("another good passphrase")
    assert not [finding for finding in store.inspect() if finding.damage]


def test_a_backup_in_the_grace_restores_both(folder: Path, tmp_path: Path) -> None:
    new = issue(at(folder, on(335)))
    copy = tmp_path / "copy"
    at(copy, on(336)).restore(at(folder, on(336)).backup())
    assert snapshot(copy) == snapshot(folder)
    restored = issue(at(copy, on(336)))
    assert (restored.fingerprint, restored.previous) == (new.fingerprint, new.previous)


def test_another_passphrase_in_the_grace_opens_both(folder: Path) -> None:
    issue(at(folder, on(335)))
    store = at(folder, on(336))
    store.change_passphrase("another good passphrase")
    assert store.inspect() == []


def test_changing_the_passphrase_in_the_midst_of_all_changes_survives_every_death(
    folder: Path, tmp_path: Path
) -> None:
    """With two authorities and two certificates of the phone, the old passphrase opens all or the new one."""
    issue(at(folder, on(3300)))
    issue(at(folder, on(3630)))
    assert (folder / "ca-next.key").exists()
    assert (folder / "previous/phone.key").exists()
    new = "another good passphrase"

    def opens(dead: Path, passphrase: str, copy: Path) -> bool:
        store = quick_keystore(Path(shutil.copytree(dead, copy)), passphrase, now=on(3630))
        try:
            return store.inspect() == []
        except KeystoreError:
            return False

    for dead, _ in deaths(folder, tmp_path, lambda store: at(store.folder, on(3630)).change_passphrase(new)):
        opened = [opens(dead, each, dead.parent / each.replace(" ", "-")) for each in (PASSPHRASE, new)]
        assert sum(opened) == 1


@pytest.mark.parametrize("day", [335, 335 + 14, 400])
def test_renewing_survives_every_death(folder: Path, tmp_path: Path, day: int) -> None:
    """After each death the phone has its old certificate or the new one, and the next run completes it."""
    old = issue(at(folder, NOW))
    moment = on(day)
    for dead, _ in deaths(folder, tmp_path, lambda store: issue(at(store.folder, moment))):
        assert_backup_of_that_moment_is_whole(dead, moment)
        credential = issue(at(dead, moment))
        assert credential.fingerprint != old.fingerprint
        after = snapshot(dead)
        assert at(dead, moment).inspect() == []
        assert not any(Path(name).name.startswith(".") for name in after)
        everywhere = [each.certificate for each in records(dead)]
        assert old.certificate in everywhere, "the certificate of before was lost"
        in_use = (dead / "previous/phone.crt").exists()
        assert in_use is (credential.previous is not None) is (day < 365)
        assert issue(at(dead, moment)) == credential
        assert snapshot(dead) == after


def test_the_end_of_the_grace_survives_every_death(folder: Path, tmp_path: Path) -> None:
    new = issue(at(folder, on(335)))
    for dead, _ in deaths(folder, tmp_path, lambda store: issue(at(store.folder, on(350)))):
        assert issue(at(dead, on(350))) == replace(
            new,
            previous=None,
            certificate_path=dead / "devices/phone.crt",
            key_path=dead / "devices/phone.key",
            bundle_path=dead / "devices/phone.p12",
        )
        assert not list((dead / "previous").glob("*"))
        assert at(dead, on(350)).inspect() == []


def test_a_preview_after_a_death_in_a_renewal_says_so(folder: Path) -> None:
    for kind in ("crt", "key", "p12", "password"):
        (folder / "previous").mkdir(exist_ok=True)
        (folder / f"devices/phone.{kind}").rename(folder / f"previous/phone.{kind}")
    assert renewal_plan(folder, NOW).devices_due == {"phone": UNFINISHED}


def test_revoking_in_the_grace_survives_every_death(folder: Path, tmp_path: Path) -> None:
    new = issue(at(folder, on(335)))

    def revoke(store: Keystore) -> None:
        at(store.folder, on(336)).revoke_device("phone", new.fingerprint)

    for dead, store in deaths(folder, tmp_path, revoke):
        assert_backup_of_that_moment_is_whole(dead, on(336))
        revoke(store)
        assert at(dead, on(336)).probe_credentials() == []
        assert not list((dead / "previous").glob("*"))
        assert len(list((dead / "revoked").glob("*.crt"))) == 2


# The authority


def test_the_change_of_authority_from_beginning_to_end(tmp_path: Path) -> None:
    """Old device, new device, and the old authority gone when nothing of it counts any more."""
    folder = tmp_path / "keystore"
    early = Renewal(renew_before_days=1000, grace_days=14)

    def run(day: int) -> tuple[DeviceCredential, DeviceCredential]:
        store = at(folder, on(day))
        store.adopt_or_create_authority(AUTHORITY, early)
        return (
            store.adopt_or_issue_device("phone", PHONE, DEVICES),
            store.adopt_or_issue_device("laptop", LAPTOP, DEVICES),
        )

    old = at(folder, NOW).adopt_or_create_authority(AUTHORITY, early)
    phone, laptop = run(0)
    day = 0
    while day + 335 < 2650:
        day += 335
        phone, laptop = run(day)
    assert trusted(at(folder, on(day))) == [old.fingerprint]
    assert_is_leaf(phone.certificate, old.certificate)

    day = 2650
    phone, laptop = run(day)  # the authority is due, the devices are not
    both = trusted(at(folder, on(day)))
    assert both[0] == old.fingerprint
    assert len(both) == 2
    signing = at(folder, on(day)).adopt_or_create_authority(AUTHORITY, early)
    assert signing.fingerprint == both[1]
    assert_is_ca(signing.certificate)
    assert signing.not_after == on(day + 3650)
    assert signing.certificate.subject == old.certificate.subject
    assert signing.certificate.public_key() != old.certificate.public_key()
    assert_is_leaf(phone.certificate, old.certificate)
    tablet = at(folder, on(day)).adopt_or_issue_device("tablet", DeviceProfile("tablet"), DEVICES)
    assert_is_leaf(tablet.certificate, signing.certificate)
    bundled = open_bundle(tablet.bundle_path.read_bytes(), tablet.bundle_password).additional_certs
    assert [each.certificate for each in bundled] == [signing.certificate], "the bundle has its own authority"

    day = 2680  # the phone is renewed, and moves; the laptop keeps the old authority
    phone, laptop = run(day)
    assert_is_leaf(phone.certificate, signing.certificate)
    assert_is_leaf(laptop.certificate, old.certificate)
    assert trusted(at(folder, on(2700))) == both
    assert renewal_plan(folder, on(2700), "phone", "laptop").authority_due == ""

    day = 3620  # now the laptop; its certificate of before still needs the old authority
    phone, laptop = run(day)
    assert_is_leaf(laptop.certificate, signing.certificate)
    run(day + 13)
    assert trusted(at(folder, on(day + 13))) == both

    names = ("phone", "laptop", "tablet")
    assert renewal_plan(folder, on(day + 14), *names).authority_due.startswith("ends: ")
    run(day + 14)
    assert trusted(at(folder, on(day + 14))) == [signing.fingerprint]
    assert at(folder, on(day + 14)).inspect() == []
    assert (folder / f"ca-{old.fingerprint[:16]}.key").exists(), "an authority's key is never destroyed"
    before = snapshot(folder)
    run(day + 14)
    assert snapshot(folder) == before
    assert {(each.name, each.state) for each in records(folder) if each.name.startswith("ca")} == {
        ("ca", "authority"),
        (f"ca-{old.fingerprint[:16]}", "retired"),
    }
    at(folder, on(day + 15)).purge()
    assert not folder.exists()


def test_an_authority_near_its_end_and_its_devices_are_renewed_in_one_run(tmp_path: Path) -> None:
    """No device outlives its authority, so with the authority every device is due."""
    folder = tmp_path / "keystore"
    old = issue(at(folder, NOW), LAPTOP)
    assert renewal_plan(folder, on(3620), "laptop").authority_due == "due since 2036-10-21"
    new = issue(at(folder, on(3620)), LAPTOP)
    assert new.not_after == on(3620 + 3650)
    assert new.previous is not None
    assert new.previous.fingerprint == old.fingerprint
    issue(at(folder, on(3634)), LAPTOP)
    # the authority came first in that run, when the grace was just over: it needs no run more
    assert len(trusted(at(folder, on(3634)))) == 1


def test_an_expired_authority_is_followed_by_a_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "keystore"
    issue(at(folder, NOW), LAPTOP)
    new = issue(at(folder, on(4000)), LAPTOP)
    assert new.previous is None
    issue(at(folder, on(4000)), LAPTOP)
    assert_is_leaf(new.certificate, at(folder, on(4000)).trusted()[0].certificate)
    with pytest.raises(KeystoreError, match=r"ca\.crt expired"):
        at(folder, on(9000)).adopt_or_create_authority(AUTHORITY)


def test_an_authority_without_devices_is_replaced_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "keystore"
    at(folder, NOW).adopt_or_create_authority(AUTHORITY, AUTHORITIES)
    new = at(folder, on(3640)).adopt_or_create_authority(AUTHORITY, AUTHORITIES)
    assert trusted(at(folder, on(3640))) == [new.fingerprint]


def test_the_change_of_authority_needs_the_right_passphrase(folder: Path) -> None:
    before = snapshot(folder)
    store = quick_keystore(folder, "the wrong passphrase", now=on(3630))
    with pytest.raises(KeystoreError, match="does not open with this passphrase"):
        store.adopt_or_create_authority(AUTHORITY, AUTHORITIES)
    assert snapshot(folder) == before


def test_a_lost_next_key_is_told_and_nothing_is_made_over_it(folder: Path) -> None:
    at(folder, on(3630)).adopt_or_create_authority(AUTHORITY, AUTHORITIES)
    (folder / "ca-next.key").unlink()
    before = snapshot(folder)
    with pytest.raises(KeystoreError, match=r"ca-next\.key is missing"):
        at(folder, on(3630)).adopt_or_create_authority(AUTHORITY, AUTHORITIES)
    assert snapshot(folder) == before
    assert any("ca-next.key" in each.sentence for each in at(folder, on(3630)).inspect())


def test_the_beginning_of_a_change_survives_every_death(folder: Path, tmp_path: Path) -> None:
    issue(at(folder, on(3300)))
    issue(at(folder, on(3400)))  # the grace is over
    old_key = (folder / "ca.key").read_bytes()

    def begin(store: Keystore) -> DeviceCredential:
        return issue(at(store.folder, on(3630)))

    for dead, store in deaths(folder, tmp_path, begin):
        assert (dead / "ca.key").read_bytes() == old_key
        device = begin(store)
        old, new = at(dead, on(3630)).trusted()
        assert_is_leaf(device.certificate, new.certificate)
        assert (dead / "ca.key").read_bytes() == old_key
        assert at(dead, on(3630)).inspect() == []
        assert old.fingerprint != new.fingerprint


def test_the_end_of_a_change_survives_every_death(folder: Path, tmp_path: Path) -> None:
    issue(at(folder, on(3300)))
    device = issue(at(folder, on(3630)))
    old, new = at(folder, on(3630)).trusted()
    keys = {(folder / f"{stem}.key").read_bytes() for stem in ("ca", "ca-next")}

    def end(store: Keystore) -> DeviceCredential:
        return issue(at(store.folder, on(3650)))

    for dead, store in deaths(folder, tmp_path, end):
        assert keys <= {path.read_bytes() for path in dead.glob("*.key")}, "no key is ever lost"
        assert_backup_of_that_moment_is_whole(dead, on(3650))
        assert end(store).fingerprint == device.fingerprint
        assert trusted(at(dead, on(3650))) == [new.fingerprint]
        assert {path.name for path in dead.glob("ca*")} == {
            "ca.crt",
            "ca.key",
            f"ca-{old.fingerprint[:16]}.crt",
            f"ca-{old.fingerprint[:16]}.key",
        }
        assert at(dead, on(3650)).inspect() == []


def test_a_lost_certificate_of_the_authority_is_not_replaced_by_the_next_one(folder: Path) -> None:
    at(folder, on(3630)).adopt_or_create_authority(AUTHORITY, AUTHORITIES)
    (folder / "ca.crt").unlink()
    before = snapshot(folder)
    with pytest.raises(KeystoreError, match=r"ca\.crt is missing"):
        at(folder, on(3630)).adopt_or_create_authority(AUTHORITY, AUTHORITIES)
    assert snapshot(folder) == before


# What a person is told


def test_nothing_is_told_while_nothing_is_near(folder: Path) -> None:
    quiet = renewal_plan(folder, on(365 - 61))
    assert (quiet.authority_due, quiet.devices_due, quiet.notices) == ("", {"phone": ""}, ())
    assert renewal_plan(folder / "missing", NOW) == RenewalPlan("", {"phone": ""}, ())


def test_two_months_before_its_end_a_certificate_is_named(folder: Path) -> None:
    (notice,) = renewal_plan(folder, on(365 - 60)).notices
    assert notice == (
        "The certificate of the device phone ends on 2027-11-24. From 2027-10-25 on `pulumi up` renews it."
    )
    (notice,) = renewal_plan(folder, on(335)).notices
    assert notice == (
        "The certificate of the device phone ends on 2027-11-24. It is due: `pulumi up` renews it."
    )
    assert renewal_plan(folder, on(335), "laptop").notices == (), "only the devices of the stack are named"
    assert "ended on" in renewal_plan(folder, on(366)).notices[0]


def test_in_the_grace_the_new_bundle_is_named(folder: Path) -> None:
    issue(at(folder, on(335)))
    (notice,) = renewal_plan(folder, on(336)).notices
    assert f"Install {folder}/devices/phone.p12 on it before 2027-11-08" in notice


def test_the_end_of_the_authority_is_told(folder: Path) -> None:
    assert (
        renewal_plan(folder, on(3650 - 60))
        .notices[0]
        .startswith("The certificate authority ends on 2036-11-21.")
    )
    at(folder, on(3630)).adopt_or_create_authority(AUTHORITY, AUTHORITIES)
    assert renewal_plan(folder, on(3630)).notices[0].startswith("A new certificate authority has taken over.")


def test_looking_ahead_changes_nothing_and_reads_no_key(folder: Path) -> None:
    for key in folder.rglob("*.key"):
        key.write_text("not to be read")
    (folder / "devices/broken.crt").write_text("no certificate")
    before = snapshot(folder)
    assert renewal_plan(folder, on(335), "phone", "broken").devices_due["broken"] == ""
    assert snapshot(folder) == before
