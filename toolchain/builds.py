"""Programs built from Go modules, each pinned by a go.mod here and rebuilt only when its sources change."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from toolchain import paths
from toolchain.errors import ToolchainError

PULUMI_VERSION = "3.259.0"
TAILSCALE_VERSION = "1.102.5"
ZLINT_VERSION = "3.7.3"


@dataclass(frozen=True)
class Product:
    """One program: where its module lies, which package it is, the linker's extra flags, where it goes.

    `package` is "." for a main package of our own, else an import path out of the module's dependencies.
    `first_build` is about how many seconds a build takes when nothing is cached.
    """

    name: str
    module: Path
    package: str
    version: str
    first_build: int
    linker_flags: str = ""
    folder: Path = paths.BIN

    @property
    def path(self) -> Path:
        """Where the program lies once built."""
        return self.folder / self.name

    @property
    def stamp(self) -> Path:
        """The file that holds the digest of what the program was built from."""
        return paths.HOME / "stamps" / self.name


_TAILSCALE_FLAGS = (
    f"-X tailscale.com/version.shortStamp={TAILSCALE_VERSION} "
    f"-X tailscale.com/version.longStamp={TAILSCALE_VERSION}-lab"
)

PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        Product(
            "pulumi",
            paths.PROJECT / "toolchain" / "pulumi",
            "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
            PULUMI_VERSION,
            300,
            f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{PULUMI_VERSION}",
            paths.PULUMI_BIN,
        ),
        Product("caddy", paths.PROJECT / "server" / "caddy", ".", "server/caddy/go.mod", 90),
        Product(
            "tailscale",
            paths.PROJECT / "lab" / "internet",
            "tailscale.com/cmd/tailscale",
            TAILSCALE_VERSION,
            60,
            _TAILSCALE_FLAGS,
        ),
        Product(
            "tailscaled",
            paths.PROJECT / "lab" / "internet",
            "tailscale.com/cmd/tailscaled",
            TAILSCALE_VERSION,
            90,
            _TAILSCALE_FLAGS,
        ),
        Product(
            "zlint",
            paths.PROJECT / "toolchain" / "zlint",
            "github.com/zmap/zlint/v3/cmd/zlint",
            ZLINT_VERSION,
            20,
        ),
        Product("lab-internet", paths.PROJECT / "lab" / "internet", ".", "lab/internet/go.mod", 90),
    )
}


def ensure(product: Product) -> None:
    """Build the product unless it is there and its sources are the ones it was built from.

    Raises ToolchainError.
    """
    wanted = digest(product)
    if product.path.exists() and product.stamp.exists() and product.stamp.read_text().strip() == wanted:
        return
    require_go(product)
    print(
        f"building {product.name} (about {product.first_build} s the first time) ...",
        file=sys.stderr,
        flush=True,
    )
    began = time.monotonic()
    _build(product)
    product.stamp.parent.mkdir(parents=True, exist_ok=True)
    product.stamp.write_text(wanted + "\n")
    print(f"built {product.name} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def digest(product: Product) -> str:
    """SHA-256 over all that decides the program:

    go.mod, go.sum, our own Go files when it is ours, and the flags.
    """
    names = ["go.mod", "go.sum"]
    files = [product.module / name for name in names]
    if product.package == ".":
        files += sorted(f for f in product.module.rglob("*.go") if not f.name.endswith("_test.go"))
    state = hashlib.sha256(f"{product.package}\n{product.linker_flags}\n".encode())
    for file in files:
        try:
            content = file.read_bytes()
        except FileNotFoundError as error:
            raise ToolchainError(
                f"{file} is missing, so {product.name} cannot be built. Restore it with `git checkout`."
            ) from error
        state.update(f"{file.relative_to(product.module)}\n{len(content)}\n".encode() + content)
    return state.hexdigest()


def require_go(product: Product) -> None:
    """Raise ToolchainError when there is no Go or one older than the module asks for."""
    needed = go_version_of(product.module)
    wanted = ".".join(map(str, needed))
    remedy = f"Install Go {wanted} or newer from https://go.dev/dl/ and put it on PATH."
    if shutil.which("go") is None:
        raise ToolchainError(f"{product.name} is built from source, but there is no `go` on PATH. {remedy}")
    shown = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, env=go_environment())
    found = parse_version(shown.stdout)
    if found < needed:
        raise ToolchainError(
            f"{product.name} needs Go {wanted}, but `go` on PATH is "
            f"{shown.stdout.strip() or 'unusable'}. {remedy}"
        )


def go_version_of(module: Path) -> tuple[int, ...]:
    """The Go version that the module's go.mod asks for."""
    for line in (module / "go.mod").read_text().splitlines():
        if line.startswith("go "):
            return parse_version(line)
    return (1, 0, 0)


def parse_version(text: str) -> tuple[int, ...]:
    """The first three numbers of a version text such as `v3.259.0` or `go1.26`;

    missing ones are 0, none found is 0.0.0.
    """
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)


def go_environment() -> dict[str, str]:
    """The environment of every `go` call: no C compiler needed, no other Go fetched behind our back."""
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}


def _build(product: Product) -> None:
    """Build under another name and rename, so that an interrupted build leaves the old program in place."""
    product.folder.mkdir(parents=True, exist_ok=True)
    unfinished = product.folder / f".{product.name}.{os.getpid()}"
    flags = f"-s -w {product.linker_flags}".strip()
    command = ["go", "build", "-trimpath", f"-ldflags={flags}", "-o", str(unfinished), product.package]
    built = subprocess.run(
        command,
        cwd=product.module,
        env=go_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if built.returncode != 0:
        unfinished.unlink(missing_ok=True)
        raise ToolchainError(
            f"Building {product.name} failed. Check the network (it brings Go modules at first) and run "
            f"`{' '.join(command[:3])} {product.package}` in {product.module}.\n{built.stderr.strip()}"
        )
    unfinished.rename(product.path)
