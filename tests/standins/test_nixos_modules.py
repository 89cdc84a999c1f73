"""The lab's NixOS against tables of inputs: what NixOS takes it takes, what NixOS refuses it refuses.

The tables lie in ``nixos/``. The lab is the only machine on which most changes are tried, so an input that
passes here and not at home hides a defect.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import toolchain
from lab.nixos import lay
from tests.server.nix import Nix, NixError, read_unit

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Nix:
    """Return an evaluator with a store of its own."""
    return Nix(tmp_path_factory.mktemp("nix"), toolchain.program("caddy").parent)


TABLES = Path(__file__).parent / "nixos"
IMMICH = "services.immich.enable = true; "


def _names(table: str) -> list[str]:
    """The rows of a table: the attributes of its outermost set."""
    return re.findall(r'^  "([^"]+)" = ', (TABLES / f"{table}.nix").read_text(), re.MULTILINE)


def _row(folder: Path, table: str, name: str, part: str = "") -> Path:
    """A configuration that consists of one row."""
    configuration = folder / "configuration.nix"
    configuration.write_text(f'{{ imports = [ (import {TABLES / table}.nix)."{name}"{part} ]; }}\n')
    return configuration


def _write(folder: Path, body: str) -> Path:
    configuration = folder / "configuration.nix"
    configuration.write_text(f"{{ config, lib, pkgs, ... }}: {{ {body} }}\n")
    return configuration


@pytest.mark.parametrize("name", _names("accepted"))
def test_nixos_takes_it(nix: Nix, tmp_path: Path, name: str) -> None:
    nix.build(_row(tmp_path, "accepted", name))


@pytest.mark.parametrize("name", _names("refused"))
def test_nixos_refuses_it(nix: Nix, tmp_path: Path, name: str) -> None:
    said = json.loads(nix.expression(f'(import {TABLES}/refused.nix)."{name}".said'))
    assert said in nix.complaint(_row(tmp_path, "refused", name, ".module"))


@pytest.mark.parametrize("name", _names("homes"))
def test_homes_build(nix: Nix, tmp_path: Path, name: str) -> None:
    generation = nix.build(_row(tmp_path, "homes", name))
    assert read_unit(generation, "immich-server.service")["Requires"] == ["postgresql.service"]


def test_what_the_user_adds_comes_after_what_nixos_has(nix: Nix, tmp_path: Path) -> None:
    configuration = _row(tmp_path, "accepted", "preStart beside a list")
    steps = nix.evaluate(configuration, "config.systemd.services.x.serviceConfig.ExecStartPre")
    assert len(steps) == 2 and steps[1] == "/a"


REAL_LIB = os.environ.get("NIXPKGS_LIB", "")


@pytest.mark.skipif(not REAL_LIB, reason="NIXPKGS_LIB names no folder of nixpkgs' own lib")
@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table in ("accepted", "homes") for name in _names(table)]
)
def test_nixpkgs_own_lib_makes_the_same_system(nix: Nix, tmp_path: Path, table: str, name: str) -> None:
    row = _row(tmp_path, table, name)
    ours, real = (nix.evaluate(row, "toplevel.drvPath", realLib=lib) for lib in ("", REAL_LIB))
    assert ours == real


def test_a_generation_says_which_nixos_and_which_immich_it_is(nix: Nix, tmp_path: Path) -> None:
    configuration = _write(tmp_path, IMMICH)
    generation = nix.build(configuration)
    label = nix.evaluate(configuration, "config.system.nixos.label")
    assert (generation / "nixos-version").read_text() == label
    [start] = read_unit(generation, "immich-server.service")["ExecStart"]
    assert re.match(r"\S*-immich-3\.1\.0/bin/server ", start)


def test_immich_on_localhost_is_on_v6_alone(nix: Nix, tmp_path: Path) -> None:
    generation = nix.build(_write(tmp_path, IMMICH))
    assert read_unit(generation, "immich-server.service")["ExecStart"][0].endswith("--host ::1 --port 2283")


@pytest.mark.parametrize(
    ("port", "bound"),
    [
        ("2283:2283", "--host 0.0.0.0 --port 2283"),
        ("127.0.0.1:8080:2283", "--host 127.0.0.1 --port 8080"),
        ("[::1]:2283:2283/tcp", "--host ::1 --port 2283"),
    ],
)
def test_a_container_of_immich_is_where_it_is_published(
    nix: Nix, tmp_path: Path, port: str, bound: str
) -> None:
    container = f'{{ image = "immich-server"; ports = [ "{port}" ]; }}'
    body = f"virtualisation.oci-containers.containers.photos = {container};"
    unit = read_unit(nix.build(_write(tmp_path, body)), "podman-photos.service")
    assert unit["ExecStart"][0].endswith(bound)


def test_caddy_takes_the_file_that_is_written_for_it(nix: Nix, tmp_path: Path) -> None:
    site = (
        '{ serverAliases = [ "b.example" ]; listenAddresses = [ "127.0.0.1" ]; extraConfig = "respond 200"; }'
    )
    body = (
        f'services.caddy = {{ enable = true; virtualHosts."a.example" = {site}; '
        'extraConfig = ":81 { respond 204 }"; };'
    )
    file = nix.build(_write(tmp_path, body)) / "etc/caddy/caddy_config"
    command = [str(toolchain.program("caddy")), "adapt", "--config", str(file), "--adapter", "caddyfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    servers = json.loads(done.stdout)["apps"]["http"]["servers"].values()
    assert sorted(address for server in servers for address in server["listen"]) == ["127.0.0.1:443", ":81"]


# --- how it is asked


@pytest.mark.parametrize(
    ("body", "attribute", "value"),
    [
        (IMMICH + "services.immich.port = lib.mkForce 3000;", "services.immich.port", 3000),
        (IMMICH + "services.immich.port = lib.mkIf false 3000;", "services.immich.port", 2283),
        (
            'systemd.tmpfiles.rules = with lib; mkMerge [ (mkAfter [ "c" ]) [ "b" ] (mkBefore [ "a" ]) ];',
            "systemd.tmpfiles.rules",
            ["a", "b", "c"],
        ),
        ("networking.firewall.allowedTCPPorts = [ 9 1 9 ];", "networking.firewall.allowedTCPPorts", [1, 9]),
        ("users.users.me.isNormalUser = true;", "users.users.me.home", "/home/me"),
        ("users.extraUsers.me.isNormalUser = true;", "users.users.me.group", "users"),
        (
            'services.openssh.permitRootLogin = "no";',
            "services.openssh.settings.PermitRootLogin",
            "no",
        ),
        ('systemd.services.x.startAt = "daily";', "systemd.services.x.startAt", ["daily"]),
        # What a module imports comes before it.
        (
            'imports = [ { systemd.tmpfiles.rules = [ "a" ]; } ]; systemd.tmpfiles.rules = [ "b" ];',
            "systemd.tmpfiles.rules",
            ["a", "b"],
        ),
    ],
)
def test_definitions_merge(nix: Nix, tmp_path: Path, body: str, attribute: str, value: Any) -> None:
    assert nix.evaluate(_write(tmp_path, body), f"config.{attribute}") == value


@dataclass(frozen=True)
class Channel:
    """A laid out nixpkgs, and Nix with it in its search path or as a flake's input."""

    nix: Nix
    nixpkgs: Path

    def run(self, *command: str, **environment: str) -> str:
        """Run a command of Nix's; raises NixError with what it said."""
        everything = {**self.nix._environment(), **environment}
        done = subprocess.run(command, env=everything, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NixError(done.stderr)
        return done.stdout

    def flake(self, verb: str, reference: str) -> str:
        """Run `nix VERB` on a flake's attribute."""
        features = ["--extra-experimental-features", "nix-command flakes"]
        no_link = ["--no-link"] if verb == "build" else []
        return self.run("nix", *features, verb, "--json", *no_link, reference)


@pytest.fixture(scope="module")
def channel(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Channel:
    """Return the stand-in as it lies on the server, in the store as well."""
    folder = tmp_path_factory.mktemp("channel") / "nixos"
    lay.lay(folder, nix.programs, programs_there=str(nix.programs))
    made = Channel(nix, folder)
    source = f'builtins.path {{ path = {folder}; name = "source"; }}'
    made.run("nix-instantiate", "--eval", "--read-write-mode", "-E", source)
    return made


def test_the_search_path_finds_the_configuration(channel: Channel, tmp_path: Path) -> None:
    configuration = _write(tmp_path, IMMICH)
    path = f"nixpkgs={channel.nixpkgs}:nixos-config={configuration}"
    host = "(import <nixpkgs/nixos> { }).config.services.immich.host"
    asked = channel.run("nix-instantiate", "--eval", "--json", "-E", host, NIX_PATH=path)
    assert json.loads(asked) == "localhost"


def test_a_wrong_configuration_still_answers_for_the_rest(channel: Channel, tmp_path: Path) -> None:
    # As on NixOS: a failed assertion is an error of the system, not of one option.
    configuration = _write(tmp_path, "users.users.x.isSystemUser = true;")
    path = f"nixpkgs={channel.nixpkgs}:nixos-config={configuration}"
    ask = ("nix-instantiate", "--eval", "--json", "-E")
    assert channel.run(*ask, "(import <nixpkgs/nixos> { }).config.services.immich.port", NIX_PATH=path)
    with pytest.raises(NixError, match="Failed assertions"):
        channel.run(*ask, "(import <nixpkgs/nixos> { }).system.drvPath", NIX_PATH=path)


def test_the_folder_hash_is_nixs_own(channel: Channel) -> None:
    ours = f"sha256-{b64encode(lay.nar_hash(channel.nixpkgs)).decode()}"
    assert channel.nix.hash_path(channel.nixpkgs) == ours


FLAKE = """\
{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
  outputs = { nixpkgs, ... }: {
    nixosConfigurations.pi = nixpkgs.lib.nixosSystem { %s modules = [ ./configuration.nix ]; };
  };
}
"""


@pytest.fixture
def flake(channel: Channel, tmp_path: Path) -> Path:
    """Return a flake as people write it, with its lock."""
    folder = tmp_path / "flake"
    folder.mkdir()
    _write(folder, IMMICH)
    (folder / "flake.nix").write_text(FLAKE % 'system = "aarch64-linux";')
    inputs = {"nixpkgs": ("github:NixOS/nixpkgs/nixos-unstable", channel.nixpkgs)}
    (folder / "flake.lock").write_text(lay.flake_lock(inputs))
    return folder


def test_a_flake_builds_without_a_network(channel: Channel, flake: Path) -> None:
    lock = (flake / "flake.lock").read_text()
    [built] = json.loads(
        channel.flake("build", f"path:{flake}#nixosConfigurations.pi.config.system.build.toplevel")
    )
    generation = Path(built["outputs"]["out"])
    assert read_unit(generation, "immich-server.service")["ExecStart"]
    # Its NIX_PATH names no nixos-config: whoever evaluates <nixos-config> there evaluates another system.
    assert "nixos-config" not in (generation / "etc/pam/environment").read_text()
    assert (flake / "flake.lock").read_text() == lock


def test_a_flake_has_to_say_its_platform(channel: Channel, flake: Path) -> None:
    (flake / "flake.nix").write_text(FLAKE % "")
    with pytest.raises(NixError, match="Neither `nixpkgs.hostPlatform'"):
        channel.flake("eval", f"path:{flake}#nixosConfigurations.pi.config.system.build.toplevel.drvPath")
    _write(flake, 'nixpkgs.hostPlatform = "aarch64-linux";')
    assert channel.flake("eval", f"path:{flake}#nixosConfigurations.pi.config.system.build.toplevel.drvPath")


def test_a_git_checkout_has_only_what_git_tracks(channel: Channel, flake: Path) -> None:
    (flake / "extra.nix").write_text('{ networking.hostName = "pi"; }')
    _write(flake, "imports = [ ./extra.nix ];")
    subprocess.run(["git", "init", "--quiet", str(flake)], check=True)
    subprocess.run(
        ["git", "-C", str(flake), "add", "flake.nix", "flake.lock", "configuration.nix"], check=True
    )
    name = "nixosConfigurations.pi.config.networking.hostName"
    with pytest.raises(NixError, match=r"extra\.nix"):
        channel.flake("eval", f"{flake}#{name}")
    assert json.loads(channel.flake("eval", f"path:{flake}#{name}")) == "pi"
    subprocess.run(["git", "-C", str(flake), "add", "--intent-to-add", "extra.nix"], check=True)
    assert json.loads(channel.flake("eval", f"{flake}#{name}")) == "pi"
