"""Where the toolchain keeps its files: everything is in the project's `.toolchain/`, which git ignores."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
HOME = PROJECT / ".toolchain"
BIN = HOME / "bin"
PULUMI_BIN = HOME / "pulumi" / "bin"
LANGUAGE_HOST = HOME / "standins" / "language"
COMMAND_PLUGIN = HOME / "standins" / "command"
ENVIRONMENT_FILE = HOME / "env"
VENV_PYTHON = PROJECT / ".venv" / "bin" / "python"
