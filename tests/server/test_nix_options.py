"""The lab's module system says no where NixOS says no, and merges as NixOS merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.server.nix import ConfigFolder, Nix

pytestmark = pytest.mark.server


@pytest.fixture
def lan(tmp_path: Path) -> ConfigFolder:
    """Return the lab's configuration as it comes."""
    return ConfigFolder.on_the_lan(tmp_path / "nixos")


def test_the_labs_own_configuration_builds(nix: Nix, lan: ConfigFolder) -> None:
    generation = nix.build(lan.configuration)
    unit = (generation / "etc/systemd/system/immich-server.service").read_text()
    assert "--host 0.0.0.0 --port 2283" in unit
    assert (generation / "sw/bin/curl").is_symlink()
    assert (generation / "bin/switch-to-configuration").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("services.cady.enable = true;", "option `services.cady' does not exist"),
        ("services.cady.enable = true;", "Did you mean `services.caddy'?"),
        ("services.caddy.enabled = true;", "Did you mean `services.caddy.enable'?"),
        ("services.openssh.port = 22;", "Did you mean `services.openssh.ports'?"),
        ('services.caddy.enable = "yes";', "option `services.caddy.enable' is not of type `boolean'"),
        # Nothing uses these two, so a lazy evaluation would let them pass.
        (
            'services.tailscale.port = "41641";',
            "option `services.tailscale.port' is not of type `16 bit unsigned",
        ),
        (
            "systemd.paths.x.pathConfig.PathChanged = { };",
            "`systemd.paths.x.pathConfig.PathChanged' is not of type",
        ),
        ("services.immich.port = 70000;", "option `services.immich.port' is not of type `16 bit unsigned"),
        ("services.immich.port = 2284;", "option `services.immich.port' has conflicting definition values"),
        (
            "systemd.services.x.serviceConfig.A = pkgs.lib.mkMerge [ [ 1 ] 2 ];",
            "the definitions are a mix of list and non-list",
        ),
        ("systemd.services.x.serviceConfig = [ ];", "`systemd.services.x.serviceConfig' is not of type"),
        ("services.fail2ban.jails.x.settings.maxretry = [ 1 ];", "is not of type"),
        ('networking.firewall.allowedTCPPorts = [ "80" ];', "is not of type `16 bit unsigned"),
        ("environment.etc.x = { };", 'environment.etc."x" has neither text nor source'),
        ("users.users.x = { };", "Failed assertions: - users.users.x.group is unset."),
        ("imports = [ ./missing.nix ];", "missing.nix"),
        ("services.immich = 3;", "A definition for `services.immich' is not an attribute set"),
    ],
)
def test_a_wrong_definition_is_refused(nix: Nix, lan: ConfigFolder, line: str, complaint: str) -> None:
    if line.startswith("imports"):
        lan.replace("configuration.nix", "./lan-immich.nix", "./lan-immich.nix ./missing.nix")
    else:
        lan.add(line)
    assert complaint in nix.complaint(lan.configuration)


def test_the_file_of_a_wrong_definition_is_named(nix: Nix, lan: ConfigFolder) -> None:
    lan.replace("lan-immich.nix", "openFirewall = true", 'openFirewall = "true"')
    assert f'In `{lan.folder}/lan-immich.nix\': "true"' in nix.complaint(lan.configuration)


@pytest.mark.parametrize(
    ("lines", "attribute", "value"),
    [
        (["services.immich.port = lib.mkForce 3000;"], "services.immich.port", 3000),
        (["services.immich.port = lib.mkDefault 3000;"], "services.immich.port", 2283),
        (["services.immich.port = lib.mkIf false 3000;"], "services.immich.port", 2283),
        (
            ['services.immich = lib.mkMerge [ (lib.mkIf true { user = "a"; }) { group = "a"; } ];'],
            "services.immich.user",
            "a",
        ),
        # A condition may depend on what is being configured.
        (
            ['systemd = lib.mkIf config.services.immich.enable { tmpfiles.rules = [ "d /x" ]; };'],
            "systemd.tmpfiles.rules",
            ["d /x"],
        ),
        (
            ['systemd.tmpfiles.rules = with lib; mkMerge [ (mkAfter [ "c" ]) [ "b" ] (mkBefore [ "a" ]) ];'],
            "systemd.tmpfiles.rules",
            ["a", "b", "c"],
        ),
        (
            ["systemd.services.x.serviceConfig.A = lib.mkMerge [ [ 1 ] [ 2 ] ];"],
            "systemd.services.x.serviceConfig.A",
            [1, 2],
        ),
        (["systemd.services.x = lib.mkIf false { };"], "systemd.services", {}),
        (['systemd.services.x.startAt = "daily";'], "systemd.services.x.startAt", ["daily"]),
    ],
)
def test_definitions_merge(nix: Nix, lan: ConfigFolder, lines: list[str], attribute: str, value: Any) -> None:
    lan.replace("configuration.nix", "{ config, pkgs, ... }", "{ config, lib, pkgs, ... }")
    for line in lines:
        lan.add(line)
    seen = nix.evaluate(lan.configuration, f"config.{attribute}")
    if value == {}:
        assert "x" not in seen
    else:
        assert seen == value


def test_a_module_is_taken_once_however_often_it_is_imported(nix: Nix, lan: ConfigFolder) -> None:
    (lan.folder / "extra.nix").write_text(
        '{ systemd.tmpfiles.rules = [ "d /x" ]; imports = [ ./lan-immich.nix ]; }'
    )
    lan.replace("configuration.nix", "./lan-immich.nix", "./lan-immich.nix ./extra.nix ./extra.nix")
    assert nix.evaluate(lan.configuration, "config.systemd.tmpfiles.rules") == ["d /x"]


def test_a_unit_after_the_network_that_does_not_want_it_is_warned_of(nix: Nix, lan: ConfigFolder) -> None:
    assert nix.warnings(lan.configuration) == ""
    lan.add('systemd.services.x.after = [ "network-online.target" ];')
    assert "x.service is ordered after 'network-online.target'" in nix.warnings(lan.configuration)


def test_a_service_finds_only_the_programs_of_its_packages(nix: Nix, lan: ConfigFolder) -> None:
    lan.add('systemd.services.x = { path = [ pkgs.curl ]; script = "curl"; };')
    unit = (nix.build(lan.configuration) / "etc/systemd/system/x.service").read_text()
    path = next(line for line in unit.splitlines() if line.startswith('Environment="PATH=')).strip('"')
    folders = [Path(folder) for folder in path.partition("PATH=")[2].split(":")]
    programs = {program.name for folder in folders for program in folder.iterdir()}
    assert {"curl", "cat", "grep", "systemctl"} <= programs
    assert not programs & {"python3", "awk", "flock", "tailscale"}
