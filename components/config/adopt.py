"""What to adopt of a manual setup: the group `adopt`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pulumi
from cryptography.x509.oid import NameOID

from components.config.checks import device_name_problem, local_path
from components.config.reader import Section
from components.config.secret import IN_PLAIN_TEXT, read_secret, report_secret
from pki import KeystoreError, Source
from pki.adoption import read_certificate

OPENER = "adoptCaPassphrase"
"""The secret that decrypts the authority's key, if that is encrypted."""

ON_THE_SERVER = "server:"
"""The prefix of a path on the server."""

_EXAMPLE = "{caCertificate: server:/var/lib/certs/ca-cert.pem, caKey: server:/var/lib/certs/ca-key.pem}"
_DEVICES_EXAMPLE = "[{name: phone-anna, certificate: phone-anna.crt}]"


@dataclass(frozen=True)
class AdoptedDeviceConfig:
    """A device that already has a certificate: the certificate's path, or its fingerprint and expiry."""

    name: str
    certificate: str | None
    fingerprint: str | None
    until: datetime | None


@dataclass(frozen=True)
class AdoptConfig:
    """A manually created authority, and the devices with certificates from it.

    Paths are on this machine or, after `server:`, on the server.
    """

    ca_certificate: str
    ca_key: str
    devices: tuple[AdoptedDeviceConfig, ...]


def is_adopting(top: Section) -> bool:
    """Tell whether anything is to be adopted."""
    return top.value("adopt") not in (None, {})


def read_adopt(top: Section, project_dir: Path | None) -> AdoptConfig | None:
    """Read `adopt`; None if nothing is to be adopted."""
    if not is_adopting(top):
        return None
    section = top.section("adopt", example=_EXAMPLE)
    adopt = AdoptConfig(
        ca_certificate=section.text(
            "caCertificate",
            example="server:/var/lib/certs/ca-cert.pem",
            missing="the devices' certificates are verified against the authority's",
            check=place_problem,
        ),
        ca_key=section.text(
            "caKey",
            example="server:/mnt/immich_drive/secrets/ca-key.pem",
            missing="the authority's key certifies new devices from now on",
            check=place_problem,
        ),
        devices=_devices(section, project_dir),
    )
    section.refuse_unknown()
    return adopt


def read_opener(top: Section) -> pulumi.Output[str] | None:
    """Read the passphrase of the authority's key; None if the key is not encrypted."""
    return read_secret(top, OPENER)


def check_opener(top: Section, secret_keys: Collection[str]) -> None:
    """Check the passphrase in plain text; no message may contain it."""
    value = top.value(OPENER)
    if value is None:
        return
    if not isinstance(value, str):
        reason = "must be text; put it in quotes"
    elif OPENER not in secret_keys:
        reason = IN_PLAIN_TEXT
    elif not is_adopting(top):
        reason = "is the passphrase of the key that adopt names, and adopt is not set; leave it out"
    else:
        return
    report_secret(top, OPENER, reason)


def place_problem(text: str) -> str | None:
    """Say what is wrong with a file's path, on this machine or on the server."""
    if "-----BEGIN" in text:
        return "must be the path of a file, not its content"
    if text.startswith(ON_THE_SERVER):
        path = text.removeprefix(ON_THE_SERVER)
        if not path.startswith("/") or not path.isprintable():
            return f"must have an absolute path on the server after {ON_THE_SERVER}"
    return None


# Devices


def _devices(section: Section, project_dir: Path | None) -> tuple[AdoptedDeviceConfig, ...]:
    devices: list[AdoptedDeviceConfig] = []
    for each in section.sections("devices", example=_DEVICES_EXAMPLE):
        device = _device(each, project_dir)
        each.refuse_unknown()
        _refuse_twin(each, device, devices)
        devices.append(device)
    return tuple(devices)


