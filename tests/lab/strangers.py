"""Certificates that must not be let in: from another authority, or from ours but never enrolled."""

from __future__ import annotations

import secrets
from pathlib import Path

from pki import AuthorityProfile, DeviceProfile, Keystore, ProbeCredential

PASSPHRASE = secrets.token_hex(16)


def foreign_credential(folder: Path, *, common_name: str = "Somebody Else's CA") -> ProbeCredential:
    """Return a certificate issued by an authority that the server has never heard of.

    With ``common_name`` that authority can bear the name of ours, but never its key.
    """
    store = Keystore(folder, PASSPHRASE)
    store.adopt_or_create_authority(AuthorityProfile(common_name=common_name))
    store.adopt_or_issue_device("stranger", DeviceProfile("stranger"))
    return store.probe_credentials()[0]


def unenrolled_credential(keystore: Path, passphrase: str, stack: str) -> ProbeCredential:
    """Return a certificate of our own authority for a device that no stack configures."""
    store = Keystore(keystore, passphrase, stack=stack)
    store.adopt_or_issue_device("never-enrolled", DeviceProfile("never-enrolled"))
    return next(found for found in store.probe_credentials() if found.name == "never-enrolled")
