"""flake.nix evaluates against the lab's nixpkgs, as far as that goes: the module, the edge, a home."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.remote.module_files import module_digest
from lab.nixos.lay import lay
from tests.server.nix import Nix
from toolchain import paths
from toolchain.paths import PROJECT

pytestmark = pytest.mark.server

FLAKES = ("nix", "--extra-experimental-features", "nix-command flakes")

# A repository of an owner's, which has both flakes as inputs.
HOME = """\
{
  inputs.nixpkgs.url = "path:NIXPKGS";
  inputs.immich-exposure.url = "path:EXPOSURE";
  inputs.immich-exposure.inputs.nixpkgs.follows = "nixpkgs";

  outputs = { nixpkgs, immich-exposure, ... }:
    let
      system = exposure: nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          {
            networking.hostName = "home";
            services.tailscale.enable = true;
            services.immich.enable = true;
            system.stateVersion = "26.05";
          }
        ] ++ exposure;
      };
      module = immich-exposure.nixosModules.default;
    in
    {
      nixosConfigurations.without = system [ ];
      nixosConfigurations.imported = system [ module ];
      nixosConfigurations.home = system [ module { services.immich-exposure.enable = true; } ];
    };
}
"""


@dataclass(frozen=True)
class Flakes:
    """Copies of both flakes in a folder, and an evaluator with a store of its own."""

    folder: Path
    nix: Nix

    def evaluate(self, attribute: str, *, flake: str = "exposure", apply: str | None = None) -> object:
        """The value of an attribute, as JSON."""
        words = ["eval", "--json", f"path:{self.folder / flake}#{attribute}", "--no-write-lock-file"]
        words += ["--apply", apply] if apply else []
        return json.loads(self.run(*words, flake=flake))

    def run(self, *words: str, flake: str = "exposure") -> str:
        """What `nix` prints, with the lab's nixpkgs as our flake's input; nothing is fetched."""
        given = (
            ["--override-input", "nixpkgs", f"path:{self.folder / 'nixpkgs'}"] if flake == "exposure" else []
        )
        done = subprocess.run(
            [*FLAKES, *words, *given], env=self.nix._environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def flakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flakes]:
    folder = tmp_path_factory.mktemp("flakes")
    ours = folder / "exposure"
    ours.mkdir()
    shutil.copy(PROJECT / "flake.nix", ours)
    shutil.copytree(PROJECT / "tests" / "nixos", ours / "tests" / "nixos")
    skipped = shutil.ignore_patterns("__pycache__", "*_test.go")
    shutil.copytree(PROJECT / "server", ours / "server", ignore=skipped)
    lay(folder / "nixpkgs", paths.BIN, programs_there=str(paths.BIN))
    home = folder / "home"
    home.mkdir()
    text = HOME.replace("NIXPKGS", str(folder / "nixpkgs")).replace("EXPOSURE", str(ours))
    (home / "flake.nix").write_text(text)
    yield Flakes(folder, Nix(folder / "nix", paths.BIN))


@pytest.mark.parametrize(
    ("output", "names"),
    [
        ("nixosModules", ["default"]),
        ("packages", ["aarch64-linux", "x86_64-linux"]),
        ("packages.aarch64-linux", ["default", "edge"]),
        ("checks", ["aarch64-linux", "x86_64-linux"]),
        ("devShells", ["aarch64-darwin", "aarch64-linux", "x86_64-darwin", "x86_64-linux"]),
    ],
)
def test_what_the_flake_offers(flakes: Flakes, output: str, names: list[str]) -> None:
    assert flakes.evaluate(output, apply="builtins.attrNames") == names


def test_the_edge_is_a_package(flakes: Flakes) -> None:
    assert flakes.evaluate("packages.x86_64-linux.edge.pname") == "caddy"


def test_a_home_that_imports_the_module_and_switches_it_on(flakes: Flakes) -> None:
    def of(attribute: str) -> object:
        return flakes.evaluate(f"nixosConfigurations.home.config.{attribute}", flake="home")

    assert of("services.immich.host") == "127.0.0.1"
    module = json.loads(str(of("services.immich-exposure.module")))
    assert (module["lan"], module["digest"]) == ("close", module_digest())
    started = of("systemd.services.immich-edge.serviceConfig.ExecStart")
    assert "/bin/caddy run --adapter caddyfile" in str(started)


def test_imported_and_not_enabled_it_changes_nothing(flakes: Flakes) -> None:
    built = [
        flakes.evaluate(f"nixosConfigurations.{name}.config.system.build.toplevel.drvPath", flake="home")
        for name in ("without", "imported", "home")
    ]
    assert built[0] == built[1] != built[2]


def test_the_test_with_a_virtual_machine_is_a_test(flakes: Flakes) -> None:
    """It cannot run here: its shape is all that can be looked at."""
    test = f"(import {flakes.folder}/exposure/tests/nixos/exposure.nix {{ module = ./module.nix; }})"
    shown = json.loads(
        flakes.nix.expression(
            f"{{ inherit ({test}) name testScript; nodes = builtins.attrNames {test}.nodes; }}"
        )
    )
    assert shown["name"] == "immich-exposure" and shown["nodes"] == ["machine"]
    compile(shown["testScript"], "testScript", "exec")
