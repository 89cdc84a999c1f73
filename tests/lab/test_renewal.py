"""Renewal, the change of authority and revocation with the real engine, and what devices then see.

No clock is changed: the keystore is created with an old clock before the first `pulumi up`, so that under the
real one certificates are due. The tests in this file tell one story and run in file order.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab import Lab
from pki import AuthorityProfile, DeviceProfile, Keystore, Platform, ProbeCredential, Renewal
from pki.certificate import fingerprint, parse_certificate
from tests.lab.operator import LISTS, PASSPHRASE, PROOF, Operator
from tests.lab.outside import FORBIDDEN, OpenConnection, kept_alive, seen
from tests.lab.snapshot import output
from tests.server.waiting import wait_until

pytestmark = pytest.mark.lab

DEVICES = "/var/lib/immich-exposure/devices"
POOL = "/var/lib/immich-exposure/device-ca.crt"
PING = "/api/server/ping"
VALID_DAYS = 365


@dataclass
class Story:
    """What the tests of this file share. `kept` holds copies of credentials, as devices have them."""

    lab: Lab
    operator: Operator
    kept: Path

    def store(self, days_ago: int = 0) -> Keystore:
        """The keystore as a run so many days ago opened it."""
        then = datetime.now(UTC) - timedelta(days=days_ago)
        return Keystore(self.operator.keystore, PASSPHRASE, stack=self.operator.stack, clock=lambda: then)

    def keep(self, name: str) -> ProbeCredential:
        """Copy a device's present credential away, as it lies on the device itself."""
        folder = self.kept / f"{name}-{len(list(self.kept.iterdir()))}"
        folder.mkdir()
        paths = [
            Path(shutil.copy(self.operator.keystore / f"devices/{name}.{kind}", folder))
            for kind in ("crt", "key")
        ]
        return ProbeCredential(name, *paths)

    def sees(self, credential: ProbeCredential) -> str:
        """Return what somebody with this credential sees from outside."""
        return seen(self.lab, PING, credential=credential, passphrase=PASSPHRASE)

    def enrolled(self) -> list[str]:
        """Return the device names on the server, one for each certificate."""
        return sorted(output(self.lab, f"sudo sh -c 'head -q -n 1 {DEVICES}/*'").split())

    def trusted(self) -> int:
        """Return how many authorities the server trusts."""
        return int(output(self.lab, f"sudo grep -c BEGIN {POOL}"))

    def planned(self) -> set[str]:
        """Return the names of the resources that `pulumi up` would change."""
        return {step.name for step in self.operator.planned()}

    def assert_nothing_to_do(self) -> None:
        """Run `pulumi up` once more: it changes nothing."""
        self.operator.up()
        assert set(self.operator.changes()) == {"same"}


def device(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "platform": "linux", **more}


