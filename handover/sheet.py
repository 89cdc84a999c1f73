"""The install sheet: one HTML page per device that holds no secret and loads nothing.

It is next to the bundle, as `<keystore>/devices/<name>.html`. It is written under the keystore's lock,
because every use of the keystore sweeps that folder.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from handover.guides import GUIDES, Step
from handover.markup import breakable, read_text, style_source, template
from handover.qr import svg_code
from pki import Platform, device_name
from pki.contents import CURRENT
from pki.device_files import DeviceFiles
from pki.files import explain, locked, look_into, make_folder, remove_file, write_file

_GROUP = 4
_LOCK_WAIT_SECONDS = 60.0

_STYLE = read_text("style.css") + read_text("sheet.css")
_TEMPLATE = template("sheet.html")


@dataclass(frozen=True)
class SheetContent:
    """The content of a sheet. None of it is secret.

    Args:
        device: the device's name.
        platform: determines the guide.
        url: Immich's public address.
        fingerprint: SHA-256 of the certificate's DER form, hexadecimal.
        not_after: when the certificate expires, with a time zone.
        stack: the stack named in the sheet's commands.
        previous_until: when the device's previous certificate stops being valid, with a time zone; None if
            there is none.
    """

    device: str
    platform: Platform
    url: str
    fingerprint: str
    not_after: datetime
    stack: str
    previous_until: datetime | None = None


_ANY_CONTENT = SheetContent(
    device="device",
    platform=Platform.IOS,
    url="https://immich.example.ts.net",
    fingerprint="0" * 64,
    not_after=datetime(2000, 1, 1, tzinfo=UTC),
    stack="stack",
    previous_until=datetime(2000, 1, 1, tzinfo=UTC),
)


def render_sheet(content: SheetContent) -> str:
    """Return the sheet as HTML. The same content gives the same text."""
    guide = GUIDES[content.platform]
    names = _names(content.device)
    return _TEMPLATE.substitute(
        style=_STYLE,
        style_hash=style_source(_STYLE),
        device=escape(content.device),
        noun=escape(guide.noun),
        url=escape(content.url),
        address=breakable(content.url),
        code=svg_code(content.url, label="QR code of the server's address"),
        renewed=_renewed(content, names),
        steps=steps_of(content.platform, content.device),
        test=_text(guide.test, names),
        bundle=names["bundle"],
        name=names["device"],
        stack=escape(content.stack),
        expiry=_day(content.not_after),
        fingerprint="".join(f"<span>{group}</span>" for group in groups(content.fingerprint)),
    )


def steps_of(platform: Platform, device: str) -> str:
    """Return the steps of a platform's guide as a list in HTML."""
    names = _names(device)
    steps = "\n".join(_step(step, names) for step in GUIDES[platform].steps)
    return f'<ol class="steps">\n{steps}\n</ol>'


@dataclass(frozen=True)
class Guidance:
    """What a sheet says besides the certificate: the device's platform, and Immich's public address."""

    platform: Platform
    url: str


_GUIDANCE = re.compile(
    r"Install sheet · (?P<noun>[^<]+)</p>.*"
    r'<p class="url">(?P<url>https://[a-z0-9-]+(?:<wbr>\.[a-z0-9-]+)*(?::[0-9]{1,5})?)</p>',
    re.DOTALL,
)


def read_guidance(keystore: Path, device: str) -> Guidance | None:
    """Read a device's sheet; None if there is none, or if it is not one of ours.

    Nothing else of it is used: the keystore may have passed through other hands.

    Raises:
        KeystoreError: bad name, or the sheet is a link or cannot be read.
    """
    path = sheet_path(keystore, device)
    try:
        content = look_into(path)
    except OSError as error:
        raise explain(error, keystore) from error
    found = _GUIDANCE.search((content or b"").decode(errors="replace"))
    platforms = [each for each, guide in GUIDES.items() if found and guide.noun == found["noun"]]
    return Guidance(platforms[0], found["url"].replace("<wbr>", "")) if found and platforms else None


def wording_digest() -> str:
    """Return the SHA-256 of a sheet's words on every platform: if it differs, sheets must be rewritten."""
    sheets = (render_sheet(replace(_ANY_CONTENT, platform=platform)) for platform in GUIDES)
    return hashlib.sha256("".join(sheets).encode()).hexdigest()


def sheet_path(keystore: Path, device: str) -> Path:
    """Return the path of a device's sheet.

    Raises:
        KeystoreError: the name is not one safe path component.
    """
    return DeviceFiles(keystore / CURRENT, device_name(device)).sheet


def write_sheet(keystore: Path, content: SheetContent) -> Path:
    """Write the sheet atomically, with mode 0600, and return its path.

    Raises:
        KeystoreError: bad name, the keystore is in use by another run or cannot be written.
    """
    path = sheet_path(keystore, content.device)
    try:
        with locked(keystore, _LOCK_WAIT_SECONDS):
            make_folder(path.parent)
            write_file(path, render_sheet(content).encode())
    except OSError as error:
        raise explain(error, keystore) from error
    return path


def remove_sheet(keystore: Path, device: str, *, lock_wait_seconds: float = _LOCK_WAIT_SECONDS) -> None:
    """Remove a device's sheet if it exists; the keystore need not exist any more.

    Raises:
        KeystoreError: as for `write_sheet`.
    """
    path = sheet_path(keystore, device)
    try:
        if not path.parent.is_dir():
            return
        with locked(keystore, lock_wait_seconds):
            remove_file(path)
    except OSError as error:
        raise explain(error, keystore) from error


def groups(fingerprint: str) -> list[str]:
    """Split a fingerprint into groups of four lower-case digits, which a person can compare.

    Raises:
        ValueError: it is not hexadecimal.
    """
    digits = bytes.fromhex(fingerprint).hex()
    return [digits[start : start + _GROUP] for start in range(0, len(digits), _GROUP)]


def _renewed(content: SheetContent, names: dict[str, str]) -> str:
    """Return the paragraph for a device with a previous certificate, or nothing."""
    if content.previous_until is None:
        return ""
    return (
        f'<div class="card renewed"><p>This is a new certificate. The one that {names["device"]} has keeps '
        f"working until {_day(content.previous_until)}: take the steps below before that day. Afterwards "
        "remove the old certificate, so that no program picks it.</p></div>"
    )


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


def _names(device: str) -> dict[str, str]:
    """Return the placeholders' values, as HTML that stays on one line where it fits."""
    names = {"device": device, "bundle": f"{device}.p12", "profile": f"{device}.mobileconfig"}
    return {key: f'<b class="name">{escape(name)}</b>' for key, name in names.items()}


def _text(text: str, names: dict[str, str]) -> str:
    return escape(text).format_map(names)


def _step(step: Step, names: dict[str, str]) -> str:
    parts = [f"<h3>{_text(step.title, names)}</h3>", f"<p>{_text(step.text, names)}</p>"]
    if step.menu:
        items = "".join(f"<li><span>{_text(item, names)}</span></li>" for item in step.menu)
        parts.append(f'<ol class="menu">{items}</ol>')
    if step.then:
        parts.append(f"<p>{_text(step.then, names)}</p>")
    if step.note:
        parts.append(f'<p class="note">{_text(step.note, names)}</p>')
    return f"<li>{''.join(parts)}</li>"
