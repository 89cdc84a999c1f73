"""The requested content of certificates: the authority's profile and a device's profile."""

import re
from dataclasses import dataclass

from pki.bundle import Platform
from pki.errors import KeystoreError
from pki.key import KeyType

# RFC 5280, appendix A.1: ub-common-name and ub-organization-name. The RFC counts characters; programs,
# including `cryptography`, often count bytes of UTF-8, so the stricter of the two applies.
_TEXT_LIMIT = 64
# A century; more is probably a typing mistake.
DAYS_LIMIT = 36_500

_HOST_NAME = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_COUNTRY = re.compile(r"[A-Z]{2}")


def text_problem(text: str) -> str | None:
    """Say why a text cannot be in a certificate's subject; None if it can."""
    if text.strip() and text.isprintable() and len(text.encode()) <= _TEXT_LIMIT:
        return None
    return f"must have 1 to {_TEXT_LIMIT} printable characters (RFC 5280); those beyond ASCII count 2 to 4"


def authority_name_problem(text: str) -> str | None:
    """Say why a text cannot be an authority's common name; None if it can.

    Android picks the wrong trust anchor if the CA is named like the server (immich#15230).
    """
    if _HOST_NAME.fullmatch(text):
        return "looks like a host name, and Android rejects servers that are named like the CA"
    return text_problem(text)


def country_problem(text: str) -> str | None:
    """Say why a text cannot be a country in a subject; None if it can."""
    return None if _COUNTRY.fullmatch(text) else "must be two capital letters (ISO 3166)"


def _require(what: str, text: str, problem: str | None, example: str) -> None:
    if problem is not None:
        raise KeystoreError(f"The {what} {text!r} {problem}. Use for example {example!r}.")


def _require_days(days: int) -> None:
    if not 1 <= days <= DAYS_LIMIT:
        raise KeystoreError(f"A validity of {days} days is out of range. Use 1 to {DAYS_LIMIT} days.")


def _require_known(value: str, kind: type[KeyType] | type[Platform]) -> None:
    # The types say so already, but values also come from serialised state.
    if value not in list(kind):
        raise KeystoreError(f"{value!r} is not known here. Use one of {', '.join(kind)}.")


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
        name = self.common_name
        _require("CA's common name", name, authority_name_problem(name), "Immich Client CA")
        _require("CA's organization", self.organization, text_problem(self.organization), "Personal")
        _require("CA's country", self.country, country_problem(self.country), "US")
        _require_days(self.validity_days)
        _require_known(self.key_type, KeyType)


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
        _require("device's common name", self.common_name, text_problem(self.common_name), "phone-anna")
        _require("device's organization", self.organization, text_problem(self.organization), "MyOrg")
        _require_days(self.validity_days)
        _require_known(self.key_type, KeyType)
        _require_known(self.platform, Platform)
