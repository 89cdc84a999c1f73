"""Bundles opened by programs that do not share a line with what wrote them."""

from __future__ import annotations

import plistlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from pki import AuthorityProfile, DeviceCredential, DeviceProfile, Keystore, KeyType, Platform
from pki.bundle import BundleFormat, format_of
from pki.certificate import fingerprint
from pki.key import decrypt_key
from tests.server.bundle_readers import READERS, Reader, RefusedError
from toolchain import system

pytestmark = pytest.mark.server

PASSPHRASE = "correct horse battery"
# The rounds of a bundle are min(20 000, these): as a person gets it, while the rest of the keystore is quick.
ROUNDS = 20_000


@pytest.fixture(scope="module", autouse=True)
def readers() -> None:
    """Install the readers that are missing."""
    system.ensure(system.BUNDLE_READERS)


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Keystore:
    """A keystore with a device of each platform, and two with keys of RSA."""
    store = Keystore(tmp_path_factory.mktemp("bundles") / "keystore", PASSPHRASE, kdf_rounds=ROUNDS)
    store.adopt_or_create_authority(AuthorityProfile())
    return store


def device(
    keystore: Keystore, platform: Platform, key_type: KeyType = KeyType.ECDSA_P256
) -> DeviceCredential:
    """The device of this platform and kind of key; made when it is asked for first."""
    name = f"{platform}-{key_type}"
    return keystore.adopt_or_issue_device(name, DeviceProfile(name, platform=platform, key_type=key_type))


def assert_opens(
    reader: Reader, bundle: Path, found: DeviceCredential, keystore: Keystore, folder: Path
) -> None:
    """The reader finds our key, our certificate with the CA behind it, and the device's name."""
    seen = reader(bundle, found.bundle_password, folder)
    key = decrypt_key(found.key_path.read_bytes(), PASSPHRASE)
    assert seen.public_key == key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert fingerprint(seen.chain[0]) == found.fingerprint
    authority = keystore.adopt_or_create_authority(AuthorityProfile())
    assert [fingerprint(each) for each in seen.chain[1:]] == [authority.fingerprint]
    assert seen.friendly_name == found.name


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_every_platforms_bundle_opens_everywhere(
    reader: Reader, platform: Platform, keystore: Keystore, tmp_path: Path
) -> None:
    found = device(keystore, platform)
    assert_opens(reader, found.bundle_path, found, keystore, tmp_path)


@pytest.mark.parametrize("platform", [Platform.IOS, Platform.LINUX])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_bundle_with_an_rsa_key_opens_in_both_formats(
    reader: Reader, platform: Platform, keystore: Keystore, tmp_path: Path
) -> None:
    found = device(keystore, platform, KeyType.RSA_4096)
    expected = BundleFormat.MODERN if platform is Platform.LINUX else BundleFormat.COMPATIBLE
    assert format_of(found.bundle_path.read_bytes()) is expected
    assert_opens(reader, found.bundle_path, found, keystore, tmp_path)


@pytest.mark.parametrize("platform", [Platform.IOS, Platform.LINUX])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_wrong_password_opens_nothing(
    reader: Reader, platform: Platform, keystore: Keystore, tmp_path: Path
) -> None:
    found = device(keystore, platform)
    for wrong in (found.bundle_password + "x", "wrong"):
        folder = tmp_path / wrong
        folder.mkdir()
        with pytest.raises(RefusedError, match=r"(?i)password|mac|PASSWORD"):
            reader(found.bundle_path, wrong, folder)


@pytest.mark.parametrize("platform", [Platform.IOS, Platform.MACOS])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_the_identity_in_an_apple_profile_opens_too(
    reader: Reader, platform: Platform, keystore: Keystore, tmp_path: Path
) -> None:
    found = device(keystore, platform)
    assert found.mobileconfig_path is not None
    [identity] = plistlib.loads(found.mobileconfig_path.read_bytes())["PayloadContent"]
    extracted = tmp_path / identity["PayloadCertificateFileName"]
    extracted.write_bytes(identity["PayloadContent"])
    assert_opens(reader, extracted, found, keystore, tmp_path)
