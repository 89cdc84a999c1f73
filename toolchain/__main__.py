"""Command line of the toolchain."""

import argparse
import shlex
import sys
from pathlib import Path

from toolchain import edge, installation, programs, stacks, system
from toolchain.builds import PRODUCTS
from toolchain.errors import ToolchainError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 with a message on stderr if something is missing."""
    parser = argparse.ArgumentParser(prog="python -m toolchain", description="Programs the project runs.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    setup = verbs.add_parser("setup", help="make everything ready")
    setup.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(PRODUCTS)}")
    verbs.add_parser("packages", help="install the system packages that are missing")
    verbs.add_parser("status", help="which programs are in use")
    verbs.add_parser("env", help="export lines for a shell")
    keystore = verbs.add_parser("keystore", help="where a stack's keystore is")
    keystore.add_argument("stack", metavar="STACK")
    keystore.add_argument("--device", help="refuse a device that was taken over, and so has no bundle there")
    build = verbs.add_parser("edge", help="build the edge for a server that is too small to do it")
    build.add_argument("architecture", metavar="amd64|arm64")
    build.add_argument("file", metavar="FILE", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.verb == "setup":
            installation.setup(options.names)
        elif options.verb == "packages":
            system.ensure()
        elif options.verb == "status":
            return status()
        elif options.verb == "keystore":
            if options.device is not None:
                stacks.refuse_without_bundle(options.stack, options.device)
            print(stacks.keystore(options.stack))
        elif options.verb == "edge":
            build_edge(options.architecture, options.file)
        else:
            programs.program("pulumi")
            print(f"export PATH={shlex.quote(programs.pulumi_path())}")
    except ToolchainError as error:
        print(f"toolchain: {error}", file=sys.stderr)
        return 1
    return 0


def build_edge(architecture: str, file: Path) -> None:
    """Build the edge and print how a configuration uses it."""
    digest = edge.build(architecture, file)
    print(f"{file} is the edge for {architecture}. In a file of your configuration that is next to it and")
    print("begins with { lib, pkgs, ... }: write")
    print("  services.immich-exposure.package = import ./immich-exposure/nix/prebuilt.nix {")
    print(f'    inherit lib pkgs; file = ./{file.name}; sha256 = "{digest}";')
    print("  };")


def status() -> int:
    """Print a line for each program; return 1 if one is missing."""
    found = programs.all_programs()
    for entry in found:
        kind = entry.kind if entry.path.exists() else "missing"
        print(f"{entry.name:<24} {entry.version:<22} {kind:<9} {entry.path}")
    return 0 if all(entry.path.exists() for entry in found) else 1


if __name__ == "__main__":
    sys.exit(main())
