"""What the owner's commands must know of a stack without starting Pulumi."""

from pathlib import Path

import yaml

from toolchain import paths
from toolchain.errors import ToolchainError

_KEY = "immich-exposure:keystore"


def keystore(stack: str, project: Path = paths.PROJECT) -> Path:
    """The folder of the stack's keystore, as the program finds it: the config's `keystore`, else the default.

    `stack` may be `organization/name`. Raises ToolchainError when the stack's file cannot be read.
    """
    name = stack.rpartition("/")[2]
    file = project / "stacks" / f"Pulumi.{name}.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ToolchainError(f"{file} cannot be read: {error}. Correct it, or name another stack.") from error
    config = content.get("config") if isinstance(content, dict) else None
    named = config.get(_KEY) if isinstance(config, dict) else None
    if named is not None and not isinstance(named, str):
        raise ToolchainError(f"{_KEY} in {file} must be the name of a folder in plain text; correct it.")
    return project / Path(named or f"stacks/keystore/{name}").expanduser()
