"""PKCS#12 bundles, read by this library and by OpenSSL."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pki import AuthorityProfile, DeviceProfile, KeyType, Platform
from pki.authority import create_authority
from pki.bundle import BundleFormat, format_for, format_of, make_bundle, new_password, open_bundle
from pki.client_certificate import issue_certificate
from pki.key import generate_key
from tests.unit.pki.facts import NOW

AUTHORITY = create_authority(AuthorityProfile(), generate_key(KeyType.ECDSA_P256), NOW)
KEY = generate_key(KeyType.ECDSA_P256)
LEAF = issue_certificate(AUTHORITY, DeviceProfile("phone"), KEY, NOW)


def bundle(bundle_format: BundleFormat, password: str) -> bytes:
    return make_bundle(
        name="phone",
        key=KEY,
        certificate=LEAF,
        authority=AUTHORITY.certificate,
        password=password,
        bundle_format=bundle_format,
    )


@pytest.mark.parametrize("bundle_format", BundleFormat)
def test_a_bundle_holds_key_certificate_authority_and_name(bundle_format: BundleFormat) -> None:
    password = new_password()
    content = bundle(bundle_format, password)
    opened = open_bundle(content, password)
    assert isinstance(opened.key, ec.EllipticCurvePrivateKey)
    assert opened.key.private_numbers() == KEY.private_numbers()
    assert opened.cert is not None
    assert opened.cert.certificate == LEAF
    assert opened.cert.friendly_name == b"phone"
    assert [each.certificate for each in opened.additional_certs] == [AUTHORITY.certificate]
    assert format_of(content) is bundle_format
    with pytest.raises(ValueError, match=r"."):
        open_bundle(content, password + "x")


@pytest.mark.parametrize(
    ("bundle_format", "mac", "encryption"),
    [
        (BundleFormat.COMPATIBLE, "MAC: sha1", "pbeWithSHA1And3-KeyTripleDES-CBC"),
        (BundleFormat.MODERN, "MAC: sha256", "PBES2, PBKDF2, AES-256-CBC"),
    ],
)
def test_openssl_reads_a_bundle_without_its_legacy_provider(
    bundle_format: BundleFormat, mac: str, encryption: str, tmp_path: Path
) -> None:
    password = new_password()
    (tmp_path / "phone.p12").write_bytes(bundle(bundle_format, password))
    seen = subprocess.run(
        ["openssl", "pkcs12", "-info", "-in", "phone.p12", "-noenc", "-passin", "stdin"],
        cwd=tmp_path, input=password, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert mac in seen.stderr
    assert f"PKCS7 Encrypted data: {encryption}" in seen.stderr
    assert f"Shrouded Keybag: {encryption}" in seen.stderr
    assert "friendlyName: phone" in seen.stdout
    assert seen.stdout.count("BEGIN CERTIFICATE") == 2
    assert seen.stdout.count("BEGIN PRIVATE KEY") == 1


def test_only_linux_gets_the_modern_encryption() -> None:
    modern = [platform for platform in Platform if format_for(platform) is BundleFormat.MODERN]
    assert modern == [Platform.LINUX]
    assert format_of(b"not a bundle") is None


def test_passwords_are_readable_groups_and_never_the_same() -> None:
    passwords = {new_password() for _ in range(200)}
    assert len(passwords) == 200
    for password in passwords:
        assert [len(group) for group in password.split("-")] == [4, 4, 4, 4, 4]
        assert not set(password) & set("01lioLIO")
        assert password == password.lower()
