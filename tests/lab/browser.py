"""A real browser: headless Chromium with its own NSS store, as on Linux.

It runs in the lab's internet, from where it can reach only the ingress; in a mount namespace of its own, in
which we provide the folder of managed policies; and in a process namespace of its own. So it never touches
the machine's policies, and nothing of it outlives its command.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import network
from lab.places import INGRESS_V4, INTERNET_NAMESPACE
from tests.server.bundle_readers import nss_database, nss_import, nss_trust
from toolchain import system

_POLICY_HOME = Path("/etc/chromium")
_VISIT_SECONDS = 60
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip
_WITH_POLICIES = """
set -eu
mount --bind "$1" "$2"
shift 2
exec "$@"
"""

# A window cannot be as narrow as a phone; a frame in it can. The sheet forbids all scripts: the copy that is
# measured allows some, and its rules for style stay in force.
_NARROWEST = 500
_HEIGHT = 3600
_AROUND = """<!doctype html><style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<iframe src="{sheet}" width="{width}" height="{height}"></iframe>
<script>onmessage = (event) => document.title = event.data</script>
"""
_ALLOW_NOTHING = "default-src 'none';"
_ALLOW_MEASURING = f"{_ALLOW_NOTHING} script-src 'unsafe-inline';"
_MEASURE = """<script>
const root = document.documentElement, style = getComputedStyle(document.body);
const brightness = (color) => color.match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 765;
parent.postMessage(JSON.stringify({
  width: innerWidth, needed: root.scrollWidth,
  ground: brightness(style.backgroundColor), ink: brightness(style.color),
}), "*");
</script>"""


@dataclass(frozen=True)
class Look:
    """What a page looks like: the width it has and the one it needs, in CSS pixels, and its colours.

    Brightness of ground and ink goes from 0 (black) to 1 (white).
    """

    width: int
    needed: int
    ground: float
    ink: float


@dataclass(frozen=True)
class Browser:
    """One person's browser, which visits `domain` through the lab's ingress; `home` is its own folder."""

    home: Path
    domain: str

    @property
    def _database(self) -> str:
        return f"sql:{self.home / '.pki' / 'nssdb'}"

    def set_up(self, root: Path) -> None:
        """Make the store, which trusts `root` for servers, and the policy to show a certificate unasked."""
        nss_database(self.home / ".pki")
        nss_trust(self._database, root)
        managed = self.home / "etc" / "policies" / "managed"
        managed.mkdir(parents=True)
        # what a person clicks in the dialog; an empty filter takes any that the server would accept
        choice = json.dumps({"pattern": f"https://{self.domain}", "filter": {}})
        (managed / "lab.json").write_text(json.dumps({"AutoSelectCertificateForUrls": [choice]}))

    def install(self, bundle: Path, password: str) -> None:
        """Import a device's bundle into the store."""
        nss_import(self._database, bundle, password, self.home)

    def visit(self, path: str, screenshot: Path) -> str:
        """Open a page of the domain, keep what it looks like (PNG) and return its document as HTML.

        Fails the test when the page did not load.
        """
        return self._open(f"https://{self.domain}{path}", screenshot, (800, 600))

    def look(self, sheet: Path, screenshot: Path, *, width: int, dark: bool) -> Look:
        """Open a sheet of this machine at a width in CSS pixels, keep what it looks like and measure it."""
        copy, around = self.home / "sheet.html", self.home / "around.html"
        text = sheet.read_text(encoding="utf-8")
        measured = text.replace(_ALLOW_NOTHING, _ALLOW_MEASURING).replace("</body>", f"{_MEASURE}</body>")
        copy.write_text(measured, encoding="utf-8")
        around.write_text(_AROUND.format(width=width, height=_HEIGHT, sheet=copy.name), encoding="utf-8")
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        shown = self._open(around.as_uri(), screenshot, (max(width, _NARROWEST), _HEIGHT), scheme)
        found = re.search(r"<title>(.+)</title>", shown)
        assert found, f"the sheet was not measured: {shown[:2000]}"
        return Look(**json.loads(found[1]))

    def _open(self, url: str, screenshot: Path, size: tuple[int, int], *flags: str) -> str:
        screenshot.parent.mkdir(parents=True, exist_ok=True)
        screenshot.unlink(missing_ok=True)
        command = [
            *network.inside(INTERNET_NAMESPACE), "unshare", "--mount", "--pid", "--fork", "--kill-child",
            "sh", "-c", _WITH_POLICIES, "sh", str(self.home / "etc"), str(_POLICY_HOME),
            str(system.find("chromium")), *_FLAGS, *flags,
            f"--user-data-dir={self.home / 'profile'}", f"--window-size={size[0]},{size[1]}",
            f"--host-resolver-rules=MAP {self.domain} {INGRESS_V4}",
            f"--screenshot={screenshot}", "--dump-dom", url,
        ]  # fmt: skip
        shown = subprocess.run(
            command,
            env={**os.environ, "HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VISIT_SECONDS,
            check=False,
        )
        assert shown.returncode == 0 and screenshot.exists(), shown.stderr[-1000:]
        return shown.stdout
