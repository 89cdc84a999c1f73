"""Whatever is wrong with a keystore: the engine is answered with one sentence, and no byte changes."""

from __future__ import annotations

import hashlib
import re
import shutil
import traceback
from pathlib import Path
from typing import Any

import pytest
from pulumi.dynamic import ResourceProvider

from components import certificate_authority, client_certificate
from pki import AuthorityProfile, DeviceProfile, Keystore, KeystoreError, Platform

PASSPHRASE = "correct horse battery staple"
STACK = "home"
QUICK = 1_000
"""Rounds of the key derivation in the keystores of this file; the providers read them from the files."""

FILES = (
    "ca.crt",
    "ca.key",
    "devices/phone.crt",
    "devices/phone.key",
    "devices/phone.p12",
    "devices/phone.password",
)


def make_keystore(folder: Path, stack: str = STACK, passphrase: str = PASSPHRASE) -> Path:
    """Make a keystore with an authority and the device ``phone``."""
    store = Keystore(folder, passphrase, stack=stack, kdf_rounds=QUICK)
    store.adopt_or_create_authority(AuthorityProfile())
    store.adopt_or_issue_device("phone", DeviceProfile("phone", platform=Platform.IOS))
    return folder


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keystore that no test may change."""
    return make_keystore(tmp_path_factory.mktemp("made-once") / "keystore")


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> Path:
    """A keystore of a test's own."""
    return Path(shutil.copytree(made_once, tmp_path / "keystore"))


def digest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file by its relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def authority_props(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the inputs of the authority as the engine hands them to its provider: numbers are floats."""
    return {
        "keystore": str(folder),
        "stack": STACK,
        "passphrase": PASSPHRASE,
        "commonName": "Immich Client CA",
        "organization": "Personal",
        "country": "US",
        "validityDays": 3650.0,
        "keyType": "ecdsa-p256",
        "renewBeforeDays": 30.0,
        "graceDays": 14.0,
        "renewal": "",
        "purgeKeystore": False,
        "devices": ["phone"],
        **changes,
    }


def device_props(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the inputs of the device ``phone``, in the same way."""
    return {
        "keystore": str(folder),
        "stack": STACK,
        "passphrase": PASSPHRASE,
        "device": "phone",
        "commonName": "phone",
        "organization": "MyOrg",
        "platform": "ios",
        "validityDays": 3650.0,
        "keyType": "ecdsa-p256",
        "renewBeforeDays": 30.0,
        "graceDays": 14.0,
        "renewal": "",
        **changes,
    }


def answer(provider: ResourceProvider, props: dict[str, Any]) -> str:
    """Return what the engine is told when ``create`` fails, as the SDK puts it; empty when it succeeds."""
    try:
        provider.create(props)
    except KeystoreError:
        return traceback.format_exc()
    return ""


def first_refusal(folder: Path, **changes: Any) -> str:
    """Run the authority and then the device, as ``pulumi up`` does, and return the first refusal."""
    told = answer(certificate_authority._Provider(), authority_props(folder, **changes))
    return told or answer(client_certificate._Provider(), device_props(folder, **changes))


def assert_one_sentence(told: str, *names: Path | str) -> None:
    """Assert that a person reads one line, which names what is wrong and says what to do."""
    assert re.fullmatch(r"[A-Z/'][^\n]*\.\n", told), told
    for name in names:
        assert str(name) in told, told
    remedies = ("Restore", "restore", "Delete", "delete", "Set", "Change", "Choose", "move")
    assert any(remedy in told for remedy in remedies), told


def test_a_sound_keystore_is_adopted_unchanged(folder: Path) -> None:
    before = digest(folder)
    assert first_refusal(folder) == ""
    assert digest(folder) == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_damaged_file(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if damage == "flipped":
        content[middle : middle + 8] = bytes(byte ^ 0x15 for byte in content[middle : middle + 8])
    path.write_bytes({"flipped": bytes(content), "cut": bytes(content[:middle]), "emptied": b""}[damage])
    before = digest(folder)
    assert_one_sentence(first_refusal(folder), path)
    assert digest(folder) == before


def test_a_damaged_marker(folder: Path) -> None:
    (folder / "keystore.json").write_text("{", encoding="utf-8")
    before = digest(folder)
    assert_one_sentence(first_refusal(folder), folder / "keystore.json")
    assert digest(folder) == before


@pytest.mark.parametrize("name", ["ca.key", "devices/phone.key"])
def test_a_key_of_another_keystore(folder: Path, tmp_path: Path, name: str) -> None:
    other = make_keystore(tmp_path / "other")
    shutil.copy(other / name, folder / name)
    before = digest(folder)
    assert_one_sentence(first_refusal(folder), folder / name, "is not the key of", "the same backup")
    assert digest(folder) == before


def test_a_bundle_of_another_device(folder: Path, tmp_path: Path) -> None:
    other = make_keystore(tmp_path / "other")
    for suffix in ("p12", "password"):
        shutil.copy(other / f"devices/phone.{suffix}", folder / f"devices/phone.{suffix}")
    before = digest(folder)
    assert_one_sentence(first_refusal(folder), folder / "devices/phone.p12")
    assert digest(folder) == before


def test_a_wrong_passphrase_is_not_repeated(folder: Path) -> None:
    before = digest(folder)
    told = first_refusal(folder, passphrase="another passphrase, long enough")
    assert_one_sentence(told, folder / "ca.key", "Set `keystorePassphrase`")
    assert "another passphrase" not in told
    assert digest(folder) == before


def test_a_keystore_of_another_stack(folder: Path) -> None:
    before = digest(folder)
    assert_one_sentence(first_refusal(folder, stack="cabin"), "'home'", "'cabin'", "Set `keystore`")
    assert digest(folder) == before


def test_a_refused_authority_revokes_nobody(folder: Path) -> None:
    """The stray in the keystore keeps its files while the passphrase is wrong."""
    before = digest(folder)
    told = answer(
        certificate_authority._Provider(),
        authority_props(folder, passphrase="another passphrase, long enough", devices=[]),
    )
    assert_one_sentence(told)
    assert digest(folder) == before


@pytest.mark.parametrize(
    "name", ["../phone", "phone/anna", "a\\b", ".phone", "phone.", "pho ne", "", "／phone"]
)
def test_a_name_that_is_no_file_name(folder: Path, name: str) -> None:
    before = digest(folder)
    told = answer(client_certificate._Provider(), device_props(folder, device=name))
    assert re.fullmatch(r"The device name .* for example 'phone-anna'\.\n", told)
    assert digest(folder) == before


def test_a_name_that_differs_in_case_alone(folder: Path) -> None:
    before = digest(folder)
    told = answer(client_certificate._Provider(), device_props(folder, device="Phone"))
    assert_one_sentence(told, "'Phone' differs only in upper and lower case from 'phone'", "Choose another")
    assert digest(folder) == before
