"""What is handed over: one device's files, each with the content type that devices expect."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from handover.sheet import Guidance, read_guidance
from pki import Keystore
from pki.certificate import fingerprint

PKCS12 = "application/x-pkcs12"
APPLE_PROFILE = "application/x-apple-aspen-config"


@dataclass(frozen=True)
class OneTimeFile:
    """One file that can be fetched once.

    `attachment` says whether a browser should save it. A configuration profile is not an attachment: Safari
    installs a profile only directly from the page, and since iOS 15 no longer from the Files app.
    """

    file_name: str
    content_type: str
    content: bytes
    purpose: str
    attachment: bool = True


@dataclass(frozen=True)
class Handover:
    """Everything that a device gets, and the password that opens it."""

    device: str
    fingerprint: str
    not_after: datetime
    files: tuple[OneTimeFile, ...]
    password: str = field(repr=False)
    guidance: Guidance | None = None
    """What the install sheet says; None if there is no sheet."""


def read_handover(
    keystore: Path,
    device: str,
    passphrase: str,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Handover:
    """Read what `device` gets from the keystore. Changes nothing and takes no lock.

    Raises:
        KeystoreError: bad name, no such device, wrong passphrase, expired certificate, missing or damaged
            file.
    """
    found = Keystore(keystore, passphrase, clock=clock).read_device(device)
    bundle = OneTimeFile(
        f"{found.name}.p12",
        PKCS12,
        found.bundle,
        "The certificate file, for the Immich app and for browsers.",
    )
    return Handover(
        found.name,
        fingerprint(found.certificate),
        found.certificate.not_valid_after_utc,
        (bundle,) if found.profile is None else (bundle, _profile(found.name, found.profile)),
        found.password,
        read_guidance(keystore, found.name),
    )


def _profile(name: str, content: bytes) -> OneTimeFile:
    purpose = "The same as a configuration profile: Safari on an iPhone or iPad needs this one."
    return OneTimeFile(f"{name}.mobileconfig", APPLE_PROFILE, content, purpose, attachment=False)
