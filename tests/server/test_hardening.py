"""How exposed our units are by systemd's own measure, beside NixOS's defaults, as docs/hardening.md says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.server.nix import ConfigFolder, Nix
from toolchain.paths import PROJECT

DOCUMENT = PROJECT / "docs/hardening.md"
UNITS = (
    "immich-edge.service",
    "immich-bans.service",
    "immich-exposure-lan@.service",
    "immich-exposure-lan.service",
    "immich-exposure-certificate.service",
    "immich-exposure-crowdsec.service",
    "immich-exposure-devices.service",
    "immich-exposure-lease.service",
    "immich-exposure-lists.service",
    "immich-exposure-guard.service",
    "immich-exposure-loopback.service",
    "immich-exposure-notify.service",
    "immich-exposure-who.service",
    "immich-exposure-room.service",
)
DEFAULTS = {"immich-edge.service": "caddy.service", "immich-bans.service": "fail2ban.service"}
"""What NixOS makes of the same program when its service is only switched on."""
LIMITS = {
    "immich-edge.service": 1.5,
    "immich-bans.service": 2.5,
    "immich-exposure-lan@.service": 1.5,
    "immich-exposure-crowdsec.service": 1.5,
    "immich-exposure-lists.service": 1.0,
}
"""The most that a unit may be exposed which strangers can have a hand in."""

CADDYS_OWN = """[Service]
Type=notify
PrivateTmp=true
ProtectSystem=full
AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE
"""
"""What the unit of nixpkgs' Caddy says of its own (caddyserver/dist); the lab's stand-in for it has none."""

TOLERANCE = 0.1
"""Versions of systemd weigh things a little differently."""

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="only systemd can measure this"),
]


@pytest.fixture(scope="module")
def ours(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, float]:
    """Return the exposure level of each of our units, 0 (best) to 10."""
    folder = tmp_path_factory.mktemp("ours")
    return levels(UNITS, nix.build(ConfigFolder.exposed(folder / "nixos").configuration), folder)


@pytest.fixture(scope="module")
def default(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, float]:
    """Return the same of what NixOS makes when the services are only switched on."""
    folder = tmp_path_factory.mktemp("default")
    lan = ConfigFolder.on_the_lan(folder / "nixos")
    for service in ("caddy", "fail2ban"):
        lan.add(f"services.{service}.enable = true;")
    measured = levels(DEFAULTS.values(), nix.build(lan.configuration), folder)
    return {name: measured[default] for name, default in DEFAULTS.items()}


def levels(names: Iterable[str], generation: Path, folder: Path) -> dict[str, float]:
    """Measure units of a generation, each merged from its file and its drop-ins."""
    measured = {}
    for name in names:
        place = generation / "etc/systemd/system"
        files = [place / name, *sorted((place / f"{name}.d").glob("*.conf"))]
        texts = [file.read_text() for file in files]
        # Only an instance of a template can be measured.
        merged = folder / name.replace("@", "@x")
        merged.write_text("\n".join([CADDYS_OWN if name == "caddy.service" else "", *texts]))
        measured[name] = level(merged)
    return measured


def level(unit: Path) -> float:
    """Return what `systemd-analyze security` says of a unit file."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    return float(found[1])


@pytest.mark.parametrize("name", LIMITS)
def test_what_strangers_can_have_a_hand_in_is_confined(
    ours: Mapping[str, float], default: Mapping[str, float], name: str
) -> None:
    assert ours[name] <= LIMITS[name] < default.get(name, 10)


def test_the_document_is_current(ours: Mapping[str, float], default: Mapping[str, float]) -> None:
    row = r"^\| `([\w.@-]+)` \| ([\d.]+) \| ([\d.]+|-) \|"
    rows = re.findall(row, DOCUMENT.read_text(), re.MULTILINE)
    assert [name for name, *_ in rows] == list(UNITS)
    for name, told, told_default in rows:
        assert float(told) == pytest.approx(ours[name], abs=TOLERANCE), f"{name} is {ours[name]} now"
        if told_default == "-":
            assert name not in default
        else:
            assert float(told_default) == pytest.approx(default[name], abs=TOLERANCE), default[name]
