"""Short secrets at rest: sealed with the keystore's passphrase."""

import json
import os
from base64 import b64decode, b64encode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pki.document import read_document
from pki.key import KDF_ROUNDS, derive
from pki.work_factor import ROUNDS_LIMIT

_FORMAT = "immich-exposure sealed text 1"


class DamagedSealError(ValueError):
    """The text was not written by `seal`."""


class BrokenSealError(ValueError):
    """The passphrase is wrong, the context differs, or the text was changed."""


def seal(secret: str, passphrase: str, *, context: str, rounds: int = KDF_ROUNDS) -> bytes:
    """Encrypt a short text with AES-256-GCM under a key from PBKDF2 (HMAC-SHA-256, `rounds`).

    `context` says what the text is for; a seal opens only with the same context, so that two sealed files
    cannot be swapped.
    """
    salt, nonce = os.urandom(16), os.urandom(12)
    sealed = AESGCM(derive(passphrase, salt, rounds)).encrypt(nonce, secret.encode(), context.encode())
    fields = {"salt": salt, "nonce": nonce, "sealed": sealed}
    document = {"format": _FORMAT, "rounds": rounds} | {
        name: b64encode(value).decode() for name, value in fields.items()
    }
    return json.dumps(document).encode() + b"\n"


def unseal(content: bytes, passphrase: str, *, context: str) -> str:
    """Read back what `seal` wrote.

    Raises:
        DamagedSealError: the content does not have the form of a seal.
        BrokenSealError: it does not open.
    """
    try:
        document = read_document(content, _FORMAT)
        rounds = int(document["rounds"])
        if not 1 <= rounds <= ROUNDS_LIMIT:
            raise DamagedSealError("no number of rounds that we use")
        salt, nonce, sealed = (
            b64decode(document[name], validate=True) for name in ("salt", "nonce", "sealed")
        )
        plain = AESGCM(derive(passphrase, salt, rounds)).decrypt(nonce, sealed, context.encode())
        return plain.decode()
    except InvalidTag as error:
        raise BrokenSealError("the seal does not open") from error
    except DamagedSealError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedSealError(str(error)) from error
