"""services.immich-exposure: what it adds to a system, leaves alone, and refuses. Nothing is started."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.remote.module_files import module_digest
from components.remote.remote_script import SERVER_FILES
from components.surface.supported_versions import load as load_floors
from components.surface.supported_versions import parse_version
from lab.nixos import switch_to_configuration
from tests.programs.harness import EDGE_NEEDS, SCRIPTS
from tests.server.nix import MODULE_FILES, ConfigFolder, Nix, Unit, read_unit
from toolchain.paths import PROJECT

pytestmark = pytest.mark.server

STATE = "/var/lib/immich-exposure"
LOGS = "/var/log/immich-edge"
LOG = f"{LOGS}/offences.log"
GO_SOURCE = SERVER_FILES / "caddy"
INSTANCE = "127.0.0.1:2283"
"""An address that Immich is opened on at home, as a unit's name."""
JAILS = ("auth", "keys", "scan")

OURS = {
    "immich-edge.service",
    "immich-bans.service",
    "immich-exposure-certificate.service",
    "immich-exposure-certificate.timer",
    "immich-exposure-crowdsec.service",
    "immich-exposure-devices.service",
    "immich-exposure-devices.timer",
    "immich-exposure-guard.service",
    "immich-exposure-guard.timer",
    "immich-exposure-lan.service",
    "immich-exposure-lan@.service",
    "immich-exposure-lan@.socket",
    "immich-exposure-lease.service",
    "immich-exposure-loopback.service",
    "immich-exposure-lease.timer",
    "immich-exposure-lists.service",
    "immich-exposure-lists.timer",
    "immich-exposure-notify.path",
    "immich-exposure-notify.service",
    "immich-exposure-notify.timer",
    "immich-exposure-who.service",
    "immich-exposure-who.timer",
    "immich-exposure-room.service",
    "immich-exposure-room.timer",
}


@pytest.fixture
def exposed(tmp_path: Path) -> ConfigFolder:
    """Return a configuration with our module switched on."""
    return ConfigFolder.exposed(tmp_path / "nixos")


