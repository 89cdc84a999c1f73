"""The NixOS module as plain files: the list, their digest, and their export to a repository.

`python -m components.remote.module_files DIR` exports the module to DIR, for a configuration in a repository.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from components.config.home import Immich, Lan
from components.remote.remote_script import SERVER_FILES, PayloadFile

FOLDER = "immich-exposure"
"""The module's folder next to configuration.nix."""

MARK = ".immich-exposure"
"""The file that marks a folder as ours; a folder without it is never replaced or removed."""

MADE_BY = "# Made by immich-exposure; do not edit, because the next run overwrites it."
"""The first line of every Nix file that is written for a configuration."""


@dataclass(frozen=True)
class Edge:
    """The edge's program, built elsewhere: its path on the server, and its hash."""

    place: str
    sha256: str


class ExportError(RuntimeError):
    """The folder cannot be written; the message is a full sentence with the remedy."""


def module_files(folder: Path = SERVER_FILES) -> tuple[PayloadFile, ...]:
    """Return the module's files; those that decide who gets in come first.

    They are the same for everybody: the owner's settings come from options or are read on the server.
    `folder` can be `server/` of another checkout.
    """
    return _ours() if folder == SERVER_FILES else _read(folder)


@functools.cache
def _ours() -> tuple[PayloadFile, ...]:
    """Read the files once: a run needs them fourteen times."""
    return _read(SERVER_FILES)


def _read(folder: Path) -> tuple[PayloadFile, ...]:
    return tuple(
        PayloadFile(path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8"))
        for path in _paths(folder)
    )


def _paths(folder: Path) -> Iterator[Path]:
    yield folder / "Caddyfile"
    yield folder / "surface.toml"
    yield folder / "versions.json"
    yield from sorted((folder / "nix").glob("*.nix"))
    yield from (
        path
        for path in sorted((folder / "fail2ban").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    )
    yield from sorted((folder / "scripts").glob("*.sh"))
    program = folder / "caddy"
    yield from (path for path in sorted(program.glob("*.go")) if not path.name.endswith("_test.go"))
    yield program / "go.mod"
    yield program / "go.sum"


def digest(files: Sequence[PayloadFile]) -> str:
    """Return the SHA-256 over all files; `immich-exposure module` prints it on a server that has them."""
    lines = [f"{file.path} {hashlib.sha256(file.text.encode()).hexdigest()}\n" for file in files]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def module_digest() -> str:
    """Return the digest of the module in this checkout."""
    return digest(module_files())


def default_nix(immich: Immich, lan: Lan, edge: Edge | None = None) -> str:
    """Return default.nix for `module: managed`: it imports the module and switches it on.

    `edge` is a program built elsewhere; None leaves the build to Nix.
    """
    options = ["enable = true;", f'lan = "{lan}";', f"immich.managed = {str(immich.managed).lower()};"]
    if not immich.managed:
        options += [f'immich.address = "{immich.address}";', f"immich.port = {immich.port};"]
    if edge is not None:
        options += [
            "package = import ./nix/prebuilt.nix {",
            "  inherit lib pkgs;",
            f"  file = {edge.place};",
            f'  sha256 = "{edge.sha256}";',
            "};",
        ]
    head = "{\n" if edge is None else "{ lib, pkgs, ... }:\n\n{\n"
    body = "".join(f"    {option}\n" for option in options)
    return f"{MADE_BY}\n{head}{_IMPORTS}\n  services.immich-exposure = {{\n{body}  }};\n}}\n"


_IMPORTS = """\
  # home.nix is written on the server: what was imported in our place, such as ./lan-immich.nix, still counts.
  imports = [ ./nix ] ++ (if builtins.pathExists ./home.nix then [ ./home.nix ] else [ ]);
"""


def entry_and_module(immich: Immich, lan: Lan, edge: Edge | None = None) -> tuple[PayloadFile, ...]:
    """Return all that `module: managed` puts next to configuration.nix, by its paths within `FOLDER`."""
    return (PayloadFile("default.nix", default_nix(immich, lan, edge)), *module_files())


def in_folder(files: Iterable[PayloadFile]) -> tuple[PayloadFile, ...]:
    """Return the same files as `files.sh install` takes them."""
    return tuple(PayloadFile(f"{FOLDER}/{file.path}", file.text) for file in files)


EXPORTED_DEFAULT = f"""{MADE_BY}
#
# To use it, import this folder and add to the configuration:
#   services.immich-exposure.enable = true;
{{
  imports = [ ./nix ];
}}
"""


def export(folder: Path) -> None:
    """Write the module to `folder`, which is new, empty, or an earlier export.

    The mark lists our files; only those of an earlier export are removed. Raises `ExportError` for a folder
    that holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file; name a folder for the module.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise ExportError(f"{folder} holds files that are not the module's; name a folder of its own.")
    wanted = {"default.nix": EXPORTED_DEFAULT} | {file.path: file.text for file in module_files()}
    for name in _exported(folder):
        if name not in wanted:
            (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # it holds another file
                (folder / name).parent.rmdir()
    wanted[MARK] = "\n".join([MADE_BY, *sorted(wanted), ""])
    for name, text in wanted.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _exported(folder: Path) -> list[str]:
    """Return the files listed in the mark of an earlier export, if their paths are inside the folder."""
    try:
        listed = (folder / MARK).read_text(encoding="utf-8").splitlines()[1:]
    except FileNotFoundError:
        return []
    return [name for name in listed if name and not name.startswith("/") and ".." not in name.split("/")]


def main(arguments: Sequence[str]) -> int:
    """Export the module to the folder that the only argument names."""
    parser = argparse.ArgumentParser(
        prog="python -m components.remote.module_files",
        description="Write the NixOS module into a folder of your own repository.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder; it is created if necessary")
    folder: Path = parser.parse_args(arguments).folder
    try:
        export(folder)
    except ExportError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        problem = f"{error.filename or folder} cannot be written ({error.strerror})"
        print(f"{problem}; name another folder for the module.", file=sys.stderr)
        return 1
    print(f"The module is in {folder} (version {module_digest()[:12]}).")
    print("Import that folder in your configuration and set services.immich-exposure.enable = true.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
