"""What the owner's commands need to know about a stack without starting Pulumi."""

from pathlib import Path

import yaml

from toolchain import paths
from toolchain.errors import ToolchainError

_KEY = "immich-exposure:keystore"
_DEVICES = "immich-exposure:devices"
_ADOPT = "immich-exposure:adopt"


def keystore(stack: str, project: Path = paths.PROJECT) -> Path:
    """The folder of the stack's keystore, as the program finds it: the config's `keystore`, or the default.

    `stack` may be `organization/name`. Raises ToolchainError if the stack's file cannot be read.
    """
    name, file = _file(stack, project)
    named = _config(file).get(_KEY)
    if named is not None and not isinstance(named, str):
        raise ToolchainError(f"{_KEY} in {file} must be the name of a folder in plain text; correct it.")
    return project / Path(named or f"stacks/keystore/{name}").expanduser()


def refuse_without_bundle(stack: str, device: str, project: Path = paths.PROJECT) -> None:
    """Refuse a device that was taken over and is not in `devices`: it has no bundle.

    Raises ToolchainError for such a device, and if the stack's file cannot be read.
    """
    config = _config(_file(stack, project)[1])
    adopt = config.get(_ADOPT)
    adopted = _names(adopt.get("devices") if isinstance(adopt, dict) else None)
    if device in adopted and device not in _names(config.get(_DEVICES)):
        raise ToolchainError(
            f"There is no bundle for {device}, which was taken over (adopt.devices) and has its certificate "
            f"already. To give it a new one, add {device} to devices and run `pulumi up` (see docs/adopt.md)."
        )


def _file(stack: str, project: Path) -> tuple[str, Path]:
    name = stack.rpartition("/")[2]
    return name, project / "stacks" / f"Pulumi.{name}.yaml"


def _config(file: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ToolchainError(f"{file} cannot be read: {error}. Correct it, or name another stack.") from error
    config = content.get("config") if isinstance(content, dict) else None
    return config if isinstance(config, dict) else {}


def _names(devices: object) -> set[object]:
    listed = devices if isinstance(devices, list) else []
    return {device["name"] for device in listed if isinstance(device, dict) and "name" in device}
