"""SSH keys of the lab: a fixed host key for the server, a fresh one for the operator."""

import hashlib
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

# Deliberately public: the tracked lab stack pins the host key, so every clone must derive the same one. It
# protects only a throw-away server that only this machine can reach.
HOST_KEY_SEED = b"immich-exposure lab: SSH host key of the embedded server"


def host_key() -> Ed25519PrivateKey:
    """The server's SSH host key, the same on every machine."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(HOST_KEY_SEED).digest())


def private_text(key: Ed25519PrivateKey) -> str:
    """OpenSSH's own private key format, without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def public_text(key: Ed25519PrivateKey) -> str:
    """``ssh-ed25519 AAAA...`` without comment or newline, as a stack pins it."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def operator_public_text(path: Path) -> str:
    """The operator's public key; the key pair is created (0600) if ``path`` does not exist."""
    public = path.with_name(path.name + ".pub")
    if not (path.exists() and public.exists()):
        key = Ed25519PrivateKey.generate()
        write_private(path, private_text(key))
        public.write_text(public_text(key) + "\n")
    return public.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Write with mode 0600 through a temporary file and a rename, so no half-written key is ever visible."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
