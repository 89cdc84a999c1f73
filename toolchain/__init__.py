"""Programs the project runs: found where they are installed, built from pinned sources where they are not.

    python -m toolchain setup [NAME ...]    prepare everything (or only the named programs)
    python -m toolchain status              which programs are in use, and which are stand-ins
    python -m toolchain env                 `export` lines for a shell
    python -m toolchain keystore STACK      where a stack's keystore is
    python -m toolchain edge ARCH FILE      the edge for a server that is too small to compile it

The owner of an exposure needs only `env` and `keystore`, and for `env` the official Pulumi CLI is enough.
Everything runs in the project's virtual environment.
"""

from toolchain.errors import ToolchainError
from toolchain.programs import Program, program, pulumi_environment, pulumi_programs, stand_ins_in_use

__all__ = [
    "Program",
    "ToolchainError",
    "program",
    "pulumi_environment",
    "pulumi_programs",
    "stand_ins_in_use",
]
