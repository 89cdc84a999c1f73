"""Evaluates and builds configurations as the lab's nixos-rebuild does, in its own store. Needs no root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.remote.remote_script import SERVER_FILES
from toolchain.paths import PROJECT

STAND_IN = PROJECT / "lab/nixos"

CONFIGURATION = """\
{ config, pkgs, ... }:

{
  imports = [
    ./lan-immich.nix
  ];

  networking.hostName = "immich";
  services.openssh.enable = true;
  services.tailscale.enable = true;
  environment.systemPackages = [ pkgs.curl ];
  system.stateVersion = "26.05";
}
"""
LAN_IMMICH = """\
{ ... }:

{
  services.immich = {
    enable = true;
    host = "0.0.0.0";
    port = 2283;
    openFirewall = true;
  };
}
"""

MODULE_FILES = (
    "Caddyfile",
    "surface.toml",
    "versions.json",
    "caddy/*.go",
    "caddy/go.*",
    "fail2ban/*/*.conf",
    "fail2ban/*/*.py",
    "nix/*.nix",
    "scripts/*.sh",
)
"""What makes the module, as patterns below server/."""


class NixError(Exception):
    """Nix refused; the text is what it said."""


@dataclass(frozen=True)
class Nix:
    """The evaluator with a private store. ``programs`` is the folder that holds caddy."""

    folder: Path
    programs: Path

    def evaluate(self, configuration: Path, attribute: str, **arguments: str) -> Any:
        """The value of an attribute of eval.nix, such as ``config.systemd.tmpfiles.rules``."""
        command = ["nix-instantiate", "--eval", "--strict", "--json"]
        return json.loads(self._run(command, configuration, attribute, arguments))

    def expression(self, text: str) -> str:
        """The value of a Nix expression as JSON, or what Nix says instead of one."""
        command = ["nix-instantiate", "--eval", "--strict", "--json", "--expr", text]
        try:
            return self._call(command)
        except NixError as error:
            return " ".join(str(error).split())

    def build(self, configuration: Path, **arguments: str) -> Path:
        """Build the generation of a configuration; returns its store path. Raises NixError."""
        built = self._run(["nix-build", "--no-out-link"], configuration, "toplevel", arguments)
        return Path(built.strip())

    def complaint(self, configuration: Path, **arguments: str) -> str:
        """What Nix says about a configuration that must not build; all white space is a blank.

        Raises AssertionError when it builds.
        """
        try:
            self.build(configuration, **arguments)
        except NixError as error:
            return " ".join(str(error).split())
        raise AssertionError("The configuration builds, but it must be refused.")

    def hash_path(self, folder: Path) -> str:
        """The hash that a fixed-output derivation of this folder has (SRI)."""
        command = ["nix", "--extra-experimental-features", "nix-command", "hash", "path", str(folder)]
        return self._call(command).strip()

    def warnings(self, configuration: Path) -> str:
        """The warnings of a configuration that evaluates."""
        command = [*self._command(["nix-instantiate"], configuration, "toplevel", {})]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=True)
        return "\n".join(line for line in done.stderr.splitlines() if line.startswith("trace: warning"))

    def _run(self, command: list[str], configuration: Path, attribute: str, given: dict[str, str]) -> str:
        return self._call(self._command(command, configuration, attribute, given))

    def _command(
        self, command: list[str], configuration: Path, attribute: str, given: dict[str, str]
    ) -> list[str]:
        arguments = {
            "configuration": str(configuration),
            "programs": str(self.programs),
            "tailscaleVersion": "1.102.5",
            **given,
        }
        words = [word for name, value in arguments.items() for word in ("--argstr", name, value)]
        return [*command, str(STAND_IN / "eval.nix"), "-A", attribute, *words]

    def _call(self, command: list[str]) -> str:
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NixError(done.stderr)
        return done.stdout

    def _environment(self) -> dict[str, str]:
        places = {
            "NIX_STORE_DIR": "store",
            "NIX_STATE_DIR": "state",
            "NIX_LOCALSTATE_DIR": "localstate",
            "NIX_LOG_DIR": "log",
            "NIX_CONF_DIR": "conf",
            "XDG_CACHE_HOME": "cache",
        }
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "NIX_REMOTE": "",
            "NIX_CONFIG": "substituters =\nsandbox = false\nbuild-users-group =\n",
            **{name: str(self.folder / place) for name, place in places.items()},
        }


@dataclass(frozen=True)
class ConfigFolder:
    """An /etc/nixos with our files in it, as `pulumi up` leaves it."""

    folder: Path

    @classmethod
    def exposed(cls, folder: Path, *options: str) -> ConfigFolder:
        """Lay out the same with our module imported and switched on.

        `options` are further lines, such as `lan = "keep";`.
        """
        made = cls.with_module(folder)
        lines = "".join(f"    {option}\n" for option in ("enable = true;", *options))
        made.write_default(f"  services.immich-exposure = {{\n{lines}  }};\n")
        return made

    @classmethod
    def with_module(cls, folder: Path) -> ConfigFolder:
        """Lay out the same with our module imported and nothing else said of it."""
        made = cls.on_the_lan(folder)
        for pattern in MODULE_FILES:
            for file in SERVER_FILES.glob(pattern):
                if not file.name.endswith("_test.go"):
                    copy = made.ours / file.relative_to(SERVER_FILES)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, copy)
        made.write_default("")
        made.replace("configuration.nix", "imports = [", "imports = [ ./immich-exposure")
        return made

    @classmethod
    def on_the_lan(cls, folder: Path) -> ConfigFolder:
        """Lay out a configuration that shows Immich to everybody at home."""
        folder.mkdir(parents=True)
        (folder / "configuration.nix").write_text(CONFIGURATION)
        (folder / "lan-immich.nix").write_text(LAN_IMMICH)
        return cls(folder)

    @property
    def configuration(self) -> Path:
        """The file that nixos-rebuild reads."""
        return self.folder / "configuration.nix"

    @property
    def ours(self) -> Path:
        """The folder of our module."""
        return self.folder / "immich-exposure"

    def write_default(self, text: str) -> None:
        """Write the file that imports the module."""
        (self.ours / "default.nix").write_text(f"{{\n  imports = [ ./nix ];\n{text}}}\n")

    def replace(self, name: str, old: str, new: str) -> None:
        """Change one place of a file. Raises AssertionError unless ``old`` stands there exactly once."""
        text = (self.folder / name).read_text()
        assert text.count(old) == 1, f"{name} holds {text.count(old)} times: {old}"
        (self.folder / name).write_text(text.replace(old, new))

    def add(self, line: str) -> None:
        """Add a definition to configuration.nix."""
        self.replace("configuration.nix", "  system.stateVersion", f"  {line}\n  system.stateVersion")


Unit = dict[str, list[str]]


def read_unit(generation: Path, name: str) -> Unit:
    """The settings of a unit with its drop-ins, in order; an empty value drops those before it."""
    folder = generation / "etc/systemd/system"
    settings: Unit = defaultdict(list)
    for file in (folder / name, *sorted((folder / f"{name}.d").glob("*.conf"))):
        for line in file.read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not value:
                settings[key] = []
            elif equals:
                settings[key].append(value)
    return settings
