"""What the edge looks at before it starts and before it reloads (`immich-edge-check` of nix/edge.nix)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server.certificates import TestAuthority
from tests.server.nix import ConfigFolder, Nix, read_unit
from tests.server.visitor import DOMAIN

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def check(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the check of the project's own Caddyfile."""
    folder = tmp_path_factory.mktemp("sound") / "nixos"
    return check_of(nix.build(ConfigFolder.exposed(folder).configuration))


def check_of(generation: Path) -> str:
    """Return the program that a system's edge runs before it starts."""
    return read_unit(generation, "immich-edge.service")["ExecStartPre"][-1]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state folder with a server certificate and a trust pool."""
    folder = tmp_path / "state"
    (folder / "tls").mkdir(parents=True)
    authority = TestAuthority(tmp_path / "authority")
    server = authority.issue(DOMAIN, usage=None, dns_name=DOMAIN)
    shutil.copy(authority.certificate, folder / "device-ca.crt")
    shutil.copy(server.certificate, folder / "tls/server.crt")
    shutil.copy(server.key, folder / "tls/server.key")
    return folder


def run(check: str, state: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the check as the unit would, with these settings."""
    environment = {
        "DOMAIN": DOMAIN,
        "STATE": str(state),
        "LOGS": str(state.parent),
        "ADMIN": f"unix/{state.parent}/admin.sock",
        **settings,
    }
    return subprocess.run(
        [check],
        env={
            "HOME": str(state.parent),
            **{f"IMMICH_EXPOSURE_{name}": value for name, value in environment.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"PROXY_PORT": "9443", "IMMICH": "[::1]:3001", "REJECT_WITH": "drop"},
        {"UPLOADS": "on", "FEATURE_MAP": "off"},
    ],
)
def test_sound_settings_pass(check: str, state: Path, settings: dict[str, str]) -> None:
    before = sorted(state.rglob("*"))
    done = run(check, state, **settings)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(state.rglob("*")) == before


@pytest.mark.parametrize("missing", ["tls/server.key", "tls/server.crt", "device-ca.crt"])
def test_a_missing_file_is_named(check: str, state: Path, missing: str) -> None:
    (state / missing).unlink()
    done = run(check, state)
    assert done.returncode == 1
    assert f"{state}/{missing}" in done.stderr
    assert "Caddy refuses its configuration (see above)" in done.stderr


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [
        ("UPLOADS", "perhaps", "the feature uploads is on or off"),
        ("REQUESTS", "many", "many"),
        # Caddy takes a value as it stands into its text, so one could open a second door.
        ("PROXY_PORT", "8443, http://:8080", "ambiguous site definition"),
    ],
)
def test_settings_that_make_another_edge_are_refused(
    check: str, state: Path, setting: str, value: str, complaint: str
) -> None:
    done = run(check, state, **{setting: value})
    assert done.returncode == 1 and complaint in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("\tservers {", "\tservers :8443 {", '"protocols"'),
        ("fallback_policy require", "fallback_policy use", "REQUIRE"),
        ("\t\t\ttls\n", "", '"wrapper":"tls"'),
        ("protocols h1 h2", "protocols h1 h2 h3", '"protocols"'),
        ("\tbind 127.0.0.1\n", "", '"listen"'),
        ("\tbind 127.0.0.1\n", "\tbind 0.0.0.0\n", '"listen"'),
        ("\tbind 127.0.0.1\n", "\tbind 127.0.0.1 192.168.1.5\n", '"listen"'),
    ],
)
def test_a_listener_without_its_guards_is_seen(
    nix: Nix, tmp_path: Path, state: Path, old: str, new: str, complaint: str
) -> None:
    exposed = ConfigFolder.exposed(tmp_path / "nixos")
    exposed.replace("immich-exposure/Caddyfile", old, new)
    done = run(check_of(nix.build(exposed.configuration)), state)
    assert done.returncode == 1
    assert re.search(rf"A listener of Caddy lacks .*{re.escape(complaint)}", done.stderr)
