"""expose-immich.nix: what it makes of the files beside it, and what it refuses. Nothing is started."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import toolchain
from components.version_floors import load as load_floors
from components.version_floors import parse_version
from lab.nixos import switch_to_configuration
from tests.server.certificates import TestAuthority
from tests.server.nix import DOMAIN, PROJECT, SETTINGS, ConfigFolder, Nix, read_unit

pytestmark = pytest.mark.server

STATE = "/var/lib/immich-exposure"
LOG = "/var/log/caddy/immich-access.log"
UPLOAD = "^(?:/api/assets)"
GO_SOURCE = PROJECT / "server/caddy"

OTHER_SETTINGS: dict[str, Any] = {
    "proxyPort": 9443,
    "immichPort": 3001,
    "funnelPort": 10000,
    "uploads": True,
    "uploadMegabytes": 123,
    "features": {
        "albums": False,
        "passwords": False,
        "video": False,
        "originals": False,
        "download": False,
        "map": False,
    },
    "strangers": "drop",
    "rateLimits": {
        "requests": 77,
        "windowSeconds": 11,
        "passwordAttempts": 3,
        "passwordWindowSeconds": 44,
        "bundles": 2,
        "bundleWindowSeconds": 33,
    },
    "bans": {"maxRetry": 6, "findTime": "7m", "banTime": "8h", "ipv6Prefix": 128},
}


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Nix:
    """Return an evaluator with a store of its own."""
    return Nix(tmp_path_factory.mktemp("nix"), toolchain.program("caddy").parent)


@pytest.fixture
def exposed(tmp_path: Path) -> ConfigFolder:
    """Return a configuration with our module in place of the LAN's."""
    return ConfigFolder.exposed(tmp_path / "nixos")


