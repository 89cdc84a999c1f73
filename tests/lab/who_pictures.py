"""The pictures of docs/who.md, made from what the edge's program prints for a made-up home: `make pictures`.

The home's Immich is the lab's stub, with its own links; the log has the form that the edge writes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import subprocess
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

from tests.standins.stub import load_stub
from toolchain import program, system
from toolchain.paths import PROJECT

PICTURES = PROJECT / "docs" / "pictures"
TABLE = PICTURES / "who-table.svg"
PAGES = {PICTURES / "who-light.png": (880, 690, 1), PICTURES / "who-dark.png": (500, 900, 0)}
"""Widths and heights in CSS pixels, and whether it is light."""

_NOW = datetime.now(UTC)
_LINKS: tuple[
    tuple[str, int, int, int, int, dict[str, Any]], ...
] = (  # name, how many opened it, how many downloads and uploads, days since the first, what it allows
    ("Anna's wedding", 48, 96, 0, 41, {"password": "x"}),
    ("Summer at the lake", 17, 5, 0, 12, {"showMetadata": True}),
    ("Your pictures, please!", 9, 0, 63, 5, {"allowUpload": True}),
    ("For grandma", 3, 1, 0, 80, {"expiresAt": (_NOW + timedelta(days=30)).isoformat()}),
    ("House for sale", 0, 0, 0, 0, {"expiresAt": "2026-01-01T00:00:00.000Z", "password": "x"}),
)
_DEVICES = (("phone-anna", "198.51.100.23", 0.1), ("laptop", "2001:db8:52:1::17", 26), ("tablet", "", 0))


def _line(moment: datetime, network: str, more: str, path: str = "/api/shared-links/me") -> str:
    said = f'"request":{{"remote_ip":"{network}","uri":"{path}?key=REDACTED"}},"network":"{network}/32"'
    stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f'{{"level":"info","ts":"{stamp}",{said},{more}}}\n'


def _visits(pseudonym: str, opens: int, downloads: int, uploads: int, days: int) -> list[str]:
    """Return the lines of a link: its opens spread over its days."""
    lines = []
    for did, count in (("open", opens), ("download", downloads), ("upload", uploads)):
        for number in range(count):
            moment = _NOW - timedelta(days=days * (count - number) / count, minutes=7)
            network = f"203.0.113.{number}"
            path = f"/api/assets/{number}/original" if did == "download" else "/api/shared-links/me"
            lines.append(_line(moment, network, f'"deed":"{did} {pseudonym}","verdict":"anon"', path))
    return lines


def _who(home: Path, port: int, ask: str) -> str:
    """Return what the edge's program prints."""
    command = [program("caddy"), "who", "--ask", ask, "--state", home, "--logs", home / "log"]
    done = subprocess.run(
        [*map(str, command), "--immich", f"127.0.0.1:{port}"], capture_output=True, text=True, check=True
    )
    return done.stdout


def _make(home: Path) -> None:
    """Make the folder of an exposure with devices and a key."""
    for name in ("who", "log", "devices"):
        (home / name).mkdir()
    (home / "who/key").write_text(f"{'01' * 32} {int((_NOW - timedelta(days=85)).timestamp())}\n")
    (home / "who/api-key").write_text("labreadslinks\n")
    lines = ""
    for number, (name, address, hours) in enumerate(_DEVICES):
        fingerprint = f"{number}" * 64
        (home / "devices" / fingerprint).write_text(f"{name}\n")
        if address:
            device = f'"device":"{fingerprint[:16]}","verdict":"device"'
            lines += _line(_NOW - timedelta(hours=hours), address, device)
    (home / "log/devices.log").write_text(lines)


def _drawn(table: str) -> str:
    """Return a terminal that shows the table, as SVG."""
    rows = "\n".join(
        f'<text x="16" y="{(number + 2) * 19}">{escape(text, quote=False)}</text>'
        for number, text in enumerate(["$ sudo immich-exposure who", *table.splitlines()])
    )
    height = (len(table.splitlines()) + 3) * 19
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {height}" role="img">
<title>sudo immich-exposure who: each link with its opens, downloads and uploads, and each device</title>
<style>
text {{ font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre; fill: #c9d1d9 }}
</style>
<rect width="680" height="{height}" rx="8" fill="#0d1117"/>
{rows}
</svg>
"""


def _photograph(page: Path, picture: Path, width: int, height: int, light: int) -> None:
    """Let Chromium draw the page."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            str(system.find("chromium")), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--hide-scrollbars",
            f"--blink-settings=preferredColorScheme={light}", f"--user-data-dir={profile}",
            f"--window-size={width},{height}", f"--screenshot={picture}", page.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)


def draw() -> None:
    """Write the pictures."""
    system.ensure(system.BROWSER)
    stub = load_stub()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _make(home)
        stub.LINKS = tuple(stub.Link(f"key{number}of", name=name) for number, (name, *_) in enumerate(_LINKS))
        allowed = {link.key: more for link, (*_, more) in zip(stub.LINKS, _LINKS, strict=True)}
        listed = stub.Link.listed
        plain = {"showMetadata": False}
        stub.Link.listed = lambda link: {**listed(link), **plain, **allowed[link.key]}
        with stub.Stub("127.0.0.1", 0, home / "record") as immich:
            threading.Thread(target=immich.serve_forever, daemon=True).start()
            port = immich.server_address[1]
            lines: list[str] = []
            for link, (_, opens, downloads, uploads, days, _more) in zip(stub.LINKS, _LINKS, strict=True):
                lines += _visits(_pseudonym(link.key), opens, downloads, uploads, days)
            (home / "log/access.log").write_text("".join(lines))
            TABLE.write_text(_drawn(_who(home, port, "table")), encoding="utf-8")
            page = home / "who.html"
            page.write_text(_who(home, port, "page"), encoding="utf-8")
            for picture, (width, height, light) in PAGES.items():
                _photograph(page, picture, width, height, light)
            immich.shutdown()


def _pseudonym(key: str) -> str:
    """Return what the edge calls the link of a key (server/caddy/deeds.go), for the key of this home."""
    plain = key[: len(key) - (len(key) % 4 == 1)]
    raw = base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    return hmac.new(bytes([1] * 32), b"key=" + raw, hashlib.sha256).hexdigest()[:16]


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m tests.lab.who_pictures",
        description="Write the pictures of docs/who.md into docs/pictures.",
    ).parse_args()
    draw()
