"""When a certificate is renewed, and how long the previous one stays valid."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from pki.certificate import CLOCK_SKEW, is_signed_by

Pair = tuple[x509.Certificate | None, x509.Certificate | None]
"""A device's current and previous certificate; either may be missing."""


@dataclass(frozen=True)
class Renewal:
    """When a certificate is due, in days before it expires, and how long the old one stays valid then."""

    renew_before_days: int
    grace_days: int

    def due_from(self, certificate: x509.Certificate) -> datetime:
        """The moment from which the certificate is due."""
        return certificate.not_valid_after_utc - timedelta(days=self.renew_before_days)

    def is_due(self, certificate: x509.Certificate, now: datetime) -> bool:
        """Tell whether a new certificate must be issued."""
        return now >= self.due_from(certificate)

    def grace_end(self, previous: x509.Certificate, current: x509.Certificate) -> datetime:
        """The moment at which the previous certificate stops being valid, at the latest its own expiry.

        The grace period begins when the new one was issued: its start plus the clock skew.
        """
        issued = current.not_valid_before_utc + CLOCK_SKEW
        return min(issued + timedelta(days=self.grace_days), previous.not_valid_after_utc)


def is_needed(authority: x509.Certificate, devices: Iterable[Pair], renewal: Renewal, now: datetime) -> bool:
    """Tell whether a device still depends on this authority, by its current or previous certificate."""
    return any(_depends(authority, *pair, renewal, now) for pair in devices)


def _depends(
    authority: x509.Certificate,
    current: x509.Certificate | None,
    previous: x509.Certificate | None,
    renewal: Renewal,
    now: datetime,
) -> bool:
    if current is not None and is_signed_by(current, authority):
        return True
    if previous is None or not is_signed_by(previous, authority):
        return False
    return current is None or renewal.grace_end(previous, current) > now
