"""Private keys: generating them, and their encrypted form on disk."""

import os
import re
from base64 import b64decode, b64encode
from enum import StrEnum
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from pki.work_factor import refuse_endless

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# Work factor of everything that the passphrase protects: rounds of PBKDF2 with HMAC-SHA-256, as OWASP's
# password storage cheat sheet (2023) recommends. About 0.15 s per file on a small computer.
KDF_ROUNDS = 600_000


class KeyType(StrEnum):
    """The key types that phones, browsers and Go's TLS all accept."""

    ECDSA_P256 = "ecdsa-p256"
    RSA_4096 = "rsa-4096"


class PlainKeyError(ValueError):
    """The key file is not encrypted."""


def generate_key(key_type: KeyType) -> PrivateKey:
    """Generate a new private key."""
    if key_type == KeyType.RSA_4096:
        return rsa.generate_private_key(public_exponent=65537, key_size=4096)
    return ec.generate_private_key(ec.SECP256R1())


def key_type_of(key: PublicKeyTypes) -> str:
    """Name the type of a public key as in `KeyType`, also for types that are not in it."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ecdsa-p256" if isinstance(key.curve, ec.SECP256R1) else f"ecdsa-{key.curve.name}"
    return type(key).__name__


def derive(passphrase: str, salt: bytes, rounds: int) -> bytes:
    """Derive 32 bytes from the passphrase (RFC 8018, PBKDF2 with HMAC-SHA-256)."""
    return PBKDF2HMAC(hashes.SHA256(), 32, salt, rounds).derive(passphrase.encode())


def encrypt_key(key: PrivateKey, passphrase: str, rounds: int = KDF_ROUNDS) -> bytes:
    """Return the key as an encrypted PKCS#8 PEM (RFC 5958): PBES2 with PBKDF2 and AES-256-CBC.

    Implemented here instead of using `cryptography`, which fixes PBKDF2 at 2,048 rounds, far too few for a
    passphrase that a person chose. The result is the standard form that OpenSSL and curl read.
    """
    salt, vector = os.urandom(16), os.urandom(16)
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(derive(passphrase, salt, rounds)), modes.CBC(vector)).encryptor()
    secret = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    body = b64encode(_encrypted_private_key_info(salt, rounds, vector, secret))
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + _wrap(body) + b"-----END ENCRYPTED PRIVATE KEY-----\n"


def decrypt_key(pem: bytes, passphrase: str) -> PrivateKey:
    """Read an encrypted PEM key.

    Raises:
        PlainKeyError: the key is not encrypted.
        ValueError: wrong passphrase, damaged text, or an unsupported key type. The file does not show which
            of the first two it is.
    """
    refuse_endless_key(pem)
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode())
    except TypeError as error:
        raise PlainKeyError(str(error)) from error
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError(f"{type(key).__name__} keys are not used here")
    return key


_ENCRYPTED = re.compile(
    rb"-----BEGIN ENCRYPTED PRIVATE KEY-----(.*?)(?:-----END ENCRYPTED PRIVATE KEY-----|$)", re.DOTALL
)


def refuse_endless_key(pem: bytes) -> None:
    """Refuse a key whose key derivation would take minutes.

    Raises:
        ValueError: it would take too long, or it is damaged.
    """
    for body in _ENCRYPTED.findall(pem):
        refuse_endless(b64decode(body))


_PBES2 = bytes.fromhex("2a864886f70d01050d")
_PBKDF2 = bytes.fromhex("2a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("2a864886f70d0209")
_AES256_CBC = bytes.fromhex("60864801650304012a")


def _encrypted_private_key_info(salt: bytes, rounds: int, vector: bytes, secret: bytes) -> bytes:
    """EncryptedPrivateKeyInfo of RFC 5958 with the PBES2 parameters of RFC 8018, in DER."""
    kdf = _sequence(
        _oid(_PBKDF2),
        _sequence(_octets(salt), _integer(rounds), _sequence(_oid(_HMAC_SHA256), _der(0x05, b""))),
    )
    cipher = _sequence(_oid(_AES256_CBC), _octets(vector))
    return _sequence(_sequence(_oid(_PBES2), _sequence(kdf, cipher)), _octets(secret))


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _oid(encoded: bytes) -> bytes:
    return _der(0x06, encoded)


def _octets(content: bytes) -> bytes:
    return _der(0x04, content)


def _integer(value: int) -> bytes:
    # one bit more than the number needs, so that the sign bit stays clear
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _wrap(text: bytes) -> bytes:
    """Break base64 at 64 characters, the line length of RFC 7468."""
    return b"".join(text[start : start + 64] + b"\n" for start in range(0, len(text), 64))
