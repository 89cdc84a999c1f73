"""Lays out the stand-in for nixpkgs: a copy of this folder with facts about the machine.

The copy is self-contained, because a flake may read nothing outside its inputs.
"""

import hashlib
import json
import platform
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
IMMICH_STUB = "/usr/bin/python3 /opt/lab-stub/stub_immich.py"
PROGRAMS = ("caddy", "tailscale")
NOT_NIXPKGS = ("README.md", "__pycache__", "etc", "eval.nix", "lay.py")


def lay(target: Path, programs: Path, *, programs_there: str = "/opt/lab") -> None:
    """Make ``target`` a folder that serves as nixpkgs.

    ``programs_there`` is where the server has the programs that are in ``programs`` here.
    """
    shutil.copytree(HERE, target, ignore=shutil.ignore_patterns(*NOT_NIXPKGS))
    for path in (target, *target.rglob("*")):
        # The same on every machine, whatever its umask, because the folder's hash goes into flake.lock.
        executable = path.is_dir() or path.name in ("nixos_rebuild.py", "switch_to_configuration.py")
        path.chmod(0o755 if executable else 0o644)
    (target / "facts.json").write_text(json.dumps(_facts(programs, programs_there), indent=2) + "\n")
    (target / "facts.json").chmod(0o644)


def _facts(programs: Path, programs_there: str) -> dict[str, Any]:
    """See facts.nix."""
    command = [str(programs / "tailscale"), "version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    return {
        "builder": f"{platform.machine()}-linux",
        "programs": programs_there,
        "hashes": {name: hashlib.sha256((programs / name).read_bytes()).hexdigest() for name in PROGRAMS},
        "tailscaleVersion": version,
        "immichStub": IMMICH_STUB,
    }


def flake_lock(inputs: Mapping[str, tuple[str, Path]]) -> str:
    """The flake.lock of a flake: input's name -> (``github:OWNER/REPO/REF`` as in flake.nix, laid folder).

    It looks like any user's. Nix takes a locked input from the store if the hash is there, so nothing is
    fetched; the folder must be in the store under the name ``source`` (nixos_rebuild.py adds it). The inputs
    have no inputs of their own.
    """
    nodes: dict[str, Any] = {"root": {"inputs": {name: name for name in inputs}}}
    for name, (url, folder) in inputs.items():
        owner, repo, *ref = url.removeprefix("github:").split("/")
        source = {"type": "github", "owner": owner, "repo": repo}
        digest = nar_hash(folder)
        nodes[name] = {
            "locked": {
                **source,
                "rev": hashlib.sha1(digest, usedforsecurity=False).hexdigest(),
                "narHash": f"sha256-{b64encode(digest).decode()}",
                "lastModified": 1767225600,
            },
            "original": {**source, **({"ref": ref[0]} if ref else {})},
        }
    return json.dumps({"nodes": nodes, "root": "root", "version": 7}, indent=2) + "\n"


def nar_hash(path: Path) -> bytes:
    """SHA-256 of a file tree in Nix's archive format (Dolstra's thesis, figure 5.2)."""
    return hashlib.sha256(_text("nix-archive-1") + _archive(path)).digest()


def _archive(path: Path) -> bytes:
    if path.is_symlink():
        inner = _text("type", "symlink", "target", str(path.readlink()))
    elif path.is_dir():
        entries = (
            _text("entry", "(", "name", entry.name, "node") + _archive(entry) + _text(")")
            for entry in sorted(path.iterdir(), key=lambda entry: entry.name.encode())
        )
        inner = _text("type", "directory") + b"".join(entries)
    else:
        executable = ("executable", "") if path.stat().st_mode & 0o100 else ()
        inner = _text("type", "regular", *executable, "contents") + _bytes(path.read_bytes())
    return _text("(") + inner + _text(")")


def _text(*words: str) -> bytes:
    return b"".join(_bytes(word.encode()) for word in words)


def _bytes(data: bytes) -> bytes:
    """A string of the format: its length, the bytes, zeros up to a multiple of 8."""
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)