def _device(section: Section, project_dir: Path | None) -> AdoptedDeviceConfig:
    certificate = section.optional_text("certificate", example="phone-anna.crt", check=place_problem)
    fingerprint = section.optional_text("fingerprint", example=f'"{"ab" * 32}"', check=_fingerprint_problem)
    until = section.optional_text("until", example='"2027-06-30"', check=_end_problem)
    if section.value("certificate") is None:
        for key, example in (("fingerprint", f'"{"ab" * 32}"'), ("until", '"2027-06-30"')):
            if section.value(key) is None:
                section.report(key, "is needed unless certificate is set", example)
    elif section.value("fingerprint") is not None or section.value("until") is not None:
        section.report(
            "certificate",
            "already gives the fingerprint and the expiry; leave those two out",
            "phone-anna.crt",
        )
    return AdoptedDeviceConfig(
        name=_name(section, certificate, project_dir),
        certificate=certificate,
        fingerprint=None if fingerprint is None else _plain(fingerprint),
        until=None if until is None else _end(until),
    )


def _name(section: Section, certificate: str | None, project_dir: Path | None) -> str:
    """Read the name, or the certificate's common name, which requires the file on this machine."""
    name = section.optional_text("name", example="phone-anna", check=device_name_problem)
    if section.value("name") is not None:
        return name or ""
    if certificate is None or certificate.startswith(ON_THE_SERVER):
        if section.value("certificate") is None or certificate is not None:
            section.report(
                "name",
                "a device needs a name, unless its certificate is a file on this machine",
                "phone-anna",
            )
        return ""
    if project_dir is None:
        return f"the name in {certificate}"  # contains spaces, so it is not a valid device name
    return _common_name(section, certificate, project_dir)


def _common_name(section: Section, place: str, project_dir: Path) -> str:
    try:
        content = local_path(place, project_dir).read_bytes()
        subject = read_certificate(Source(place, content)).subject
    except OSError as error:
        section.report("certificate", f"cannot be read ({error.strerror})", "phone-anna.crt")
        return ""
    except KeystoreError:
        section.report("certificate", "holds no certificate", "phone-anna.crt")
        return ""
    names = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    problem = device_name_problem(names[0]) if names else "is missing"
    if problem is None:
        return names[0]
    seen = f"the certificate's common name {names[0]!r}" if names else "the certificate's common name"
    section.report("name", f"is needed, because {seen} {problem}", "phone-anna")
    return ""


def _refuse_twin(section: Section, device: AdoptedDeviceConfig, others: list[AdoptedDeviceConfig]) -> None:
    for other in others:
        if device.name and other.name.lower() == device.name.lower():
            section.report("name", f"is the name of another device here, {other.name!r}", "phone-anna-2")
        if device.fingerprint is not None and other.fingerprint == device.fingerprint:
            section.report(
                "fingerprint",
                f"is also that of {other.name!r}; two devices cannot share one certificate",
                f'"{"ab" * 32}"',
            )


def check_names(top: Section, adopt: AdoptConfig | None, devices: Collection[str]) -> None:
    """Refuse a name that differs from one in `devices` only in case; an equal name means the same device."""
    for index, device in enumerate(adopt.devices if adopt else ()):
        clash = next((each for each in devices if each.lower() == device.name.lower()), device.name)
        if clash != device.name:
            reason = f"differs from the device {clash!r} only in case; if it is the same device, write it so"
            top.problems.add(f"adopt.devices[{index}].name", device.name, reason, f"`name: {clash}`")


def _plain(fingerprint: str) -> str:
    """Accept a fingerprint as OpenSSL prints it, with colons and capitals."""
    return fingerprint.replace(":", "").lower()


def _fingerprint_problem(text: str) -> str | None:
    if re.fullmatch(r"[0-9a-f]{64}", _plain(text)):
        return None
    return (
        "must be the SHA-256 of the certificate, 64 digits 0-9 and a-f; "
        "`openssl x509 -noout -fingerprint -sha256 -in FILE` prints it"
    )


def _end_problem(text: str) -> str | None:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return "must be the date on which the certificate expires (ISO 8601), in quotes"
    return None


def _end(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