@pytest.fixture(scope="module")
def generation(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the system built from the default settings."""
    folder = tmp_path_factory.mktemp("exposed") / "nixos"
    return nix.build(ConfigFolder.exposed(folder).configuration)


@pytest.fixture(scope="module")
def other_generation(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the system built from settings that all differ from the defaults."""
    folder = tmp_path_factory.mktemp("other") / "nixos"
    made = ConfigFolder.exposed(folder, OTHER_SETTINGS, "box.other-tailnet.ts.net")
    return nix.build(made.configuration)


# --- what it makes


def test_units_of_the_exposure_are_wanted(generation: Path) -> None:
    units = generation / "etc/systemd/system"
    services = {link.name for link in (units / "multi-user.target.wants").iterdir()}
    timers = {link.name for link in (units / "timers.target.wants").iterdir()}
    assert services == {"caddy.service", "fail2ban.service", "immich-server.service"}
    assert timers == {f"immich-exposure-{each}.timer" for each in ("certificate", "devices", "lease")}


def test_immich_listens_on_loopback_alone(generation: Path, other_generation: Path) -> None:
    assert read_unit(generation, "immich-server.service")["ExecStart"][0].endswith(
        "--host 127.0.0.1 --port 2283"
    )
    assert read_unit(other_generation, "immich-server.service")["ExecStart"][0].endswith(
        "127.0.0.1 --port 3001"
    )


def test_immich_stays_on_loopback_whatever_the_configuration_says(nix: Nix, exposed: ConfigFolder) -> None:
    exposed.add('services.immich.host = "0.0.0.0";')
    assert nix.evaluate(exposed.configuration, "config.services.immich.host") == "127.0.0.1"


def test_caddys_environment_carries_every_setting(generation: Path, other_generation: Path) -> None:
    assert _environment(generation) == {
        "IMMICH_EXPOSURE_DOMAIN": DOMAIN,
        "IMMICH_EXPOSURE_PROXY_PORT": "8443",
        "IMMICH_EXPOSURE_IMMICH_PORT": "2283",
        "IMMICH_EXPOSURE_UPLOADS": "off",
        "IMMICH_EXPOSURE_UPLOAD_SIZE": "2000MB",
        "IMMICH_EXPOSURE_FEATURE_ALBUMS": "on",
        "IMMICH_EXPOSURE_FEATURE_PASSWORDS": "on",
        "IMMICH_EXPOSURE_FEATURE_VIDEO": "on",
        "IMMICH_EXPOSURE_FEATURE_ORIGINALS": "on",
        "IMMICH_EXPOSURE_FEATURE_DOWNLOAD": "on",
        "IMMICH_EXPOSURE_FEATURE_MAP": "on",
        "IMMICH_EXPOSURE_STRANGERS": "refuse",
        "IMMICH_EXPOSURE_BAN_PREFIX": "64",
        "IMMICH_EXPOSURE_REQUESTS": "3000",
        "IMMICH_EXPOSURE_REQUESTS_WINDOW": "30s",
        "IMMICH_EXPOSURE_PASSWORD_ATTEMPTS": "10",
        "IMMICH_EXPOSURE_PASSWORD_WINDOW": "60s",
        "IMMICH_EXPOSURE_BUNDLES": "10",
        "IMMICH_EXPOSURE_BUNDLES_WINDOW": "60s",
        "IMMICH_EXPOSURE_STATE": STATE,
        "IMMICH_EXPOSURE_LOG": LOG,
        "IMMICH_EXPOSURE_ADMIN": "unix//run/caddy/admin.sock",
    }
    changed = _environment(other_generation)
    fixed = {"IMMICH_EXPOSURE_STATE", "IMMICH_EXPOSURE_LOG", "IMMICH_EXPOSURE_ADMIN"}
    assert {name for name, value in _environment(generation).items() if changed[name] == value} == fixed


def test_the_caddyfile_takes_the_environment(other_generation: Path) -> None:
    adapted = _adapt(other_generation)
    [server] = adapted["apps"]["http"]["servers"].values()
    text = json.dumps(server)
    assert server["listen"] == ["127.0.0.1:9443"]
    assert [wrapper["wrapper"] for wrapper in server["listener_wrappers"]] == ["proxy_protocol", "tls"]
    assert "box.other-tailnet.ts.net" in text
    assert set(re.findall(r'"dial": "([^"]*)"', text)) == {"127.0.0.1:3001"}
    zones = sorted((zone["max_events"], zone["window"]) for zone in _rate_limits(server))
    assert zones == sorted([(3, 44 * 10**9), (3, 44 * 10**9), (2, 33 * 10**9), (77, 11 * 10**9)])
    # Uploads through links are there only when asked for; the other features can be switched off.
    assert UPLOAD in text and '"max_size": 123000000' in text
    assert "/thumbnail" in text and "/map-markers" not in text
    assert '"abort": true' in text


def test_uploads_are_off_by_default(generation: Path) -> None:
    assert UPLOAD not in json.dumps(_adapt(generation))


def test_caddys_unit_is_the_packages_with_our_sandbox(generation: Path) -> None:
    package_unit = generation / "etc/systemd/system/caddy.service"
    assert package_unit.resolve().parent.name == "system" and package_unit.resolve() != package_unit
    unit = read_unit(generation, "caddy.service")
    assert unit["Type"] == ["notify"]
    assert unit["User"] == ["caddy"]
    [start], [check], [reload] = unit["ExecStart"], unit["ExecStartPre"], unit["ExecReload"]
    assert re.fullmatch(r"/\S*/bin/caddy run --config /etc/caddy/caddy_config --adapter caddyfile", start)
    assert " validate " in check
    # Without --force, a renewed certificate would not be read.
    assert reload.endswith(" --force")
    assert unit["CapabilityBoundingSet"] == [] and unit["AmbientCapabilities"] == []
    assert unit["IPAddressDeny"] == ["any"] and unit["IPAddressAllow"] == ["localhost"]
    assert unit["ProtectSystem"] == ["strict"] and unit["ReadWritePaths"] == ["/var/lib/caddy"]
    # Rotating the log calls chown; a filter that kills for it would take Caddy down at the tenth megabyte.
    assert unit["SystemCallFilter"][-1] == "@chown" and unit["SystemCallErrorNumber"] == ["EPERM"]
    assert unit["RuntimeDirectory"] == ["caddy"] and unit["RuntimeDirectoryMode"] == ["0700"]
    assert unit["LogsDirectory"] == ["caddy"] and unit["LogsDirectoryMode"] == ["0750"]


def test_systemd_accepts_the_units(generation: Path, tmp_path: Path) -> None:
    wants = shutil.ignore_patterns("*.wants")
    shutil.copytree(generation / "etc/systemd/system", tmp_path / "units", ignore=wants)
    units = [str(unit) for unit in sorted((tmp_path / "units").glob("immich-exposure-*"))]
    units += [str(tmp_path / "units/caddy.service"), str(tmp_path / "units/fail2ban.service")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}/units:"},
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [
        line for line in done.stderr.splitlines() if "caddy" in line or "fail2ban" in line or "immich" in line
    ]
    assert ours == []


def test_only_root_writes_devices_and_bans_and_caddy_reads_its_key(generation: Path) -> None:
    rules = _tmpfiles(generation)
    for folder in ("", "/devices", "/bans", "/bans/auth", "/bans/keys", "/bans/scan", "/bans/manual"):
        assert rules[STATE + folder] == ("d", "0755", "root", "root")
    assert rules[f"{STATE}/tls"] == ("d", "0750", "root", "caddy")
    assert rules[f"{STATE}/tls/server.key"] == ("z", "0640", "root", "caddy")
    assert rules[f"{STATE}/tls/server.crt"] == ("z", "0644", "root", "root")
    assert rules["/var/log/caddy"] == ("d", "0750", "caddy", "caddy")
    assert rules[LOG] == ("f", "0640", "caddy", "caddy")


def test_the_jails_count_what_the_settings_say(generation: Path, other_generation: Path) -> None:
    for kind in ("auth", "keys", "scan"):
        jail = _ini(other_generation / "etc/fail2ban/jail.local")[f"immich-{kind}"]
        assert jail == {
            "enabled": "true",
            "filter": f"immich-{kind}",
            "action": f'immich_ban.py[folder="{STATE}/bans/{kind}"]',
            "backend": "polling",
            "logpath": LOG,
            "usedns": "no",
            "maxretry": "6",
            "findtime": "7m",
            "bantime": "8h",
        }
    assert _ini(generation / "etc/fail2ban/jail.local")["immich-scan"]["maxretry"] == "10"
    unit = read_unit(generation, "fail2ban.service")
    assert unit["ProtectSystem"] == ["strict"] and unit["ReadWritePaths"] == [f"{STATE}/bans"]


def test_fail2ban_accepts_its_files(generation: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fail2ban"
    shutil.copytree("/etc/fail2ban", folder, ignore=shutil.ignore_patterns("jail.d"))
    for file in (generation / "etc/fail2ban").rglob("*"):
        if not file.is_dir():
            shutil.copy(file, folder / file.relative_to(generation / "etc/fail2ban"))
    # The log is the server's; fail2ban refuses a jail whose log is not there.
    log = tmp_path / "access.log"
    log.touch()
    jails = folder / "jail.local"
    jails.chmod(0o644)
    jails.write_text(jails.read_text().replace(LOG, str(log)))
    done = subprocess.run(
        ["fail2ban-client", "-c", str(folder), "-s", str(tmp_path / "s"), "-p", str(tmp_path / "p"), "-d"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stdout + done.stderr
    for jail in ("immich-auth", "immich-keys", "immich-scan"):
        assert f"['start', '{jail}']" in done.stdout
        assert f"'{jail}', 'addaction', 'immich_ban'" in done.stdout


def test_the_lease_is_enforced_each_minute_and_after_boot(other_generation: Path) -> None:
    timer = read_unit(other_generation, "immich-exposure-lease.timer")
    service = read_unit(other_generation, "immich-exposure-lease.service")
    assert timer["OnBootSec"] == ["20s"] and timer["OnUnitActiveSec"] == ["1min"]
    assert service["ExecStart"][0].endswith("/bin/immich-exposure-enforce enforce 10000 9443")
    assert service["Type"] == ["oneshot"]


def test_ended_devices_are_shut_out_hourly(generation: Path) -> None:
    timer = read_unit(generation, "immich-exposure-devices.timer")
    service = read_unit(generation, "immich-exposure-devices.service")
    assert timer["OnCalendar"] == ["hourly"] and timer["Persistent"] == ["true"]
    assert service["ExecStart"][0].endswith("/bin/immich-exposure-expire expire")


def test_the_certificate_is_renewed_daily(generation: Path) -> None:
    timer = read_unit(generation, "immich-exposure-certificate.timer")
    service = read_unit(generation, "immich-exposure-certificate.service")
    assert timer["OnCalendar"] == ["daily"] and timer["Persistent"] == ["true"]
    assert service["ExecStart"][0].endswith("/bin/immich-exposure-renew renew")


@pytest.mark.parametrize(
    ("program", "script"),
    [
        ("immich-exposure", "exposure.sh"),
        ("immich-exposure-enforce", "funnel.sh"),
        ("immich-exposure-expire", "devices.sh"),
        ("immich-exposure-renew", "certificate.sh"),
    ],
)
def test_a_command_is_the_library_and_its_script(generation: Path, program: str, script: str) -> None:
    text = _program(generation, program).read_text()
    scripts = PROJECT / "server/scripts"
    assert text.rstrip().endswith((scripts / "lib.sh").read_text() + (scripts / script).read_text().rstrip())


def test_shellcheck_accepts_the_check_that_nix_will_check(generation: Path) -> None:
    checks = (generation / "pre-switch-checks").read_text()
    [program] = re.findall(r"\S+/bin/immich-exposure-check-edge", checks)
    done = subprocess.run(["shellcheck", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_commands_find_what_they_call(generation: Path) -> None:
    [path] = re.findall(r'export PATH="([^"]*):\$PATH"', _program(generation, "immich-exposure").read_text())
    programs = {program.name for folder in path.split(":") for program in Path(folder).iterdir()}
    needed = {
        "tailscale",
        "nix-instantiate",
        "curl",
        "flock",
        "awk",
        "sed",
        "grep",
        "systemctl",
        "cmp",
        "find",
        "date",
    }
    assert needed <= programs


# --- what a change does on the server


@pytest.mark.parametrize(
    ("file", "unit", "action"),
    [
        ("Caddyfile", "caddy.service", "reload"),
        ("Caddyfile", "fail2ban.service", "none"),
        ("fail2ban/filter.d/immich-scan.conf", "fail2ban.service", "restart"),
        ("fail2ban/action.d/caddy-file.conf", "fail2ban.service", "restart"),
        ("fail2ban/filter.d/immich-scan.conf", "caddy.service", "none"),
        ("scripts/funnel.sh", "caddy.service", "none"),
    ],
)
def test_a_changed_file_touches_its_own_service(
    nix: Nix, generation: Path, exposed: ConfigFolder, file: str, unit: str, action: str
) -> None:
    with (exposed.ours / file).open("a") as changed:
        changed.write("# changed\n")
    after = nix.build(exposed.configuration)
    lines = [switch_to_configuration.read_unit(one, unit) for one in (generation, after)]
    assert lines[0] and switch_to_configuration.compare(lines[0], lines[1]) == action


def test_a_changed_setting_restarts_caddy(generation: Path, other_generation: Path) -> None:
    lines = [
        switch_to_configuration.read_unit(one, "caddy.service") for one in (generation, other_generation)
    ]
    assert switch_to_configuration.compare(lines[0], lines[1]) == "restart"


# --- what it refuses


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        ("1.90.9", False),
        ("1.98.8", False),
        ("1.98.9", True),
        ("1.98.10", True),
        ("1.100.0", True),
        ("1.102.0", False),
        ("1.102.1", False),
        ("1.102.2", True),
        ("1.104.0", True),
    ],
)
def test_tailscale_must_pass_proxy_headers(
    nix: Nix, exposed: ConfigFolder, version: str, accepted: bool
) -> None:
    if accepted:
        nix.build(exposed.configuration, tailscaleVersion=version)
    else:
        complaint = nix.complaint(exposed.configuration, tailscaleVersion=version)
        assert (
            f"- Tailscale {version} rejects funnel connections with a PROXY header; set services.tailscale"
            in complaint
        )


def _immich(exposed: ConfigFolder, version: str, faults: str) -> None:
    exposed.add(
        f'services.immich.package = pkgs.jq // {{ version = "{version}"; '
        f"meta.knownVulnerabilities = [ {faults} ]; }};"
    )


@pytest.mark.parametrize(
    ("version", "accepted"), [("2.7.2", False), ("1.150.0", False), ("2.7.3", True), ("3.1.0", True)]
)
def test_immich_must_be_safe_for_visitors(
    nix: Nix, exposed: ConfigFolder, version: str, accepted: bool
) -> None:
    _immich(exposed, version, "")
    if accepted:
        nix.build(exposed.configuration)
    else:
        assert f"- Immich {version} has known faults in what visitors see (CVE-2026-40096" in nix.complaint(
            exposed.configuration
        )


def test_an_insecure_immich_is_told(nix: Nix, exposed: ConfigFolder) -> None:
    assert "insecure" not in nix.warnings(exposed.configuration)
    _immich(exposed, "3.1.0", '"CVE-2030-1"')
    told = nix.warnings(exposed.configuration)
    assert "nixpkgs marks Immich 3.1.0 as insecure (CVE-2030-1)" in told


def test_the_go_program_keeps_to_the_floors() -> None:
    text = (GO_SOURCE / "go.mod").read_text()
    floors = load_floors()
    for name, module in (
        ("caddy", r"github\.com/caddyserver/caddy/v2 v"),
        ("caddy-ratelimit", r"github\.com/mholt/caddy-ratelimit v"),
        ("go", r"^go "),
    ):
        [required] = re.findall(rf"{module}(\S+)", text, re.MULTILINE)
        version = parse_version(required)
        assert version is not None and floors[name].accepts(version)
        assert floors[name].pinned in (None, version)


def _with_the_lan(exposed: ConfigFolder) -> None:
    exposed.replace(
        "configuration.nix", "./expose-immich.nix\n    #", "./expose-immich.nix ./lan-immich.nix\n    #"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            _with_the_lan,
            "./lan-immich.nix and ./expose-immich.nix exclude each other; import only one of them",
        ),
        (
            lambda exposed: exposed.add("services.immich.openFirewall = true;"),
            "Immich's port 2283 is open in the firewall",
        ),
        (
            lambda exposed: exposed.add("networking.firewall.allowedTCPPorts = [ 2283 ];"),
            "Immich's port 2283 is open in the firewall",
        ),
        (
            lambda exposed: exposed.replace("configuration.nix", "services.tailscale.enable = true;", ""),
            "needs Tailscale on this server; set services.tailscale.enable = true.",
        ),
        (
            lambda exposed: (exposed.ours / "domain").unlink(),
            "The server's name is not known yet (immich-exposure/domain is missing or empty); run pulumi up",
        ),
        (
            lambda exposed: (exposed.ours / "domain").write_text("\n"),
            "The server's name is not known yet",
        ),
    ],
)
def test_an_unsafe_configuration_is_refused(
    nix: Nix, exposed: ConfigFolder, change: Any, sentence: str
) -> None:
    change(exposed)
    complaint = nix.complaint(exposed.configuration)
    assert "Failed assertions: - " in complaint and sentence in complaint


@pytest.mark.parametrize("port", [443, 2283])
def test_caddys_port_must_be_free_and_unprivileged(nix: Nix, tmp_path: Path, port: int) -> None:
    exposed = ConfigFolder.exposed(tmp_path / "nixos", {**SETTINGS, "proxyPort": port})
    assert f"set proxyPort to a free port from 1024 on, not {port}." in nix.complaint(exposed.configuration)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("immichPort", "2283", "`services.immich.port' is not of type `16 bit unsigned integer"),
        ("immichPort", 65536, "`services.immich.port' is not of type `16 bit unsigned integer"),
        (
            "bans",
            {"maxRetry": [1], "findTime": "1m", "banTime": "1m", "ipv6Prefix": 64},
            "maxretry' is not of type",
        ),
        ("bans", {"maxRetry": 1, "findTime": "1m", "ipv6Prefix": 64}, "attribute 'banTime' missing"),
    ],
)
def test_settings_of_a_wrong_kind_are_refused(
    nix: Nix, tmp_path: Path, key: str, value: object, complaint: str
) -> None:
    exposed = ConfigFolder.exposed(tmp_path / "nixos", {**copy.deepcopy(SETTINGS), key: value})
    assert complaint in nix.complaint(exposed.configuration)


