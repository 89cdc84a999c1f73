"""Certificates for the owner's devices, and the keystore that holds them.

A `Keystore` is a folder on the operator's machine. It holds one `Authority` (the client CA) and one
`DeviceCredential` for each device: certificate, encrypted key and the PKCS#12 bundle that a phone imports.
This package is independent of Pulumi and uses no network.

    store = Keystore(Path("stacks/keystore/home"), passphrase, stack="home")
    authority = store.adopt_or_create_authority(AuthorityProfile())
    phone = store.adopt_or_issue_device("phone", DeviceProfile("phone"))
"""

from pki.adoption import AdoptedDevice, Adoption, Claim, Source
from pki.authority import Authority
from pki.bundle import Platform
from pki.device_name import device_name
from pki.device_store import DeviceCredential
from pki.errors import KeystoreError
from pki.frame_store import FrameSecret
from pki.key import KeyType
from pki.keystore import Keystore, ProbeCredential
from pki.profile import AuthorityProfile, DeviceProfile
from pki.renewal import Renewal
from pki.revocations import Revocation

__all__ = [
    "AdoptedDevice",
    "Adoption",
    "Authority",
    "AuthorityProfile",
    "Claim",
    "DeviceCredential",
    "DeviceProfile",
    "FrameSecret",
    "KeyType",
    "Keystore",
    "KeystoreError",
    "Platform",
    "ProbeCredential",
    "Renewal",
    "Revocation",
    "Source",
    "device_name",
]
