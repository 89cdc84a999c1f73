"""An exposure made by hand is taken over: every phone keeps working, and no stranger gets in meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lab import Lab
from lab.house import house
from pki import ProbeCredential
from tests.lab.chapter import CA_KEY, PHONES, phone_of_before, taken_over
from tests.lab.conftest import fresh_lab
from tests.lab.operator import PASSPHRASE, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.test_refusals import assert_told
from tests.lab.whole_server import Look, look, root
from tests.server.waiting import wait_until

pytestmark = pytest.mark.lab

PRIVATE = "/api/users/me"


@dataclass
class Chapter:
    """A server on which the chapter was done by hand, and the phones that are out there."""

    lab: Lab
    operator: Operator
    before: Look
    strangers_saw: list[str] = field(default_factory=list)

    def sees(self, name: str) -> str:
        return seen(self.lab, "/api/server/ping", credential=phone_of_before(name))

    def changed(self) -> list[str]:
        """What is not as it was before; that its user has used sudo is noted down by Debian's."""
        lines = look(self.lab).since(self.before).splitlines()
        return [each for each in lines if ".sudo_as_admin_successful" not in each]

    def adopt(self, *names: str, **changes: Any) -> None:
        """Write `adopt` for these phones into the stack."""
        self.operator.set(adopt=taken_over(*names, **changes))


@pytest.fixture(scope="module")
def chapter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chapter]:
    """The house `by-hand`, in which nothing of ours has happened yet."""
    home = house("by-hand")
    for lab in fresh_lab(home.name):
        operator = Operator(tmp_path_factory.mktemp(home.name), lab.info(), stack="by-hand", more=home.stack)
        operator.init()
        operator.set(devices=[])
        yield Chapter(lab, operator, look(lab))


def test_before_the_phones_get_in_and_strangers_do_not(chapter: Chapter) -> None:
    assert [chapter.sees(name) for name in PHONES] == ["200", "200"]
    assert seen(chapter.lab, PRIVATE) == FORBIDDEN


def test_a_funnel_opened_by_hand_is_nobodys_to_take(chapter: Chapter) -> None:
    assert_told(chapter.operator.fails(), "A funnel that was opened by hand uses port 443")
    assert chapter.changed() == []


def test_bad_input_is_told_in_a_sentence_and_changes_nothing(chapter: Chapter, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    other = tmp_path / "other.pem"
    other.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for changes, sentence in (
        ({"caKey": str(other)}, "is not the key of"),
        ({"caCertificate": "server:/var/lib/certs/cert.pem"}, "is not the certificate of an authority"),
        ({"caKey": "server:/mnt/none/ca-key.pem"}, "There is no file /mnt/none/ca-key.pem on the server"),
    ):
        chapter.adopt("anna", **changes)
        assert_told(chapter.operator.fails(), sentence)
    assert chapter.changed() == []
    assert not (chapter.operator.keystore / "ca.key").exists()


def test_one_up_takes_it_over_and_no_stranger_gets_in_meanwhile(chapter: Chapter) -> None:
    chapter.adopt(*PHONES)
    done = threading.Event()

    def knock() -> None:
        while not done.is_set():
            chapter.strangers_saw.append(seen(chapter.lab, PRIVATE))
            time.sleep(0.2)

    stranger = threading.Thread(target=knock)
    stranger.start()
    try:
        chapter.operator.up()
    finally:
        done.set()
        stranger.join()
    assert set(chapter.strangers_saw) <= {FORBIDDEN, REFUSED}
    assert FORBIDDEN in chapter.strangers_saw
    assert seen(chapter.lab, PRIVATE) == FORBIDDEN
    assert [chapter.sees(name) for name in PHONES] == ["200", "200"]


def test_it_is_ours_now(chapter: Chapter) -> None:
    assert root(chapter.lab, "systemctl is-active immich-edge; systemctl is-active caddy || :").split() == [
        "active",
        "inactive",
    ]
    assert root(chapter.lab, "ls /var/lib/immich-exposure/bans/manual").split() == ["203.0.113.200"]
    assert seen(chapter.lab, "/", source="203.0.113.200") in (FORBIDDEN, REFUSED)
    listed = {name: each["platform"] for name, each in chapter.operator.outputs()["devices"].items()}
    assert listed == dict.fromkeys(PHONES, "adopted")
    key = (chapter.operator.keystore / "ca.key").read_bytes()
    assert key.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    [line] = root(chapter.lab, f"sed -n 5p {CA_KEY.removeprefix('server:')}").split()
    assert len(line) == 64
    assert line not in chapter.operator.export()
    assert not any(line in printed for printed in chapter.operator.log)


def test_a_second_up_changes_nothing(chapter: Chapter) -> None:
    chapter.operator.up()
    assert set(chapter.operator.changes()) == {"same"}


def test_the_authority_certifies_new_devices(chapter: Chapter) -> None:
    chapter.operator.devices("laptop")
    chapter.operator.up()
    laptop = chapter.operator.keystore / "devices/laptop"
    credential = ProbeCredential("laptop", laptop.with_suffix(".crt"), laptop.with_suffix(".key"))
    assert seen(chapter.lab, "/api/server/ping", credential=credential, passphrase=PASSPHRASE) == "200"
    assert [chapter.sees(name) for name in PHONES] == ["200", "200"]


def test_a_lost_phone_is_taken_out_of_the_list(chapter: Chapter) -> None:
    chapter.adopt("anna")
    chapter.operator.up()
    assert chapter.sees("ben") == FORBIDDEN
    assert chapter.sees("anna") == "200"


def test_the_leftovers_are_listed_and_then_removed(chapter: Chapter) -> None:
    listed = root(chapter.lab, "immich-exposure forget-chapter 2>/dev/null")
    assert f"can go   {CA_KEY.removeprefix('server:')}" in listed
    assert "stays    /var/lib/certs/cert.pem: the configuration in /etc/nixos names it" in listed
    root(chapter.lab, "immich-exposure forget-chapter --yes 2>/dev/null")
    assert root(chapter.lab, "ls /mnt/immich_drive/secrets /var/lib/certs").split() == [
        "/mnt/immich_drive/secrets:",
        "ca-cert.srl",
        "/var/lib/certs:",
        "ca-cert.pem",
        "cert.pem",
        "key.pem",
    ]


def test_destroy_puts_the_home_back_with_the_funnel_closed(chapter: Chapter) -> None:
    chapter.operator.destroy()
    assert seen(chapter.lab, "/") == REFUSED
    wait_until(
        lambda: root(chapter.lab, "systemctl is-active caddy || :") == "active", "their Caddy is back", 60
    )
    assert root(chapter.lab, "grep -c '^ *./expose-immich.nix' /etc/nixos/configuration.nix") == "1"


def test_up_again_needs_none_of_the_old_files(chapter: Chapter) -> None:
    chapter.operator.up()
    assert chapter.sees("anna") == "200"
    assert chapter.sees("ben") == FORBIDDEN
    chapter.operator.destroy()
