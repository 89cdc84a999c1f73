"""What the certificates say, as X.509 facts and as OpenSSL sees them."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pki import AuthorityProfile, DeviceProfile, KeystoreError, KeyType
from pki.authority import create_authority
from pki.certificate import CLOCK_SKEW, Certified, is_signed_by, pem
from pki.client_certificate import issue_certificate
from pki.key import generate_key
from tests.unit.pki.facts import NOW, assert_is_ca, assert_is_leaf, key_usage_names

AUTHORITY = create_authority(AuthorityProfile(), generate_key(KeyType.ECDSA_P256), NOW)


def test_the_authority_is_a_ca_of_ten_years() -> None:
    assert_is_ca(AUTHORITY.certificate)
    assert AUTHORITY.subject == "CN=Immich Client CA, O=Personal, C=US"
    assert AUTHORITY.not_before == NOW - CLOCK_SKEW
    assert AUTHORITY.not_after == NOW + timedelta(days=3650)
    assert isinstance(AUTHORITY.certificate.public_key(), ec.EllipticCurvePublicKey)


def test_a_device_certificate_is_for_tls_clients_alone() -> None:
    key = generate_key(KeyType.ECDSA_P256)
    leaf = issue_certificate(AUTHORITY, DeviceProfile("phone", validity_days=90), key, NOW)
    assert_is_leaf(leaf, AUTHORITY.certificate)
    assert key_usage_names(leaf) == {"digital_signature"}
    assert Certified(leaf).subject == "CN=phone, O=MyOrg"
    assert leaf.not_valid_before_utc == NOW - CLOCK_SKEW
    assert leaf.not_valid_after_utc == NOW + timedelta(days=90)


def test_an_rsa_device_may_sign_and_nothing_else() -> None:
    key = generate_key(KeyType.RSA_4096)
    leaf = issue_certificate(AUTHORITY, DeviceProfile("phone", key_type=KeyType.RSA_4096), key, NOW)
    assert_is_leaf(leaf, AUTHORITY.certificate)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 4096
    assert key_usage_names(leaf) == {"digital_signature"}


def test_a_device_never_outlives_its_authority_nor_comes_before_it() -> None:
    key = generate_key(KeyType.ECDSA_P256)
    later = NOW + timedelta(days=3000)
    leaf = issue_certificate(AUTHORITY, DeviceProfile("phone"), key, later)
    assert leaf.not_valid_after_utc == AUTHORITY.not_after
    at_once = issue_certificate(AUTHORITY, DeviceProfile("phone"), key, NOW - timedelta(minutes=30))
    assert at_once.not_valid_before_utc == AUTHORITY.not_before


def test_serials_differ() -> None:
    key = generate_key(KeyType.ECDSA_P256)
    leaves = [issue_certificate(AUTHORITY, DeviceProfile("phone"), key, NOW) for _ in range(20)]
    assert len({leaf.serial_number for leaf in leaves}) == 20


def test_another_authority_of_the_same_name_did_not_sign_it() -> None:
    other = create_authority(AuthorityProfile(), generate_key(KeyType.ECDSA_P256), NOW)
    leaf = issue_certificate(AUTHORITY, DeviceProfile("phone"), generate_key(KeyType.ECDSA_P256), NOW)
    assert not is_signed_by(leaf, other.certificate)


@pytest.mark.parametrize(("purpose", "accepted"), [("sslclient", True), ("sslserver", False)])
@pytest.mark.parametrize("key_type", KeyType)
def test_openssl_takes_a_device_for_a_client_and_nothing_else(
    key_type: KeyType, purpose: str, accepted: bool, tmp_path: Path
) -> None:
    authority = create_authority(AuthorityProfile(key_type=key_type), generate_key(key_type), NOW)
    leaf = issue_certificate(authority, DeviceProfile("phone"), generate_key(key_type), NOW)
    (tmp_path / "ca.crt").write_bytes(pem(authority.certificate))
    (tmp_path / "phone.crt").write_bytes(pem(leaf))
    seen = subprocess.run(
        [
            "openssl", "verify", "-x509_strict", "-purpose", purpose, "-attime", str(int(NOW.timestamp())),
            "-CAfile", "ca.crt", "phone.crt",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (seen.returncode == 0) is accepted, seen.stdout + seen.stderr
    assert ("phone.crt: OK" in seen.stdout) is accepted


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        (lambda: AuthorityProfile(common_name="photos.example.org"), "looks like a host name"),
        (lambda: AuthorityProfile(country="usa"), "two capital letters"),
        (lambda: AuthorityProfile(organization=" "), "printable characters"),
        (lambda: AuthorityProfile(validity_days=0), "out of range"),
        (lambda: DeviceProfile("x" * 65), "printable characters"),
        (lambda: DeviceProfile("é" * 33), "beyond ASCII count 2 to 4"),
        (lambda: DeviceProfile("\ud800"), "printable characters"),
        (lambda: DeviceProfile("line\nbreak"), "printable characters"),
        (lambda: DeviceProfile("phone", platform="palm"), "one of ios, android"),  # type: ignore[arg-type]
        (lambda: DeviceProfile("phone", key_type="dsa"), "one of ecdsa-p256, rsa-4096"),  # type: ignore[arg-type]
    ],
)
def test_a_profile_that_no_certificate_should_hold_is_refused(profile: object, sentence: str) -> None:
    assert callable(profile)
    with pytest.raises(KeystoreError, match=sentence):
        profile()
