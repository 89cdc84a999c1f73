"""What a certificate shall say: the profile of the authority and the profile of a device."""

import re
from dataclasses import dataclass

from pki.bundle import Platform
from pki.errors import KeystoreError
from pki.key import KeyType

# RFC 5280, appendix A.1: ub-common-name and ub-organization-name.
_TEXT_LIMIT = 64
# 2049 is the last year that UTCTime can hold; a century is a typing mistake rather than a wish.
_DAYS_LIMIT = 36_500

_HOST_NAME = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_COUNTRY = re.compile(r"[A-Z]{2}")


def _require_text(what: str, text: str) -> None:
    if not text.strip() or len(text) > _TEXT_LIMIT or not text.isprintable():
        raise KeystoreError(
            f"The {what} {text!r} must have 1 to {_TEXT_LIMIT} printable characters (RFC 5280). Choose "
            "another text."
        )


def _require_days(days: int) -> None:
    if not 1 <= days <= _DAYS_LIMIT:
        raise KeystoreError(f"A validity of {days} days is out of range. Use 1 to {_DAYS_LIMIT} days.")


@dataclass(frozen=True)
class AuthorityProfile:
    """Subject, lifetime (days) and key of the client certificate authority.

    Raises:
        KeystoreError: a value that no certificate can or should hold.
    """

    common_name: str = "Immich Client CA"
    organization: str = "Personal"
    country: str = "US"
    validity_days: int = 3650
    key_type: KeyType = KeyType.ECDSA_P256

    def __post_init__(self) -> None:
        _require_text("CA's common name", self.common_name)
        _require_text("CA's organization", self.organization)
        _require_days(self.validity_days)
        if not _COUNTRY.fullmatch(self.country):
            raise KeystoreError(
                f"The CA's country {self.country!r} must be two capital letters (ISO 3166), for example 'US'."
            )
        if _HOST_NAME.fullmatch(self.common_name):
            # Android picks the wrong trust anchor when the CA is named like the server (immich#15230).
            raise KeystoreError(
                f"The CA's common name {self.common_name!r} looks like a host name, and Android rejects "
                "servers named like the CA. Choose a name with a space in it, for example 'Immich Client CA'."
            )


@dataclass(frozen=True)
class DeviceProfile:
    """Subject, lifetime (days), key and bundle platform of one device's certificate.

    Raises:
        KeystoreError: a value that no certificate can or should hold.
    """

    common_name: str
    organization: str = "MyOrg"
    platform: Platform = Platform.ANDROID
    validity_days: int = 3650
    key_type: KeyType = KeyType.ECDSA_P256

    def __post_init__(self) -> None:
        _require_text("device's common name", self.common_name)
        _require_text("device's organization", self.organization)
        _require_days(self.validity_days)
