"""How exposed our units are by systemd's own measure, beside NixOS's defaults, as docs/hardening.md says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

import toolchain
from tests.server.nix import PROJECT, ConfigFolder, Nix

DOCUMENT = PROJECT / "docs/hardening.md"
UNITS = (
    "caddy.service",
    "fail2ban.service",
    "immich-exposure-certificate.service",
    "immich-exposure-devices.service",
    "immich-exposure-lease.service",
)

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
def nix(tmp_path_factory: pytest.TempPathFactory) -> Nix:
    """Return an evaluator with a store of its own."""
    return Nix(tmp_path_factory.mktemp("nix"), toolchain.program("caddy").parent)


@pytest.fixture(scope="module")
def ours(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, float]:
    """Return the exposure level of each of our units, 0 (best) to 10."""
    folder = tmp_path_factory.mktemp("ours")
    return levels(nix.build(ConfigFolder.exposed(folder / "nixos").configuration), folder)


@pytest.fixture(scope="module")
def default(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, float]:
    """Return the same of what NixOS makes when the services are only switched on."""
    folder = tmp_path_factory.mktemp("default")
    lan = ConfigFolder.on_the_lan(folder / "nixos")
    for service in ("caddy", "fail2ban"):
        lan.add(f"services.{service}.enable = true;")
    return levels(nix.build(lan.configuration), folder, CADDYS_OWN)


def levels(generation: Path, folder: Path, caddy_prefix: str = "") -> dict[str, float]:
    """Measure every unit of a generation that is there, each merged from its file and its drop-ins."""
    measured = {}
    for name in UNITS:
        place = generation / "etc/systemd/system"
        files = [place / name, *sorted((place / f"{name}.d").glob("*.conf"))]
        texts = [file.read_text() for file in files if file.exists()]
        if texts:
            merged = folder / name
            merged.write_text("\n".join([caddy_prefix if name.startswith("caddy") else "", *texts]))
            measured[name] = level(merged)
    return measured


def level(unit: Path) -> float:
    """Return what `systemd-analyze security` says of a unit file."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    return float(found[1])


def test_caddy_and_fail2ban_are_less_exposed_than_by_default(
    ours: Mapping[str, float], default: Mapping[str, float]
) -> None:
    assert ours["caddy.service"] < 2 < default["caddy.service"]
    assert ours["fail2ban.service"] < default["fail2ban.service"]


def test_the_document_is_current(ours: Mapping[str, float], default: Mapping[str, float]) -> None:
    row = r"^\| `([\w.-]+)` \| ([\d.]+) \| ([\d.]+|-) \|"
    rows = re.findall(row, DOCUMENT.read_text(), re.MULTILINE)
    assert [name for name, *_ in rows] == list(UNITS)
    for name, told, told_default in rows:
        assert float(told) == pytest.approx(ours[name], abs=TOLERANCE), f"{name} is {ours[name]} now"
        if told_default == "-":
            assert name not in default
        else:
            assert float(told_default) == pytest.approx(default[name], abs=TOLERANCE), default[name]
