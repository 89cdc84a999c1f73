"""What is due in a keystore at a given moment, from its certificates: opens no key, changes nothing."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from pki.adoption import AdoptedDevice, Adoption
from pki.certificate import fingerprint, parse_certificate
from pki.contents import AUTHORITY_STEMS, CURRENT, PREVIOUS, REVOKED, device_of, moved_stem
from pki.errors import KeystoreError
from pki.files import look_into
from pki.renewal import Pair, Renewal, is_needed
from pki.revocations import revocations_in, revoked_in

WARN_DAYS = 60
"""Days before its expiry from which a certificate is mentioned, due or not."""

UNFINISHED = "begun and not finished"

REISSUED = "revoked: the device gets a new certificate"


@dataclass(frozen=True)
class RenewalPlan:
    """The next step of authority and devices, empty if there is none, and warnings for people.

    A step begins with `due since`, `ends` or `begun`; a store with the same `Renewal` takes it.
    """

    authority_due: str
    devices_due: Mapping[str, str]
    notices: tuple[str, ...]
    devices_current: Mapping[str, str] = field(default_factory=dict)
    """The fingerprint of the certificate of each device that has one."""
    revoked: Mapping[str, bool] = field(default_factory=dict)
    """All revocations by fingerprint; true for those that the owner made on the server."""


def plan_renewals(
    folder: Path, names: Collection[str], *, authority: Renewal, devices: Renewal, now: datetime
) -> RenewalPlan:
    """Read the keystore in `folder`, which may not exist yet, for the devices with these names.

    Unreadable files are left out: the run that needs them reports the error.
    """
    old, new = (_read(folder / f"{stem}.crt") for stem in AUTHORITY_STEMS)
    pairs = {name: _pair(folder, name) for name in sorted({*names, *_names(folder)})}
    ours = {name: pairs[name] for name in names}
    notices = [*_about_authority(old, new, authority, now)]
    for name, pair in ours.items():
        notices += _about_device(folder, name, pair, devices, now)
    adoption = _adoption(folder)
    for device in adoption.devices if adoption else ():
        notices += _about_adopted(device, now)
    waits = old is not None and adoption is not None and adoption.needs(old, now)
    return RenewalPlan(
        authority_due=""
        if waits and new
        else _authority_step(old, new, list(pairs.values()), authority, now),
        devices_due={
            name: _device_step(pair, devices, now) or (REISSUED if _was_revoked(folder, name, pair) else "")
            for name, pair in ours.items()
        },
        notices=tuple(notices),
        devices_current={name: fingerprint(current) for name, (current, _) in ours.items() if current},
        revoked=_all_revoked(folder),
    )


def authority_expiries(folder: Path) -> tuple[str, ...]:
    """Return the expiries of a keystore's authorities, ISO 8601 in UTC; the one that signs comes last."""
    return _ends_of(*(_read(folder / f"{stem}.crt") for stem in AUTHORITY_STEMS))


def device_expiries(folder: Path, name: str) -> tuple[str, ...]:
    """Return the expiry of the device's current certificate, ISO 8601 in UTC; empty if there is none."""
    return _ends_of(_read(folder / CURRENT / f"{name}.crt"))


def _read(path: Path) -> x509.Certificate | None:
    try:
        return parse_certificate(look_into(path) or b"")
    except (OSError, KeystoreError, ValueError):
        return None


def _adoption(folder: Path) -> Adoption | None:
    try:
        return Adoption.read(folder)
    except (KeystoreError, OSError):
        return None


def _revoked(folder: Path) -> Collection[str]:
    try:
        return revoked_in(folder)
    except (KeystoreError, OSError):
        return ()


def _all_revoked(folder: Path) -> Mapping[str, bool]:
    try:
        return {each.fingerprint: each.by_hand for each in revocations_in(folder).values()}
    except (KeystoreError, OSError):
        return {}


def _ends_of(*certificates: x509.Certificate | None) -> tuple[str, ...]:
    return tuple(each.not_valid_after_utc.isoformat() for each in certificates if each is not None)


