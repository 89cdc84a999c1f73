"""The form of an upload, as Immich's page has browsers send it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BOUNDARY = "----WebKitFormBoundarySH4uBWnyXkB2G4g7"
UPLOAD = "/api/assets?key=abc"
FIELDS = {
    "fileCreatedAt": "2026-07-01T12:00:00.000Z",
    "fileModifiedAt": "2026-07-01T12:00:00.000Z",
    "isFavorite": "false",
}


@dataclass(frozen=True)
class Form:
    """A form's body and the headers that go with it."""

    body: bytes
    boundary: str = BOUNDARY

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What says that this is a form."""
        return [("Content-Type", f"multipart/form-data; boundary={self.boundary}")]


def form(
    photo: bytes = b"photo",
    name: str = "IMG_1.jpg",
    *,
    fields: Mapping[str, str] = FIELDS,
    boundary: str = BOUNDARY,
) -> Form:
    """Return the form with this file in it, which comes last."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="assetData"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return Form("".join(parts).encode() + photo + f"\r\n--{boundary}--\r\n".encode(), boundary)


def sized_form(size: int) -> Form:
    """Return a form of so many bytes in all."""
    return form(b"x" * (size - len(form(b"").body)))
