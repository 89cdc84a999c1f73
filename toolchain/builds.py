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

# The first Go that downloads another Go if a module requires it.
GO_WITH_TOOLCHAINS = (1, 21, 0)


@dataclass(frozen=True)
class Product:
    """One program: its module's folder, its package, the linker's extra flags, its destination.

    `package` is "." for our own main package, otherwise an import path from the module's dependencies.
    `first_build` is roughly how many seconds a build takes if nothing is cached.
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
        """The path of the built program."""
        return self.folder / self.name

    @property
    def stamp(self) -> Path:
        """The file with the digest of the sources that the program was built from."""
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
    """Build the product unless it exists and its sources are unchanged.

    Raises ToolchainError.
    """
    if is_built(product):
        return
    wanted = digest(product)
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


def is_built(product: Product) -> bool:
    """Whether the product exists and was built from the current sources."""
    if not product.path.exists() or not product.stamp.exists():
        return False
    return product.stamp.read_text().strip() == digest(product)


def digest(product: Product) -> str:
    """SHA-256 over everything that determines the program.

    That is go.mod, go.sum, the flags, and for our own programs the Go files.
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
    """Raise ToolchainError if there is no Go that can build the module.

    From 1.21 on, a Go that is too old downloads the one that go.mod requires (https://go.dev/doc/toolchain).
    """
    needed = go_version_of(product.module)
    wanted = ".".join(map(str, needed))
    remedy = f"Install Go {wanted} or newer from https://go.dev/dl/ and put it on PATH."
    if shutil.which("go") is None:
        raise ToolchainError(f"{product.name} is built from source, but there is no `go` on PATH. {remedy}")
    installed = _go_version(product.module, "local")
    if parse_version(installed) >= needed:
        return
    if parse_version(installed) >= GO_WITH_TOOLCHAINS:
        print(f"fetching Go {wanted} with the installed {installed} ...", file=sys.stderr, flush=True)
        if parse_version(_go_version(product.module, "auto")) >= needed:
            return
    raise ToolchainError(
        f"{product.name} needs Go {wanted}, but `go` on PATH is {installed or 'unusable'} and fetches no "
        f"newer one. {remedy}"
    )


def _go_version(module: Path, toolchain: str) -> str:
    """The version of the `go` that builds the module; empty if it does not run."""
    shown = subprocess.run(
        ["go", "env", "GOVERSION"],
        cwd=module,
        env={**go_environment(), "GOTOOLCHAIN": toolchain},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return shown.stdout.strip() if shown.returncode == 0 else ""


def go_version_of(module: Path) -> tuple[int, ...]:
    """The Go version that the module's go.mod requires."""
    for line in (module / "go.mod").read_text().splitlines():
        if line.startswith("go "):
            return parse_version(line)
    return (1, 0, 0)


def parse_version(text: str) -> tuple[int, ...]:
    """The first three numbers of a version such as `v3.259.0` or `go1.26`.

    Missing ones are 0; a text without numbers is 0.0.0.
    """
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)


def go_environment() -> dict[str, str]:
    """The environment of every `go` call: no C compiler; an old Go may download the one that go.mod names.

    `auto` is set because Fedora's Go defaults to `local`.
    """
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "auto"}


def _build(product: Product) -> None:
    """Build under a temporary name and rename, so that an interrupted build keeps the old program."""
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
            f"Building {product.name} failed. Check the network (it fetches Go modules the first time) and "
            f"run `{' '.join(command[:3])} {product.package}` in {product.module}.\n{built.stderr.strip()}"
        )
    unfinished.rename(product.path)
