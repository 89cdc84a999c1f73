"""The edge for a server that is too small to compile it: cross-compiled here, from the same pinned sources.

The same sources, architecture and Go give the same bytes on every machine, in every folder: no path, time,
version control data or linker id is included. The flags are those of nixpkgs' buildGoModule with
server/nix/package.nix: modules vendored (so go.sum's hashes are not written into the program),
-trimpath, no C, -s -w -buildid=. nixpkgs' own Go contains store paths of time zones and service names, so
Nix's builds differ in those.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from toolchain import paths
from toolchain.builds import GO_WITH_TOOLCHAINS, parse_version
from toolchain.errors import ToolchainError

# Another release would build a different program. Any Go from 1.21 on downloads this one.
GO_RELEASE = "go1.26.8"
ARCHITECTURES = ("amd64", "arm64")
SOURCE = paths.PROJECT / "server" / "caddy"
LINKER_FLAGS = "-s -w -buildid="


def build(architecture: str, output: Path, source: Path = SOURCE) -> str:
    """Build the edge for Linux on `architecture` (amd64 or arm64) and return its SHA-256 in hex.

    Raises ToolchainError if there is no Go or the build fails; `output` is then unchanged.
    """
    if architecture not in ARCHITECTURES:
        raise ToolchainError(f"The edge is built for {' or '.join(ARCHITECTURES)}, not for {architecture}.")
    environment = build_environment(architecture)
    _require_go(environment)
    with tempfile.TemporaryDirectory(prefix="edge-") as folder:
        module = Path(folder) / "caddy"
        module.mkdir()
        for name in source_files(source):
            shutil.copyfile(source / name, module / name)
        _go(module, environment, "mod", "vendor")
        _go(module, environment, *build_arguments())
        content = (module / "edge").read_bytes()
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.chmod(0o755)
    unfinished.rename(output)
    return hashlib.sha256(content).hexdigest()


def source_files(source: Path = SOURCE) -> list[str]:
    """The program's source files, as server/nix/package.nix selects them."""
    return sorted(
        path.name
        for path in source.iterdir()
        if path.suffix == ".go" and not path.name.endswith("_test.go") or path.name in ("go.mod", "go.sum")
    )


def build_arguments() -> tuple[str, ...]:
    """The arguments of `go`, once the modules are in vendor/."""
    flags = ("-mod=vendor", "-trimpath", "-buildvcs=false", f"-ldflags={LINKER_FLAGS}")
    return ("build", *flags, "-o", "edge", ".")


def build_environment(architecture: str) -> dict[str, str]:
    """The environment of `go`: everything that could change the program is set, whatever the user's is."""
    ours = {name: value for name, value in os.environ.items() if name not in _DECIDING}
    # GOENV=off ignores the user's `go env -w`, except where modules come from and are stored.
    kept = {name: _go_setting(name) for name in _TRANSPORT}
    return {
        **ours,
        **{name: value for name, value in kept.items() if value},
        "GOENV": "off",
        "GOTOOLCHAIN": GO_RELEASE,
        "GOOS": "linux",
        "GOARCH": architecture,
        "CGO_ENABLED": "0",
        "GOWORK": "off",
    }


_DECIDING = (
    *("GOFLAGS", "GOEXPERIMENT", "GOAMD64", "GOARM64", "GOFIPS140", "GOROOT", "GOCACHEPROG", "GO111MODULE"),
    *("GODEBUG", "GO_EXTLINK_ENABLED", "GOENV", "GOTOOLCHAIN"),
)
_TRANSPORT = ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOMODCACHE", "GOCACHE")


def _go_setting(name: str) -> str:
    try:
        shown = subprocess.run(["go", "env", name], cwd="/", capture_output=True, text=True)
    except OSError:
        return ""
    return shown.stdout.strip()


def _require_go(environment: dict[str, str]) -> None:
    """Raise ToolchainError unless there is a Go that is, or downloads, the pinned release."""
    remedy = (
        f"Install Go from https://go.dev/dl/ ({'.'.join(map(str, GO_WITH_TOOLCHAINS[:2]))} or newer; it "
        f"fetches {GO_RELEASE} automatically), or leave the build to the server."
    )
    if shutil.which("go") is None:
        raise ToolchainError(f"The edge is to be built here, but there is no `go` on PATH. {remedy}")
    shown = subprocess.run(
        ["go", "env", "GOVERSION"], cwd="/", env=environment, capture_output=True, text=True
    )
    if shown.returncode != 0 or parse_version(shown.stdout) != parse_version(GO_RELEASE):
        seen = shown.stdout.strip() or shown.stderr.strip() or "nothing"
        raise ToolchainError(f"The edge needs {GO_RELEASE}, and `go` on PATH gives: {seen}. {remedy}")


def _go(module: Path, environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        ["go", *arguments],
        cwd=module,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise ToolchainError(
            f"`go {arguments[0]} {arguments[1]}` for the edge failed. Check the network (it fetches Go "
            f"modules the first time) and run it again.\n{done.stderr.strip()}"
        )
