"""The Apple configuration profile that brings a bundle into the keychain of iOS and macOS.

It contains the bundle but not its password, so the system asks for that. It contains no root payload: no
device needs to trust the client CA, and one that did would accept it for any server.
"""

import plistlib
import uuid
from xml.parsers.expat import ExpatError

from pki.bundle import Platform

# Apple, Device Management: "CertificatePKCS12" and "TopLevel" of the profile-specific payload keys.
IDENTITY_PAYLOAD = "com.apple.security.pkcs12"
_PLATFORMS = frozenset({Platform.IOS, Platform.MACOS})
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:immich-exposure:configuration-profile")


def takes_profile(platform: Platform) -> bool:
    """Tell whether devices of this platform install configuration profiles."""
    return platform in _PLATFORMS


def make_mobileconfig(*, name: str, owner: str, fingerprint: str, bundle: bytes) -> bytes:
    """Return the profile (XML property list) of one device; the same arguments give the same bytes.

    `owner` (the stack) and `name` form the identifier, so that the profile of a renewed certificate replaces
    the previous one; the UUIDs are derived from the certificate's fingerprint.
    """
    identifier = f"immich-exposure.{owner}.{name}"
    identity = {
        "PayloadType": IDENTITY_PAYLOAD,
        "PayloadVersion": 1,
        "PayloadIdentifier": f"{identifier}.identity",
        "PayloadUUID": _uuid("identity", fingerprint),
        "PayloadDisplayName": f"Certificate of {name}",
        "PayloadCertificateFileName": f"{name}.p12",
        "PayloadContent": bundle,
    }
    profile = {
        "PayloadType": "Configuration",
        "PayloadVersion": 1,
        "PayloadIdentifier": identifier,
        "PayloadUUID": _uuid("profile", fingerprint),
        "PayloadDisplayName": f"Immich on {name}",
        "PayloadDescription": "Lets this device reach your Immich server. Its password is asked for once.",
        "PayloadOrganization": "immich-exposure",
        "PayloadScope": "User",
        "PayloadRemovalDisallowed": False,
        "PayloadContent": [identity],
    }
    return plistlib.dumps(profile, fmt=plistlib.FMT_XML, sort_keys=True)


def bundle_of_mobileconfig(content: bytes) -> bytes | None:
    """The bundle in a profile; None if `make_mobileconfig` did not write this profile."""
    try:
        [identity] = plistlib.loads(content, fmt=plistlib.FMT_XML)["PayloadContent"]
        bundle = identity["PayloadContent"]
    except (ValueError, KeyError, TypeError, ExpatError):
        return None
    return bundle if isinstance(bundle, bytes) else None


def _uuid(part: str, fingerprint: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{part}:{fingerprint}")).upper()
