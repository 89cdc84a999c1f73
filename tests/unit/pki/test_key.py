"""Encrypted keys: read back here, by OpenSSL, and refused when they should be."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from pki.key import (
    KDF_ROUNDS,
    KeyType,
    PlainKeyError,
    decrypt_key,
    encrypt_key,
    generate_key,
    key_type_of,
)
from pki.sealed import BrokenSealError, DamagedSealError, seal, unseal
from tests.unit.pki.facts import PASSPHRASE, QUICK_ROUNDS


@pytest.mark.parametrize("rounds", [1, 127, 128, 32768, KDF_ROUNDS])
def test_a_key_survives_encryption(rounds: int) -> None:
    key = generate_key(KeyType.ECDSA_P256)
    pem = encrypt_key(key, PASSPHRASE, rounds)
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert max(len(line) for line in pem.splitlines()) <= 64
    assert decrypt_key(pem, PASSPHRASE).private_numbers() == key.private_numbers()


def test_openssl_reads_the_key_and_sees_the_work_factor(tmp_path: Path) -> None:
    key = generate_key(KeyType.ECDSA_P256)
    (tmp_path / "key.pem").write_bytes(encrypt_key(key, PASSPHRASE))
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    seen = subprocess.run(
        ["openssl", "pkey", "-in", "key.pem", "-passin", "file:passphrase", "-pubout"],
        cwd=tmp_path, capture_output=True, check=True,
    )  # fmt: skip
    assert seen.stdout == key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    structure = subprocess.run(
        ["openssl", "asn1parse", "-in", "key.pem"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert f"INTEGER           :{KDF_ROUNDS:06X}" in structure
    assert "hmacWithSHA256" in structure
    assert "aes-256-cbc" in structure


def test_two_encryptions_of_one_key_share_nothing() -> None:
    key = generate_key(KeyType.ECDSA_P256)
    first, second = (encrypt_key(key, PASSPHRASE, QUICK_ROUNDS).splitlines()[1:] for _ in range(2))
    assert not set(first[1:-1]) & set(second[1:-1])


def test_a_wrong_passphrase_opens_nothing() -> None:
    pem = encrypt_key(generate_key(KeyType.ECDSA_P256), PASSPHRASE, QUICK_ROUNDS)
    with pytest.raises(ValueError, match=r"."):
        decrypt_key(pem, PASSPHRASE + "x")


def test_a_plain_key_and_a_kind_that_is_not_used_are_refused() -> None:
    plain = generate_key(KeyType.ECDSA_P256).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(PlainKeyError):
        decrypt_key(plain, PASSPHRASE)
    other = ed25519.Ed25519PrivateKey.generate()
    encrypted = other.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSPHRASE.encode()),
    )
    with pytest.raises(ValueError, match="Ed25519"):
        decrypt_key(encrypted, PASSPHRASE)
    assert "Ed25519" in key_type_of(other.public_key())


def test_a_sealed_text_opens_with_its_passphrase_and_context_alone() -> None:
    sealed = seal("secret words", PASSPHRASE, context="phone", rounds=QUICK_ROUNDS)
    assert b"secret words" not in sealed
    assert unseal(sealed, PASSPHRASE, context="phone") == "secret words"
    with pytest.raises(BrokenSealError):
        unseal(sealed, PASSPHRASE + "x", context="phone")
    with pytest.raises(BrokenSealError):
        unseal(sealed, PASSPHRASE, context="tablet")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff\xfe", b'{"format": "immich-exposure sealed text 1", "rounds": 1e99}'],
)
def test_what_is_not_a_seal_is_damaged(content: bytes) -> None:
    with pytest.raises(DamagedSealError):
        unseal(content, PASSPHRASE, context="phone")


def test_a_seal_with_an_absurd_work_factor_is_refused_at_once() -> None:
    sealed = seal("secret words", PASSPHRASE, context="phone", rounds=QUICK_ROUNDS)
    absurd = sealed.replace(b'"rounds": 10,', b'"rounds": 99999999999,')
    assert absurd != sealed
    with pytest.raises(DamagedSealError):
        unseal(absurd, PASSPHRASE, context="phone")
