"""`setup`: prepare everything, skipping what is ready already."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from toolchain import builds, paths, programs, system
from toolchain.builds import Product
from toolchain.errors import ToolchainError

COMMAND_PLUGIN_VERSION = "1.2.1"
_SDK = "github.com/pulumi/pulumi/sdk/v3"
_SDK_SCRIPTS = ("cmd/pulumi-language-python-exec", "dist/pulumi-resource-pulumi-python")


def setup(names: Sequence[str] = ()) -> None:
    """Prepare the toolchain: system packages, programs, stand-ins, environment file.

    With names, only those programs are built, and no packages are installed. Raises ToolchainError.
    """
    unknown = [name for name in names if name not in builds.PRODUCTS]
    if unknown:
        raise ToolchainError(f"Unknown: {', '.join(unknown)}. Known names are: {', '.join(builds.PRODUCTS)}.")
    wanted = [builds.PRODUCTS[name] for name in names or builds.PRODUCTS]
    if programs.official_pulumi() is not None:
        wanted = [product for product in wanted if product.name != "pulumi"]
    missing = [product for product in wanted if not builds.is_built(product)]
    if missing and not names:
        system.ensure([system.GO])
    announce(missing)
    if not names:
        system.ensure()
    for product in wanted:
        builds.ensure(product)
    if not names or "pulumi" in names:
        install_language_host()
        install_command_plugin()
        write_environment_file()


def announce(missing: Sequence[Product]) -> None:
    """Before anything slow starts, say how long it will take, and fail if there is no suitable Go."""
    if not missing:
        return
    builds.require_go(missing[0])
    minutes = -(-sum(product.first_build for product in missing) // 60)
    print(
        f"to be built from source: {', '.join(product.name for product in missing)}; about {minutes} minutes "
        "on two cores the first time, and about 7 GB of disk",
        file=sys.stderr,
        flush=True,
    )


def install_language_host() -> None:
    """Install the stand-in for the Python language host, or remove it if the official one exists."""
    if programs.official_language_host():
        shutil.rmtree(paths.LANGUAGE_HOST, ignore_errors=True)
        return
    sdk = sdk_folder() / "python"
    paths.LANGUAGE_HOST.mkdir(parents=True, exist_ok=True)
    for script in _SDK_SCRIPTS:
        _place(paths.LANGUAGE_HOST / Path(script).name, (sdk / script).read_text())
    executor = paths.LANGUAGE_HOST / "pulumi-language-python-exec"
    _place(
        paths.LANGUAGE_HOST / "pulumi-language-python",
        wrapper("toolchain.standins.language_python", "--use-executor", str(executor)),
    )


def install_command_plugin() -> None:
    """Let the CLI download the official plugin, or install the stand-in if that fails.

    The download is tried once, not at each setup.
    """
    if programs.official_command_plugin() is None and not paths.COMMAND_PLUGIN.exists():
        fetch_command_plugin()
    if programs.official_command_plugin():
        shutil.rmtree(paths.COMMAND_PLUGIN, ignore_errors=True)
        return
    paths.COMMAND_PLUGIN.mkdir(parents=True, exist_ok=True)
    _place(paths.COMMAND_PLUGIN / "pulumi-resource-command", wrapper("toolchain.standins.command_plugin"))


def fetch_command_plugin() -> None:
    """Ask the CLI for the official plugin. Failure is not an error, because there is the stand-in."""
    command = [str(programs.program("pulumi")), "plugin", "install", "resource", "command"]
    print("fetching the official command plugin ...", file=sys.stderr, flush=True)
    try:
        fetched = subprocess.run(
            [*command, COMMAND_PLUGIN_VERSION],
            env={**programs.pulumi_environment(), "PULUMI_SKIP_UPDATE_CHECK": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        print("the command plugin could not be fetched in time, using the stand-in", file=sys.stderr)
        return
    if fetched.returncode != 0:
        print("the command plugin cannot be fetched here, using the stand-in", file=sys.stderr)


def sdk_folder() -> Path:
    """The Pulumi SDK in the Go module cache, at the version of our go.mod; downloaded if missing."""
    cli = builds.PRODUCTS["pulumi"]
    builds.require_go(cli)
    fetched = subprocess.run(
        ["go", "mod", "download", "-json", _SDK],
        cwd=cli.module,
        env=builds.go_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if fetched.returncode != 0:
        raise ToolchainError(
            f"The Go module {_SDK} cannot be fetched, and the Python language host's scripts come from it. "
            "Check the network, or install the official Pulumi CLI from "
            f"https://www.pulumi.com/docs/install/.\n{fetched.stderr.strip()}"
        )
    return Path(json.loads(fetched.stdout)["Dir"])


def wrapper(module: str, *arguments: str) -> str:
    """A shell script that runs `main` of one of this project's modules with the project's interpreter.

    -I keeps the user's program folder out of the stand-in's imports. If the engine interrupts while these are
    still running, as at the end of a run that failed early, it gets no traceback.
    """
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        f"sys.path.insert(0, {str(paths.PROJECT)!r}); from {module} import main; main()"
    )
    words = " ".join(shlex.quote(word) for word in (str(paths.VENV_PYTHON), "-I", "-c", code, *arguments))
    return f'#!/bin/sh\nexec {words} "$@"\n'


def write_environment_file() -> None:
    """Write the file whose sourcing (`. .toolchain/env`) makes plain `pulumi` work in a shell.

    The file asks each time, so that it never shadows what is installed later.
    """
    python, project = shlex.quote(str(paths.VENV_PYTHON)), shlex.quote(str(paths.PROJECT))
    _place(paths.ENVIRONMENT_FILE, f'eval "$(cd {project} && {python} -m toolchain env)"\n', mode=0o644)


def _place(path: Path, content: str, mode: int = 0o755) -> None:
    """Write through a temporary file, so that nobody ever starts half a program."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(content)
    unfinished.chmod(mode)
    unfinished.rename(path)