def _pair(folder: Path, name: str) -> Pair:
    current, previous = (_read(folder / each / f"{name}.crt") for each in (CURRENT, PREVIOUS))
    return current, previous


def _names(folder: Path) -> set[str]:
    return {stem for each in (CURRENT, PREVIOUS) for stem in _stems(folder / each)}


def _stems(folder: Path) -> list[str]:
    try:
        return [path.stem for path in folder.glob("*.crt")]
    except OSError:
        return []


def _authority_step(
    old: x509.Certificate | None,
    new: x509.Certificate | None,
    pairs: list[Pair],
    renewal: Renewal,
    now: datetime,
) -> str:
    if new is None:
        return f"due since {_day(renewal.due_from(old))}" if old and renewal.is_due(old, now) else ""
    if old is None:
        return UNFINISHED
    return "" if is_needed(old, pairs, renewal, now) else "ends: no device needs the old authority any more"


def _device_step(pair: Pair, renewal: Renewal, now: datetime) -> str:
    current, previous = pair
    if current is None:
        return "" if previous is None else UNFINISHED
    if renewal.is_due(current, now):
        return f"due since {_day(renewal.due_from(current))}"
    if previous is not None and (end := renewal.grace_end(previous, current)) <= now:
        return f"ends: the previous certificate stopped working on {_day(end)}"
    return ""


def _was_revoked(folder: Path, name: str, pair: Pair) -> bool:
    """Tell whether the device's certificates were revoked, even partly: a state's copy is then outdated."""
    current, previous = pair
    if current is not None:
        if fingerprint(current) in _revoked(folder):
            return True
        return moved_stem(name, fingerprint(current)) in _stems(folder / REVOKED)
    return previous is None and any(device_of(REVOKED, stem) == name for stem in _stems(folder / REVOKED))


def _about_authority(
    old: x509.Certificate | None, new: x509.Certificate | None, renewal: Renewal, now: datetime
) -> Iterator[str]:
    if new is not None:
        yield (
            "A new certificate authority has taken over. The old one stays trusted until every device has a "
            "certificate of the new one."
        )
    elif old is not None and _is_near(old, renewal, now):
        yield f"The certificate authority {_ends(old, now)}. {_remedy(old, renewal, now)}"


def _about_device(folder: Path, name: str, pair: Pair, renewal: Renewal, now: datetime) -> Iterator[str]:
    current, previous = pair
    if current is not None and _is_near(current, renewal, now):
        yield f"The certificate of the device {name} {_ends(current, now)}. {_remedy(current, renewal, now)}"
    if current is not None and previous is not None and (end := renewal.grace_end(previous, current)) > now:
        bundle = folder / CURRENT / f"{name}.p12"
        yield (
            f"The device {name} has a new certificate. Install {bundle} on it before {_day(end)}: the "
            "previous one stops working then."
        )


def _about_adopted(device: AdoptedDevice, now: datetime) -> Iterator[str]:
    if device.until - now <= timedelta(days=WARN_DAYS):
        verb = "ended" if device.until < now else "ends"
        yield (
            f"The certificate of the device {device.name}, which was taken over, {verb} on "
            f"{_day(device.until)} and cannot be renewed. Name the device in `devices` as well, install the "
            "bundle that it then gets, and remove it from `adopt.devices`."
        )


def _is_near(certificate: x509.Certificate, renewal: Renewal, now: datetime) -> bool:
    near = certificate.not_valid_after_utc - now <= timedelta(days=WARN_DAYS)
    return near or renewal.is_due(certificate, now)


def _ends(certificate: x509.Certificate, now: datetime) -> str:
    end = certificate.not_valid_after_utc
    return f"{'ended' if end < now else 'ends'} on {_day(end)}"


def _remedy(certificate: x509.Certificate, renewal: Renewal, now: datetime) -> str:
    if renewal.is_due(certificate, now):
        return "It is due: `pulumi up` renews it."
    return f"From {_day(renewal.due_from(certificate))} on `pulumi up` renews it."


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