@pytest.fixture(scope="module")
def story(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A stack whose keystore is 340 days old; its tablet was renewed ten days ago."""
    folder = tmp_path_factory.mktemp("renewal")
    operator = Operator(folder, lab.info(), stack="renewal")
    operator.init()
    operator.set(
        devices=[device("phone"), device("tablet"), device("laptop")],
        clientValidityDays=VALID_DAYS,
        renewBeforeDays=15,
        graceDays=14,
    )
    (folder / "kept").mkdir()
    story = Story(lab, operator, folder / "kept")
    story.store(days_ago=340).adopt_or_create_authority(AuthorityProfile())
    for name, days_ago in (("phone", 340), ("tablet", 340), ("tablet", 10)):
        profile = DeviceProfile(name, platform=Platform.LINUX, validity_days=VALID_DAYS)
        story.store(days_ago).adopt_or_issue_device(name, profile, Renewal(40, 14))
    yield story
    operator.destroy()


def test_up_adopts_what_is_there_and_names_what_is_near(story: Story) -> None:
    told = story.operator.up()
    assert "The certificate of the device phone ends on " in told
    assert "The device tablet has a new certificate. Install " in told
    assert "laptop ends on" not in told
    assert story.enrolled() == ["laptop", "phone", "tablet", "tablet"], "both of the tablet's count"
    assert story.sees(story.keep("phone")) == "200"
    devices = story.operator.outputs()["devices"]
    assert set(devices) == {"phone", "tablet", "laptop"}
    assert devices["phone"].keys() >= {"platform", "fingerprint", "notAfter", "bundle"}


def test_a_preview_shows_the_renewal_and_its_date(story: Story) -> None:
    story.operator.set(renewBeforeDays=30)
    preview = story.operator.preview("--diff")
    due = datetime.now(UTC) - timedelta(days=340) + timedelta(days=VALID_DAYS - 30)
    assert f'"due since {due:%Y-%m-%d}"' in preview
    # with --diff the engine tells warnings on standard error
    assert "It is due: `pulumi up` renews it." in story.operator.log[-1]
    assert story.planned() == PROOF | {
        "immich-preflight",
        "immich-device-phone",
        "immich-devices",
        "immich-sheets",
    }


def test_up_renews_and_both_certificates_count(story: Story) -> None:
    old = story.keep("phone")
    story.operator.up()
    new = story.keep("phone")
    assert new.certificate_path.read_bytes() != old.certificate_path.read_bytes()
    assert [story.sees(each) for each in (old, new)] == ["200", "200"]
    assert story.enrolled() == ["laptop", "phone", "phone", "tablet", "tablet"]
    story.assert_nothing_to_do()


def test_the_server_itself_ends_what_has_ended(story: Story) -> None:
    """Its timer's unit, with an end in the file that has passed: no up, no reload."""
    new = story.keep("phone")
    (old,) = (story.operator.keystore / "previous").glob("phone.crt")
    credential = ProbeCredential("phone", old, old.with_suffix(".key"))
    name = fingerprint(parse_certificate(old.read_bytes()))
    life = "systemctl show immich-edge --property=MainPID,ExecMainStartTimestamp"
    running = output(story.lab, life)
    assert story.sees(credential) == "200"
    output(story.lab, f"printf 'phone\\nuntil 1000\\n' | sudo tee {DEVICES}/{name}")
    output(story.lab, "systemctl is-active immich-exposure-devices.timer")
    output(story.lab, "sudo systemctl start immich-exposure-devices.service")
    assert [story.sees(each) for each in (credential, new)] == [FORBIDDEN, "200"]
    assert (
        output(story.lab, "systemctl show immich-edge --property=MainPID,ExecMainStartTimestamp") == running
    )


def test_when_the_grace_is_over_up_withdraws_the_old_certificate(story: Story) -> None:
    previous = story.operator.keystore / "previous"
    folder = story.kept / "old-tablet"
    folder.mkdir()
    paths = [Path(shutil.copy(previous / f"tablet.{kind}", folder)) for kind in ("crt", "key")]
    old, new = ProbeCredential("tablet", *paths), story.keep("tablet")
    assert [story.sees(each) for each in (old, new)] == ["200", "200"]
    story.operator.set(graceDays=5)
    assert "stopped working on " in story.operator.preview("--diff")
    story.operator.up()
    assert [story.sees(each) for each in (old, new)] == [FORBIDDEN, "200"]
    assert not (previous / "tablet.crt").exists()


def test_revoked_in_the_config_is_out_on_its_open_connection_and_nobody_else(story: Story) -> None:
    lost, laptop = story.keep("phone"), story.keep("laptop")
    of_the_lost = OpenConnection(story.lab, lost, PASSPHRASE)
    of_the_laptop = OpenConnection(story.lab, laptop, PASSPHRASE)
    sockets = [OpenConnection(story.lab, each, PASSPHRASE) for each in (lost, laptop)]
    assert [socket.listen() for socket in sockets] == [True, True]
    assert (of_the_lost.status(PING), of_the_laptop.status(PING)) == (200, 200)
    story.operator.set(devices=[device("phone", revoked=True), device("tablet"), device("laptop")])
    with kept_alive(of_the_lost, of_the_laptop):
        others = {name for name in story.planned() if "phone" not in name}
        assert others == PROOF | LISTS, "nobody else is touched, and nothing was left to do"
        story.operator.up()
    assert of_the_lost.is_cut(), "a revoked device keeps no connection"
    assert of_the_laptop.status(PING) == 200, "cut although it was not revoked"
    wait_until(lambda: not sockets[0].echoes(), "the websocket of the lost phone ends")
    assert sockets[1].echoes(), "cut although it was not revoked"
    assert story.sees(lost) == FORBIDDEN
    assert story.enrolled() == ["laptop", "tablet"]
    story.assert_nothing_to_do()


def test_a_new_authority_takes_over_beside_the_old(story: Story) -> None:
    laptop, tablet = story.keep("laptop"), story.keep("tablet")
    story.operator.set(ca={"renewBeforeDays": 3400})
    assert '"due since ' in story.operator.preview("--diff")
    story.operator.up()
    assert story.trusted() == 2
    assert [story.sees(each) for each in (laptop, tablet)] == ["200", "200"]
    story.operator.set(devices=[*story.operator.settings["devices"], device("desk")])
    story.operator.up()
    assert {name for name in story.operator.touched() if "desk" not in name} == PROOF | LISTS, (
        "nothing else was left to do"
    )
    assert [story.sees(each) for each in (story.keep("desk"), laptop)] == ["200", "200"]


def test_the_old_authority_leaves_when_no_device_needs_it(story: Story) -> None:
    laptop, desk = story.keep("laptop"), story.keep("desk")
    story.operator.set(devices=[device("desk")])
    story.operator.up()
    assert story.trusted() == 2, "the devices go last"
    assert "no device needs the old authority any more" in story.operator.preview("--diff")
    story.operator.up()
    assert story.trusted() == 1
    assert story.sees(desk) == "200"
    assert story.sees(laptop) == FORBIDDEN, "of an authority that nobody trusts"
    story.assert_nothing_to_do()