# --- the check before a switch


def _checked(nix: Nix, exposed: ConfigFolder, state: Path) -> subprocess.CompletedProcess[str]:
    """Run the pre-switch checks of a system whose state lies in ``state``."""
    exposed.replace("expose-immich.nix", f'state = "{STATE}";', f'state = "{state}";')
    exposed.replace("expose-immich.nix", f'"{LOG}"', f'"{state.parent}/access.log"')
    generation = nix.build(exposed.configuration)
    command = [str(generation / "pre-switch-checks"), str(generation), "switch"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


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


def test_the_check_lets_a_sound_configuration_pass(nix: Nix, exposed: ConfigFolder, state: Path) -> None:
    before = sorted(state.rglob("*"))
    done = _checked(nix, exposed, state)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(state.rglob("*")) == before
    # A log that root made while checking would shut the caddy user out.
    assert not (state.parent / "access.log").exists()


@pytest.mark.parametrize("missing", ["tls/server.key", "tls/server.crt", "device-ca.crt"])
def test_the_check_names_a_missing_file(nix: Nix, exposed: ConfigFolder, state: Path, missing: str) -> None:
    (state / missing).unlink()
    done = _checked(nix, exposed, state)
    assert done.returncode == 1
    assert f"{state}/{missing}" in done.stderr and "so the switch is refused" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("\tservers {", "\tservers :8443 {", '"protocols"'),
        ("fallback_policy require", "fallback_policy use", "REQUIRE"),
        ("\t\t\ttls\n", "", '"wrapper":"tls"'),
        ("protocols h1 h2", "protocols h1 h2 h3", '"protocols"'),
        ("\tbind 127.0.0.1\n", "", '"listen"'),
        ("\tbind 127.0.0.1\n", "\tbind 127.0.0.1\n\tnonsense\n", "unrecognized directive: nonsense"),
    ],
)
def test_the_check_sees_a_listener_without_its_guards(
    nix: Nix, exposed: ConfigFolder, state: Path, old: str, new: str, complaint: str
) -> None:
    exposed.replace("immich-exposure/Caddyfile", old, new)
    done = _checked(nix, exposed, state)
    assert done.returncode == 1
    assert complaint in done.stderr and "so the switch is refused" in done.stderr


