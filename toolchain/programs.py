"""Which programs are in use: the official ones where they exist, otherwise ours."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from toolchain import paths
from toolchain.builds import PRODUCTS, parse_version
from toolchain.errors import ToolchainError

# The first version that understands `requiredPulumiVersion` in Pulumi.yaml.
OLDEST_PULUMI = (3, 219, 0)
OLDEST_COMMAND_PLUGIN = (1, 2, 0)


@dataclass(frozen=True)
class Program:
    """A program in use. `kind` is official, built or stand-in."""

    name: str
    version: str
    kind: str
    path: Path


def program(name: str) -> Path:
    """The program's path. Names: pulumi, caddy, tailscale, tailscaled, zlint, lab-internet.

    pulumi is the official one on PATH if it is new enough; the others are always our pinned builds.
    Raises ToolchainError if it has not been built yet.
    """
    if name not in PRODUCTS:
        raise ToolchainError(f"There is no program {name} here. Known are: {', '.join(sorted(PRODUCTS))}.")
    if name == "pulumi" and (official := official_pulumi()):
        return official.path
    built = PRODUCTS[name].path
    if name == "pulumi" and not built.exists():
        raise ToolchainError(
            f"There is no Pulumi CLI {'.'.join(map(str, OLDEST_PULUMI))} or newer on PATH. Install it "
            "(https://www.pulumi.com/docs/install/), then run `pulumi install`. Where that is not "
            "available, `make setup` on Debian or Ubuntu builds it from source."
        )
    if not built.exists():
        raise ToolchainError(
            f"{name} has not been built yet. Run `make setup` (or `python -m toolchain setup`)."
        )
    return built


def pulumi_environment() -> dict[str, str]:
    """This process's environment with PATH such that `pulumi` and its plugins are found.

    A built CLI comes first (otherwise an official one that is too old would win), stand-ins come last, and
    each stand-in only while its official counterpart is missing. Nothing else is changed: backend and
    passphrase are the user's.
    """
    return {**os.environ, "PATH": pulumi_path()}


def pulumi_path() -> str:
    """The PATH of `pulumi_environment`."""
    folders = [folder for folder in _outside_path() if folder]
    if official_pulumi() is None:
        folders.insert(0, str(PRODUCTS["pulumi"].path.parent))
    if official_language_host() is None:
        folders.append(str(paths.LANGUAGE_HOST))
    if official_command_plugin() is None:
        folders.append(str(paths.COMMAND_PLUGIN))
    return os.pathsep.join(folders)


def pulumi_programs() -> list[Program]:
    """The Pulumi CLI, the Python language host and the command plugin that a run uses, in this order."""
    host = official_language_host() or _stand_in(paths.LANGUAGE_HOST, "pulumi-language-python", "3.259.0")
    plugin = official_command_plugin() or _stand_in(paths.COMMAND_PLUGIN, "pulumi-resource-command", "1.2.1")
    return [official_pulumi() or _built("pulumi"), host, plugin]


def all_programs() -> list[Program]:
    """Every program of the toolchain."""
    return pulumi_programs() + [_built(name) for name in PRODUCTS if name != "pulumi"]


def stand_ins_in_use() -> list[Program]:
    """The stand-ins that a run of `pulumi` uses now; empty if everything is official."""
    return [found for found in pulumi_programs() if found.kind == "stand-in"]


def official_pulumi() -> Program | None:
    """The Pulumi CLI on the user's PATH, if it is new enough."""
    path = _which("pulumi")
    if path is None:
        return None
    version = _pulumi_version(path)
    if parse_version(version) < OLDEST_PULUMI:
        return None
    return Program("pulumi", version, "official", path)


def official_language_host() -> Program | None:
    """`pulumi-language-python` on the user's PATH, or next to the official CLI."""
    path = _which("pulumi-language-python") or _beside_pulumi("pulumi-language-python")
    if path is None:
        return None
    cli = official_pulumi()
    return Program("pulumi-language-python", cli.version if cli else "unknown", "official", path)


def official_command_plugin() -> Program | None:
    """`pulumi-resource-command` on the user's PATH, or 1.2 or newer in the plugin folder of the CLI."""
    path = _which("pulumi-resource-command")
    if path:
        return Program("pulumi-resource-command", "unknown", "official", path)
    for folder in _plugin_folders():
        version = folder.name.removeprefix("resource-command-v")
        found = folder / "pulumi-resource-command"
        numbers = parse_version(version)
        if numbers >= OLDEST_COMMAND_PLUGIN and numbers[0] == OLDEST_COMMAND_PLUGIN[0] and found.exists():
            return Program("pulumi-resource-command", version, "official", found)
    return None


def _built(name: str) -> Program:
    product = PRODUCTS[name]
    return Program(name, product.version, "built", product.path)


def _stand_in(folder: Path, name: str, version: str) -> Program:
    return Program(name, version, "stand-in", folder / name)


def _outside_path() -> list[str]:
    """The user's PATH without our own additions (in a shell that has sourced `.toolchain/env`)."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [folder for folder in folders if not Path(folder).is_relative_to(paths.HOME)]


def _which(name: str) -> Path | None:
    found = shutil.which(name, path=os.pathsep.join(_outside_path()))
    return Path(found) if found else None


def _beside_pulumi(name: str) -> Path | None:
    cli = official_pulumi()
    if cli is None:
        return None
    candidate = cli.path.resolve().parent / name
    return candidate if candidate.exists() else None


def _plugin_folders() -> Iterator[Path]:
    home = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    yield from sorted((home / "plugins").glob("resource-command-v*"), reverse=True)


@lru_cache
def _pulumi_version(path: Path) -> str:
    """The version of the CLI at `path`, without the leading v; empty if it does not run."""
    environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        shown = subprocess.run([path, "version"], capture_output=True, text=True, env=environment, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return shown.stdout.strip().removeprefix("v") if shown.returncode == 0 else ""