@pytest.fixture(scope="module")
def generation(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the system built with the module's defaults."""
    folder = tmp_path_factory.mktemp("exposed") / "nixos"
    return nix.build(ConfigFolder.exposed(folder).configuration)


def build(nix: Nix, folder: Path, *options: str, host: str | None = None, port: int | None = None) -> Path:
    """Build a system with these options; ``host`` and ``port`` are those of services.immich."""
    made = ConfigFolder.exposed(folder / "nixos", *options)
    if host is not None:
        made.replace("lan-immich.nix", 'host = "0.0.0.0"', f'host = "{host}"')
    if port is not None:
        made.replace("lan-immich.nix", "port = 2283", f"port = {port}")
    return nix.build(made.configuration)


def without_immich(made: ConfigFolder) -> ConfigFolder:
    """Take Immich out of the configuration, as where it runs in a container."""
    made.replace("configuration.nix", "\n    ./lan-immich.nix", "")
    return made


def module_says(generation: Path) -> dict[str, Any]:
    """Return what `immich-exposure module` prints, for somebody without rights and without our state."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    # By its text, because the store of the tests is root's.
    text = program_of(generation, "immich-exposure").read_text()
    command = [*nobody, "bash", "-s", "module"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd="/")
    [line] = done.stdout.splitlines()
    said: dict[str, Any] = json.loads(line)
    return said


# --- off, and beside what is there


def test_a_module_that_is_not_enabled_changes_nothing(nix: Nix, tmp_path: Path) -> None:
    plain = ConfigFolder.on_the_lan(tmp_path / "plain" / "nixos")
    imported = ConfigFolder.with_module(tmp_path / "imported" / "nixos")
    off = ConfigFolder.with_module(tmp_path / "off" / "nixos")
    off.write_default('  services.immich-exposure = { enable = false; lan = "keep"; };\n')
    assert nix.build(plain.configuration) == nix.build(imported.configuration) == nix.build(off.configuration)


def test_the_module_adds_only_what_is_its_own(nix: Nix, generation: Path, tmp_path: Path) -> None:
    def files(system: Path) -> dict[str, str]:
        return {
            str(file.relative_to(system)): file.read_text()
            for file in (system / "etc").rglob("*")
            if file.is_file() and file.parent.suffix != ".wants"
        }

    plain = files(nix.build(ConfigFolder.on_the_lan(tmp_path / "nixos").configuration))
    exposed = files(generation)
    added = {Path(name).name for name in exposed.keys() - plain.keys()}
    changed = {name for name in plain if exposed.get(name) != plain[name]}
    assert added == OURS
    assert changed == {"etc/systemd/system/immich-server.service", "etc/sysusers.d/00-nixos.conf"}


def test_the_owners_caddy_and_fail2ban_are_as_they_were(nix: Nix, tmp_path: Path) -> None:
    def units(made: ConfigFolder) -> dict[str, list[str]]:
        made.add("services.caddy.enable = true;")
        made.add("services.fail2ban.enable = true;")
        system = nix.build(made.configuration)
        return {
            name: [file.read_text() for file in sorted(system.rglob(f"{name}.service*/*"))]
            + [(system / f"etc/systemd/system/{name}.service").read_text()]
            for name in ("caddy", "fail2ban")
        }

    plain = ConfigFolder.on_the_lan(tmp_path / "plain" / "nixos")
    assert units(plain) == units(ConfigFolder.exposed(tmp_path / "exposed" / "nixos"))


def test_the_preflight_knows_our_accounts_by_their_full_names(generation: Path) -> None:
    known = re.findall(r'name_account (\S+) "(.+)"', (SERVER_FILES / "scripts/preflight.sh").read_text())
    made = (generation / "etc/sysusers.d/00-nixos.conf").read_text()
    assert dict(known).keys() == {"immich-edge", "immich-bans"}
    for name, full_name in known:
        assert re.search(rf'^u {name} .*"{full_name}"', made, re.MULTILINE), made


def test_units_of_the_exposure_are_wanted(generation: Path) -> None:
    units = generation / "etc/systemd/system"
    services = {link.name for link in (units / "multi-user.target.wants").iterdir()} & OURS
    timers = {link.name for link in (units / "timers.target.wants").iterdir()}
    assert services == {
        "immich-bans.service",
        "immich-edge.service",
        "immich-exposure-crowdsec.service",
        "immich-exposure-lan.service",
    }
    assert timers == {
        f"immich-exposure-{each}.timer"
        for each in ("certificate", "devices", "guard", "lease", "lists", "notify", "room", "who")
    }


@pytest.mark.parametrize(
    "name",
    sorted(
        each for each in OURS if each.endswith(".service") and "-lan" not in each and "-lease" not in each
    ),
)
def test_nothing_runs_where_there_is_no_exposure(generation: Path, name: str) -> None:
    assert f"{STATE}/.immich-exposure" in read_unit(generation, name)["ConditionPathExists"]


def test_nothing_makes_the_state_by_itself(generation: Path) -> None:
    rules = "".join(file.read_text() for file in (generation / "etc/tmpfiles.d").iterdir())
    assert STATE not in rules and "immich-edge" not in rules


# --- where Immich is


@pytest.mark.parametrize(
    ("host", "home"),
    [
        ("0.0.0.0", "0.0.0.0"),
        ("::", "::"),
        ("localhost", "localhost"),
        ("192.168.1.5", "192.168.1.5"),
        ("", "0.0.0.0"),
    ],
)
def test_closed_immich_listens_on_loopback_and_home_is_remembered(
    nix: Nix, tmp_path: Path, host: str, home: str
) -> None:
    generation = build(nix, tmp_path, host=host, port=3001)
    immich = environment(generation, "immich-server.service")
    assert (immich["IMMICH_HOST"], immich["IMMICH_PORT"]) == ("127.0.0.1", "3001")
    assert read_unit(generation, "immich-exposure-lan.service")["ExecStart"][0].endswith(f" sync {home} 3001")
    assert upstream(generation) == "127.0.0.1:3001"
    assert module_says(generation) == {
        "digest": module_digest(),
        "home": home,
        "immich": "127.0.0.1:3001",
        "lan": "close",
        "managed": True,
    }


@pytest.mark.parametrize("line", ['lib.mkForce "0.0.0.0"', 'lib.mkOverride 20 "0.0.0.0"'])
def test_immich_is_closed_whatever_the_configuration_says(nix: Nix, exposed: ConfigFolder, line: str) -> None:
    exposed.replace("lan-immich.nix", "{ ... }", "{ lib, ... }")
    exposed.replace("lan-immich.nix", 'host = "0.0.0.0"', f"host = {line}")
    assert nix.evaluate(exposed.configuration, "config.services.immich.host") == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "reached", "allowed"),
    [
        ("0.0.0.0", "127.0.0.1:2283", ["localhost"]),
        ("::", "127.0.0.1:2283", ["localhost"]),
        ("localhost", "[::1]:2283", ["localhost"]),
        ("192.168.1.5", "192.168.1.5:2283", ["localhost", "192.168.1.5"]),
        ("fd00::5", "[fd00::5]:2283", ["localhost", "fd00::5"]),
    ],
)
def test_kept_immich_stays_where_it_is(
    nix: Nix, tmp_path: Path, host: str, reached: str, allowed: list[str]
) -> None:
    generation = build(nix, tmp_path, 'lan = "keep";', host=host)
    assert environment(generation, "immich-server.service")["IMMICH_HOST"] == host
    assert upstream(generation) == reached
    assert read_unit(generation, "immich-edge.service")["IPAddressAllow"] == allowed
    assert not list((generation / "etc/systemd/system").glob("immich-exposure-lan*"))
    assert module_says(generation)["home"] is None


@pytest.mark.parametrize(("lan", "reached"), [("keep", "192.168.1.5:3001"), ("close", "127.0.0.1:3001")])
def test_the_environment_overrides_the_options(nix: Nix, tmp_path: Path, lan: str, reached: str) -> None:
    made = ConfigFolder.exposed(tmp_path / "nixos", f'lan = "{lan}";')
    made.add('systemd.services.immich-server.environment.IMMICH_PORT = pkgs.lib.mkForce "3001";')
    if lan == "keep":
        made.add('services.immich.environment.IMMICH_HOST = pkgs.lib.mkForce "192.168.1.5";')
    assert upstream(nix.build(made.configuration)) == reached


@pytest.mark.parametrize("lan", ["close", "keep"])
def test_localhost_without_ipv6_is_the_other_loopback(nix: Nix, tmp_path: Path, lan: str) -> None:
    made = ConfigFolder.exposed(tmp_path / "nixos", f'lan = "{lan}";')
    made.replace("lan-immich.nix", '"0.0.0.0"', '"localhost"')
    made.add("networking.enableIPv6 = false;")
    generation = nix.build(made.configuration)
    assert upstream(generation) == "127.0.0.1:2283"
    assert module_says(generation)["home"] == ("127.0.0.1" if lan == "close" else None)


@pytest.mark.parametrize(
    ("address", "reached", "allowed"),
    [
        ("::1", "[::1]:3001", ["localhost"]),
        ("127.0.0.1", "127.0.0.1:3001", ["localhost"]),
        ("10.88.0.4", "10.88.0.4:3001", ["localhost", "10.88.0.4"]),
    ],
)
def test_an_immich_of_others_is_only_reached(
    nix: Nix, tmp_path: Path, address: str, reached: str, allowed: list[str]
) -> None:
    options = ("immich.managed = false;", f'immich.address = "{address}";', "immich.port = 3001;")
    made = without_immich(ConfigFolder.exposed(tmp_path / "nixos", *options))
    generation = nix.build(made.configuration)
    assert upstream(generation) == reached
    assert read_unit(generation, "immich-edge.service")["IPAddressAllow"] == allowed
    assert nix.evaluate(made.configuration, "config.services.immich.enable") is False
    assert not list((generation / "etc/systemd/system").glob("immich-server*"))
    assert not list((generation / "etc/systemd/system").glob("immich-exposure-lan*"))
    assert module_says(generation)["managed"] is False


def test_a_port_open_in_the_firewall_does_no_harm(nix: Nix, exposed: ConfigFolder) -> None:
    exposed.add("networking.firewall.allowedTCPPorts = [ 2283 ];")
    assert 2283 in nix.evaluate(exposed.configuration, "config.networking.firewall.allowedTCPPorts")


def test_home_is_opened_by_sockets_that_end_their_connections(generation: Path) -> None:
    socket = read_unit(generation, "immich-exposure-lan@.socket")
    assert socket["ListenStream"] == ["%I"] and socket["FreeBind"] == ["true"]
    assert socket["BindIPv6Only"] == ["ipv6-only"]
    service = read_unit(generation, "immich-exposure-lan@.service")
    assert service["PartOf"] == ["immich-exposure-lan@%i.socket"]
    assert service["ExecStart"][0].endswith(
        "/lib/systemd/systemd-socket-proxyd --exit-idle-time=10min 127.0.0.1:2283"
    )


def test_home_is_looked_after_at_boot_and_each_minute(generation: Path) -> None:
    assert read_unit(generation, "immich-exposure-lease.service")["Wants"] == ["immich-exposure-lan.service"]
    sync = read_unit(generation, "immich-exposure-lan.service")
    # Without an exposure the family at home must have Immich as well.
    assert "ConditionPathExists" not in sync
    assert "immich-server.service" in sync["After"] and STATE not in sync["ReadWritePaths"]


@pytest.mark.parametrize("unit", ["immich-exposure-lan.service", "immich-exposure-lease.service"])
def test_what_runs_each_minute_fills_no_journal_and_yet_is_heard(generation: Path, unit: str) -> None:
    settings = read_unit(generation, unit)
    assert settings["LogLevelMax"] == settings["SyslogLevel"] == ["notice"]


@pytest.mark.parametrize(
    "unit", ["immich-exposure-lan.service", "immich-exposure-lan@.service", "immich-exposure-lease.service"]
)
def test_what_opens_the_home_and_closes_the_funnel_is_never_started_too_often(
    generation: Path, unit: str
) -> None:
    assert read_unit(generation, unit)["StartLimitIntervalSec"] == ["0"]


# --- the edge


def test_the_edge_is_of_its_own(generation: Path) -> None:
    unit = read_unit(generation, "immich-edge.service")
    assert unit["Type"] == ["notify"] and unit["User"] == ["immich-edge"] and unit["Group"] == ["immich-edge"]
    assert unit["EnvironmentFile"] == [f"{STATE}/settings/edge.env", f"{STATE}/domain.env"]
    # What the scripts wait for before they reload it.
    [needs] = re.findall(r'^EDGE_NEEDS="(.*)"$', (SCRIPTS / "lib.sh").read_text(), re.MULTILINE)
    assert needs.split() == EDGE_NEEDS
    assert unit["ConditionPathExists"] == [f"{STATE}/{name}" for name in (".immich-exposure", *EDGE_NEEDS)]
    prepare, check = unit["ExecStartPre"]
    assert prepare.startswith("+") and prepare.endswith("/bin/immich-exposure-prepare prepare")
    assert check.endswith("/bin/immich-edge-check")
    assert [Path(command).name for command in unit["ExecReload"]] == ["immich-edge-reload"]
    [start] = unit["ExecStart"]
    assert re.fullmatch(r"/\S*/bin/caddy run --adapter caddyfile --config /\S*", start)
    # It ends with the check when that fails. Without --force, a renewed certificate would not be read.
    program = program_of(generation, "immich-edge-reload").read_text()
    shell, *options, checked, reload = filter(None, program.splitlines())
    assert shell.endswith("/bash") and "set -o errexit" in options
    assert (checked, reload) == (check, f"exec {start.replace(' run ', ' reload ')} --force")
    assert unit["CapabilityBoundingSet"] == [] and unit["AmbientCapabilities"] == []
    assert unit["IPAddressDeny"] == ["any"] and unit["IPAddressAllow"] == ["localhost"]
    assert unit["ProtectSystem"] == ["strict"] and "ReadWritePaths" not in unit
    # Rotating the log calls chown; a filter that kills for it would take Caddy down at the tenth megabyte.
    assert unit["SystemCallFilter"][-1] == "@chown" and unit["SystemCallErrorNumber"] == ["EPERM"]
    assert unit["RuntimeDirectory"] == ["immich-edge"] and unit["RuntimeDirectoryMode"] == ["0700"]
    assert unit["LogsDirectory"] == ["immich-edge"] and unit["LogsDirectoryMode"] == ["0750"]
    assert unit["MemoryMax"] == ["512M"]


def test_the_edges_environment_is_what_no_setting_says(generation: Path) -> None:
    names = environment(generation)
    assert {name: value for name, value in names.items() if name.startswith("IMMICH_")} == {
        "IMMICH_EXPOSURE_IMMICH": "127.0.0.1:2283",
        "IMMICH_EXPOSURE_STATE": STATE,
        "IMMICH_EXPOSURE_LOGS": LOGS,
        "IMMICH_EXPOSURE_ADMIN": "unix//run/immich-edge/admin.sock",
    }


def test_the_caddyfiles_own_defaults_are_the_modules(generation: Path) -> None:
    text = (SERVER_FILES / "Caddyfile").read_text()
    for name, value in environment(generation).items():
        if name.startswith("IMMICH_"):
            assert set(re.findall(rf"\{{\${name}:([^}}]*)\}}", text)) == {value}


def test_systemd_accepts_the_units(generation: Path, tmp_path: Path) -> None:
    wants = shutil.ignore_patterns("*.wants")
    shutil.copytree(generation / "etc/systemd/system", tmp_path / "units", ignore=wants)
    units = [str(tmp_path / "units" / name.replace("@", f"@{INSTANCE}")) for name in sorted(OURS)]
    for name in OURS:
        if "@" in name:
            shutil.copy(tmp_path / "units" / name, tmp_path / "units" / name.replace("@", f"@{INSTANCE}"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}/units:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if "immich" in line] == []


def checked_before_a_switch(generation: Path) -> subprocess.CompletedProcess[str]:
    """Run the checks of a system that would be switched to."""
    command = [str(generation / "pre-switch-checks"), str(generation), "switch"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_caddyfile_that_caddy_does_not_understand_is_not_switched_to(
    nix: Nix, generation: Path, exposed: ConfigFolder
) -> None:
    sound = checked_before_a_switch(generation)
    assert (sound.returncode, sound.stdout, sound.stderr) == (0, "", "")
    exposed.replace("immich-exposure/Caddyfile", "\tbind 127.0.0.1\n", "\tbind 127.0.0.1\n\tnonsense\n")
    done = checked_before_a_switch(nix.build(exposed.configuration))
    assert done.returncode == 1 and "unrecognized directive: nonsense" in done.stderr
    assert "Pre-switch check 'immich-edge' failed" in done.stderr


# --- bans


def test_bans_are_of_their_own(generation: Path) -> None:
    unit = read_unit(generation, "immich-bans.service")
    assert unit["User"] == ["immich-bans"] and unit["Group"] == ["immich-bans"]
    # The log is the edge's group's, and so is the key, which must stay out of sight.
    assert unit["SupplementaryGroups"] == ["immich-edge"]
    assert unit["InaccessiblePaths"] == [f"-{STATE}/tls"]
    assert unit["CapabilityBoundingSet"] == [] and unit["PrivateNetwork"] == ["true"]
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert unit["ReadWritePaths"] == [f"{STATE}/bans/{jail}" for jail in JAILS]
    assert unit["StateDirectory"] == ["immich-exposure/fail2ban"] and unit["StateDirectoryMode"] == ["0700"]
    assert unit["RuntimeDirectory"] == ["immich-bans"] and unit["RuntimeDirectoryMode"] == ["0700"]
    [prepare, log], [reload] = unit["ExecStartPre"], unit["ExecReload"]
    assert prepare.startswith("+") and prepare.endswith("/bin/immich-exposure-prepare prepare")
    assert log.startswith("+") and log.endswith("/bin/immich-bans-log")
    assert reload.endswith("/bin/fail2ban-client reload")


def test_the_jails_are_ours_alone_and_the_settings_win(nix: Nix, generation: Path) -> None:
    folder = bans_folder(generation)
    jails = ini(folder / "jail.conf")
    assert jails["INCLUDES"] == {"after": f"{STATE}/settings/bans.conf"}
    assert set(jails) == {"INCLUDES", "DEFAULT", *(f"immich-{jail}" for jail in JAILS)}
    assert not {"maxretry", "findtime", "bantime"} & {key for section in jails.values() for key in section}
    for jail in JAILS:
        assert jails[f"immich-{jail}"] == {
            "enabled": "true",
            "filter": f"immich-{jail}",
            "action": f'immich_ban.py[folder="{STATE}/bans/{jail}"]',
        }
    daemon = ini(folder / "fail2ban.conf")["Definition"]
    assert daemon["socket"] == "/run/immich-bans/socket" and daemon["pidfile"] == "/run/immich-bans/pid"
    assert daemon["dbfile"].startswith(f"{STATE}/fail2ban/")


@pytest.mark.parametrize("settings", ["", "[DEFAULT]\nmaxretry = 6\nfindtime = 7m\nbantime = 8h\n"])
def test_fail2ban_accepts_its_files(generation: Path, tmp_path: Path, settings: str) -> None:
    folder = tmp_path / "configuration"
    shutil.copytree(bans_folder(generation), folder)
    # The log is the server's; fail2ban refuses a jail whose log is not there.
    (tmp_path / "offences.log").touch()
    if settings:
        (tmp_path / "bans.conf").write_text(settings)
    folder.chmod(0o755)
    jails = (folder / "jail.conf").read_text()
    (folder / "jail.conf").unlink()
    jails = jails.replace(LOG, str(tmp_path / "offences.log"))
    (folder / "jail.conf").write_text(jails.replace(f"{STATE}/settings", str(tmp_path)))
    done = subprocess.run(
        ["fail2ban-client", "-c", str(folder), "-s", str(tmp_path / "s"), "-p", str(tmp_path / "p"), "-d"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stdout + done.stderr
    for jail in JAILS:
        assert f"['start', 'immich-{jail}']" in done.stdout
        assert f"'immich-{jail}', 'addaction', 'immich_ban'" in done.stdout
        assert (f"['set', 'immich-{jail}', 'bantime', '8h']" in done.stdout) == bool(settings)
        assert f"['set', 'immich-{jail}', 'maxmatches', 0]" in done.stdout


# --- what happens by itself, and the command


def test_the_lease_is_enforced_each_minute_and_after_boot(generation: Path) -> None:
    timer = read_unit(generation, "immich-exposure-lease.timer")
    service = read_unit(generation, "immich-exposure-lease.service")
    assert timer["OnBootSec"] == ["20s"] and timer["OnUnitActiveSec"] == ["1min"]
    assert service["ExecStart"][0].endswith("/bin/immich-exposure-enforce enforce")
    assert service["Type"] == ["oneshot"]
    # Whoever deletes the state while the funnel is open leaves no lease: it closes then as well.
    assert "ConditionPathExists" not in service and f"-{STATE}" in service["ReadWritePaths"]


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


def test_the_guard_looks_every_five_minutes_through_the_edges_eyes(generation: Path) -> None:
    timer = read_unit(generation, "immich-exposure-guard.timer")
    service = read_unit(generation, "immich-exposure-guard.service")
    assert timer["OnUnitActiveSec"] == ["5min"] and timer["OnBootSec"] == ["2min"]
    assert timer["AccuracySec"] == ["1s"], "the times in docs/guard.md are sums of this one"
    assert service["ExecStart"][0].endswith("/bin/immich-exposure-guard look")
    edge = read_unit(generation, "immich-edge.service")["ExecStart"][0].split()[0]
    assert f"IMMICH_EDGE={edge}\n" in program_of(generation, "immich-exposure-guard").read_text()


def test_what_could_not_be_told_is_told_again_every_five_minutes(generation: Path) -> None:
    timer = read_unit(generation, "immich-exposure-notify.timer")
    service = read_unit(generation, "immich-exposure-notify.service")
    assert timer["OnUnitInactiveSec"] == ["5min"]
    assert service["ExecStart"][0].endswith("/bin/immich-exposure-notify deliver")
    assert f"{STATE}/notices/channel" in service["ConditionPathExists"]
    path = read_unit(generation, "immich-exposure-notify.path")
    assert path["PathChanged"] == [f"{STATE}/lease", f"{STATE}/devices"]


def test_who_opened_what_is_counted_where_somebody_asks(generation: Path) -> None:
    timer = read_unit(generation, "immich-exposure-who.timer")
    service = read_unit(generation, "immich-exposure-who.service")
    assert timer["OnCalendar"] == ["*:0/5"]
    assert service["ExecStart"][0].endswith("/bin/immich-exposure-who sum")
    asked = [f"|{STATE}/who/key", f"|{STATE}/who/api-key"]
    assert service["ConditionPathExists"] == [f"{STATE}/.immich-exposure", *asked]


@pytest.mark.parametrize(
    ("program", "script"),
    [
        ("immich-exposure", "exposure.sh"),
        ("immich-exposure-enforce", "funnel.sh"),
        ("immich-exposure-expire", "devices.sh"),
        ("immich-exposure-guard", "guard.sh"),
        ("immich-exposure-lan", "lan.sh"),
        ("immich-exposure-notify", "notify.sh"),
        ("immich-exposure-prepare", "state.sh"),
        ("immich-exposure-renew", "certificate.sh"),
        ("immich-exposure-who", "who.sh"),
    ],
)
def test_a_command_is_the_library_and_its_script(generation: Path, program: str, script: str) -> None:
    text = program_of(generation, program).read_text()
    scripts = SERVER_FILES / "scripts"
    assert text.rstrip().endswith((scripts / "lib.sh").read_text() + (scripts / script).read_text().rstrip())


@pytest.mark.parametrize(
    "name", ["immich-edge-check", "immich-edge-reload", "immich-bans-log", "fail2ban-client"]
)
def test_shellcheck_accepts_what_nix_will_check(generation: Path, name: str) -> None:
    program = program_of(generation, name)
    done = subprocess.run(["shellcheck", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_commands_find_what_they_call(generation: Path) -> None:
    text = program_of(generation, "immich-exposure").read_text()
    [path] = re.findall(r'export PATH="([^"]*):\$PATH"', text)
    programs = {program.name for folder in path.split(":") for program in Path(folder).iterdir()}
    needed = (
        "tailscale nix-instantiate curl flock awk sed grep systemctl cmp find date getent ip fail2ban-client"
    )
    assert set(needed.split()) <= programs


def test_the_command_asks_our_fail2ban(generation: Path) -> None:
    client = program_of(generation, "fail2ban-client").read_text()
    assert f"-c {bans_folder(generation)} -s /run/immich-bans/socket -p /run/immich-bans/pid " in client


def test_the_digest_is_of_every_file(nix: Nix, exposed: ConfigFolder, generation: Path) -> None:
    assert module_says(generation)["digest"] == module_digest()
    files = [file for pattern in MODULE_FILES for file in SERVER_FILES.glob(pattern)]
    paths = {
        str(file.relative_to(SERVER_FILES)): file for file in files if not file.name.endswith("_test.go")
    }
    lines = "".join(
        f"{path} {hashlib.sha256(paths[path].read_bytes()).hexdigest()}\n" for path in sorted(paths)
    )
    assert module_digest() == hashlib.sha256(lines.encode()).hexdigest()
    with (exposed.ours / "scripts/exposure.sh").open("a") as changed:
        changed.write("# changed\n")
    assert module_says(nix.build(exposed.configuration))["digest"] != module_digest()


# --- what a change does on the server


@pytest.mark.parametrize(
    ("file", "unit", "action"),
    [
        ("Caddyfile", "immich-edge.service", "restart"),
        ("Caddyfile", "immich-bans.service", "none"),
        ("fail2ban/filter.d/immich-scan.conf", "immich-bans.service", "restart"),
        ("fail2ban/action.d/immich_ban.py", "immich-bans.service", "restart"),
        ("fail2ban/filter.d/immich-scan.conf", "immich-edge.service", "none"),
        ("scripts/funnel.sh", "immich-edge.service", "none"),
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


def test_the_version_of_an_immich_of_others_is_not_asked(nix: Nix, tmp_path: Path) -> None:
    made = without_immich(ConfigFolder.exposed(tmp_path / "nixos", "immich.managed = false;"))
    _immich(made, "1.0.0", '"CVE-2030-1"')
    assert nix.warnings(made.configuration) == ""


def test_the_go_program_keeps_to_the_floors() -> None:
    text = (GO_SOURCE / "go.mod").read_text()
    floors = load_floors()
    for name, module in (
        ("caddy", r"github\.com/caddyserver/caddy/v2 v"),
        ("go", r"^go "),
    ):
        [required] = re.findall(rf"{module}(\S+)", text, re.MULTILINE)
        version = parse_version(required)
        assert version is not None and floors[name].accepts(version)
        assert floors[name].pinned in (None, version)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda exposed: exposed.replace("configuration.nix", "services.tailscale.enable = true;", ""),
            "needs Tailscale on this server; set services.tailscale.enable = true.",
        ),
        (
            without_immich,
            "There is no services.immich in this configuration; for an Immich that runs otherwise, in a"
            " container for example, set services.immich-exposure.immich.managed = false and its address and",
        ),
        (
            lambda exposed: exposed.add(
                'services.immich.environment.IMMICH_HOST = pkgs.lib.mkForce "0.0.0.0";'
            ),
            'IMMICH_HOST = "0.0.0.0" in the environment of immich-server keeps Immich open past the edge',
        ),
        (
            lambda exposed: exposed.add(
                'systemd.services.immich-server.environment.IMMICH_HOST = pkgs.lib.mkForce "::";'
            ),
            'IMMICH_HOST = "::" in the environment of immich-server keeps Immich open past the edge',
        ),
    ],
)
def test_an_unsafe_configuration_is_refused(
    nix: Nix, exposed: ConfigFolder, change: Any, sentence: str
) -> None:
    change(exposed)
    complaint = nix.complaint(exposed.configuration)
    assert "Failed assertions: - " in complaint and sentence in complaint


@pytest.mark.parametrize("host", ["pi.fritz.box", "192.168.1", "1.2.3.4 evil"])
def test_the_edge_must_know_an_address(nix: Nix, tmp_path: Path, host: str) -> None:
    kept = ConfigFolder.exposed(tmp_path / "kept" / "nixos", 'lan = "keep";')
    kept.replace("lan-immich.nix", '"0.0.0.0"', f'"{host}"')
    sentence = f'- The edge must know Immich\'s IP address, and "{host}" is not one; set '
    assert f"{sentence}services.immich.host to one like 127.0.0.1." in nix.complaint(kept.configuration)
    kept = ConfigFolder.exposed(tmp_path / "overridden" / "nixos", 'lan = "keep";')
    kept.add(f'services.immich.environment.IMMICH_HOST = pkgs.lib.mkForce "{host}";')
    assert f"{sentence}IMMICH_HOST in the environment of immich-server to one" in nix.complaint(
        kept.configuration
    )
    others = ConfigFolder.exposed(
        tmp_path / "others" / "nixos", "immich.managed = false;", f'immich.address = "{host}";'
    )
    said = nix.complaint(without_immich(others).configuration)
    assert f"{sentence}services.immich-exposure.immich.address to one like 127.0.0.1." in said


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ('lan = "open";', "`services.immich-exposure.lan' is not of type `one of"),
        ("immich.port = 65536;", "`services.immich-exposure.immich.port' is not of type `16 bit unsigned"),
        ('proxyPort = "8443";', "The option `services.immich-exposure.proxyPort' does not exist"),
    ],
)
def test_options_of_a_wrong_kind_are_refused(nix: Nix, tmp_path: Path, option: str, complaint: str) -> None:
    exposed = ConfigFolder.exposed(tmp_path / "nixos", option)
    assert complaint in nix.complaint(exposed.configuration)


# --- the build of the edge


def test_the_vendor_hash_is_that_of_the_modules(nix: Nix, tmp_path: Path) -> None:
    sources = [path.name for path in GO_SOURCE.glob("*.go") if not path.name.endswith("_test.go")]
    for name in (*sources, "go.mod", "go.sum"):
        shutil.copy(GO_SOURCE / name, tmp_path)
    subprocess.run(
        ["go", "mod", "vendor"],
        cwd=tmp_path,
        env={**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"},
        check=True,
    )
    [written] = re.findall(r'vendorHash = "([^"]*)";', (SERVER_FILES / "nix/package.nix").read_text())
    assert written == nix.hash_path(tmp_path / "vendor")


def test_the_package_has_the_version_of_caddy(nix: Nix, exposed: ConfigFolder) -> None:
    [required] = re.findall(r"caddyserver/caddy/v2 v(\S+)", (GO_SOURCE / "go.mod").read_text())
    assert nix.evaluate(exposed.configuration, "config.services.immich-exposure.package.version") == required


@pytest.mark.parametrize(
    ("go", "builders", "builder"),
    [
        ("1.26.3", "{ }", "default"),
        ("1.27.0", '{ buildGo126Module = throw "buildGo126Module has been removed"; }', "default"),
        ("1.25.4", '{ buildGo126Module = _: "1.26"; }', "1.26"),
        (
            "1.25.4",
            "{ }",
            "The edge needs Go 1.26.0 or newer, and this nixpkgs has 1.25.4; upgrade the channel.",
        ),
    ],
)
def test_the_edge_is_built_by_a_go_that_is_new_enough(nix: Nix, go: str, builders: str, builder: str) -> None:
    package = SERVER_FILES / "nix/package.nix"
    expression = f"""import {package} {{
      lib = import {PROJECT}/lab/nixos/lib;
      pkgs = {{ go.version = "{go}"; buildGoModule = _: "default"; }} // {builders};
    }}"""
    assert builder in nix.expression(expression)


# --- helpers


def environment(generation: Path, name: str = "immich-edge.service") -> dict[str, str]:
    """Return what the unit itself puts into the environment."""
    words = [word.strip('"').partition("=") for word in read_unit(generation, name)["Environment"]]
    return {key: value for key, _, value in words}


def upstream(generation: Path) -> str:
    """Return where the edge looks for Immich."""
    return environment(generation)["IMMICH_EXPOSURE_IMMICH"]


def bans_folder(generation: Path) -> Path:
    """Return fail2ban's configuration."""
    [start] = read_unit(generation, "immich-bans.service")["ExecStart"]
    [folder] = re.findall(r" -c (\S+) ", start)
    return Path(folder)


def ini(file: Path) -> dict[str, dict[str, str]]:
    """Read an ini file without any of its magic."""
    sections: dict[str, dict[str, str]] = {}
    for line in file.read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif " = " in line:
            key, _, value = line.partition(" = ")
            section[key] = value
    return sections


def program_of(generation: Path, name: str) -> Path:
    """Return one of the commands, wherever a unit names it."""
    if name == "immich-exposure":
        return (generation / "sw/bin/immich-exposure").resolve()
    units: list[Unit] = [read_unit(generation, unit) for unit in sorted(OURS) if unit.endswith(".service")]
    commands = [
        line for unit in units for key, lines in unit.items() if key.startswith("Exec") for line in lines
    ]
    [path] = {word for line in commands for word in re.findall(rf"/\S+/bin/{name}(?= |$)", line)}
    return Path(path)