# --- the build of Caddy


def test_the_vendor_hash_is_that_of_the_modules(nix: Nix, tmp_path: Path) -> None:
    for name in ("main.go", "go.mod", "go.sum"):
        shutil.copy(GO_SOURCE / name, tmp_path)
    subprocess.run(
        ["go", "mod", "vendor"],
        cwd=tmp_path,
        env={**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"},
        check=True,
    )
    [written] = re.findall(r'vendorHash = "([^"]*)";', _module_text())
    assert written == nix.hash_path(tmp_path / "vendor")


def test_the_package_has_the_version_of_caddy(nix: Nix, exposed: ConfigFolder) -> None:
    [required] = re.findall(r"caddyserver/caddy/v2 v(\S+)", (GO_SOURCE / "go.mod").read_text())
    assert nix.evaluate(exposed.configuration, "config.services.caddy.package.version") == required


# --- helpers


def _module_text() -> str:
    return (PROJECT / "server/expose-immich.nix").read_text()


def _environment(generation: Path) -> dict[str, str]:
    [file] = read_unit(generation, "caddy.service")["EnvironmentFile"]
    return dict(line.split("=", 1) for line in Path(file).read_text().splitlines())


def _adapt(generation: Path) -> dict[str, Any]:
    """The JSON that Caddy makes of the Caddyfile with its environment."""
    done = subprocess.run(
        ["caddy", "adapt", "--adapter", "caddyfile", "--config", str(generation / "etc/caddy/caddy_config")],
        executable=toolchain.program("caddy"),
        env=_environment(generation),
        capture_output=True,
        check=True,
    )
    adapted: dict[str, Any] = json.loads(done.stdout)
    return adapted


def _rate_limits(node: Any) -> list[dict[str, Any]]:
    """All zones of rate_limit handlers, however deep."""
    if isinstance(node, dict):
        here = list(node["rate_limits"].values()) if "rate_limits" in node else []
        return here + [zone for value in node.values() for zone in _rate_limits(value)]
    return [zone for item in node for zone in _rate_limits(item)] if isinstance(node, list) else []


def _tmpfiles(generation: Path) -> dict[str, tuple[str, str, str, str]]:
    rules = (generation / "etc/tmpfiles.d/00-nixos.conf").read_text().splitlines()
    fields = [rule.split() for rule in rules]
    return {path: (kind, mode, user, group) for kind, path, mode, user, group, *_ in fields}


def _ini(file: Path) -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    for line in file.read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif " = " in line:
            key, _, value = line.partition(" = ")
            section[key] = value
    return sections


def _program(generation: Path, name: str) -> Path:
    """The text of one of the commands, wherever the generation names it."""
    if name == "immich-exposure":
        return (generation / "sw/bin/immich-exposure").resolve()
    texts = "".join(
        file.read_text() for file in (generation / "etc/systemd/system").glob("immich-exposure-*.service")
    )
    [path] = re.findall(rf"ExecStart=(\S+/bin/{name}) ", texts)
    return Path(path)
