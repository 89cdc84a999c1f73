"""Stand-in for `pulumi-language-python`, the host that runs Python programs for the Pulumi engine.

It does what the official host does for `runtime.options.toolchain: pip`: find the virtual environment, report
which plugins the installed packages need, and run the program through the SDK's own `pulumi-language-
python-exec`. Code generation and the other toolchains (poetry, uv) are not supported.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc  # type: ignore[import-untyped]
from google.protobuf import empty_pb2, json_format  # type: ignore[import-untyped]

from toolchain.standins.protocol import language_pb2, language_pb2_grpc, plugin_pb2
from toolchain.standins.serving import serve

HOST_VERSION = "3.259.0"
# The exec script's exit code for "I failed and have already told the user why".
ALREADY_REPORTED = 32


@dataclass(frozen=True)
class Python:
    """The interpreter that runs a program: that of `virtualenv`, or else this host's."""

    virtualenv: Path | None

    @property
    def executable(self) -> Path:
        """The interpreter's path."""
        return self.virtualenv / "bin" / "python" if self.virtualenv else Path(sys.executable)

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The given environment (by default this process's) with the virtual environment activated."""
        environment = dict(base)
        if self.virtualenv:
            environment["VIRTUAL_ENV"] = str(self.virtualenv)
            environment["PATH"] = f"{self.virtualenv / 'bin'}{os.pathsep}{environment.get('PATH', '')}"
            environment.pop("PYTHONHOME", None)
        return environment

    def problem(self) -> str | None:
        """Why programs cannot run on it, or None."""
        if self.virtualenv and not self.executable.exists():
            return (
                f"The virtual environment {self.virtualenv} has no bin/python. Make it with "
                f"`python3 -m venv {self.virtualenv}` and install requirements.txt into it."
            )
        return None

    def site_packages(self) -> list[Path]:
        """Folders with installed packages."""
        if self.virtualenv:
            return sorted(self.virtualenv.glob("lib/python*/site-packages"))
        return [Path(entry) for entry in sys.path if entry.endswith("site-packages")]


def python_for(info: language_pb2.ProgramInfo) -> Python:
    """The interpreter that the options of Pulumi.yaml specify.

    A relative `virtualenv` is relative to the project's root.
    """
    options = json_format.MessageToDict(info.options)
    virtualenv = options.get("virtualenv")
    if not isinstance(virtualenv, str) or not virtualenv:
        return Python(None)
    return Python(Path(info.root_directory) / virtualenv)


def required_packages(python: Python) -> list[plugin_pb2.PackageDependency]:
    """The plugins that installed Pulumi packages declare in their `pulumi-plugin.json`."""
    found = []
    for folder in python.site_packages():
        for file in sorted(folder.glob("*/pulumi-plugin.json")):
            declared = json.loads(file.read_text())
            if declared.get("resource"):
                found.append(
                    plugin_pb2.PackageDependency(
                        name=declared["name"],
                        kind="resource",
                        version="v" + declared["version"].removeprefix("v"),
                        server=declared.get("server", ""),
                    )
                )
    return found


def exec_arguments(request: language_pb2.RunRequest, engine: str) -> list[str]:
    """The arguments that `pulumi-language-python-exec` takes for this run."""
    flags = {
        "monitor": request.monitor_address,
        "engine": engine,
        "project": request.project,
        "root_directory": request.info.root_directory,
        "stack": request.stack,
        "organization": request.organization,
        "pwd": request.pwd,
        "dry_run": "true" if request.dryRun else "false",
        "parallel": str(request.parallel),
    }
    arguments = [part for name, value in flags.items() if value for part in (f"--{name}", value)]
    program = Path(request.info.program_directory) / request.info.entry_point
    return [*arguments, str(program), *request.args]


def plugin_command(python: Python, request: language_pb2.RunPluginRequest) -> list[str]:
    """How to start a Python plugin: policy packs through `pulumi.policy`, others by their `__main__.py`."""
    folder = request.info.program_directory
    start = [str(python.executable), "-u"]
    if request.kind == "analyzer":
        return [*start, "-m", "pulumi.policy", *request.args, folder]
    return [*start, folder, *request.args]


_Pieces = queue.SimpleQueue[language_pb2.RunPluginResponse | None]


def _forward(
    stream: IO[bytes], wrap: Callable[[bytes], language_pb2.RunPluginResponse], pieces: _Pieces
) -> None:
    """Pass a child's stream on, line by line; None marks its end."""
    with stream:
        for line in stream:
            pieces.put(wrap(line))
    pieces.put(None)


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """The language runtime service over `exec_script`; `engine` is the engine's address (host:port)."""

    def __init__(self, exec_script: Path, engine: str) -> None:
        self._exec_script = exec_script
        self._engine = engine
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def Handshake(
        self, request: language_pb2.LanguageHandshakeRequest, context: grpc.ServicerContext
    ) -> language_pb2.LanguageHandshakeResponse:
        """Store the engine's address."""
        self._engine = request.engine_address or self._engine
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        """The version of the host that this replaces."""
        return plugin_pb2.PluginInfo(version=HOST_VERSION)

    def GetRequiredPackages(
        self, request: language_pb2.GetRequiredPackagesRequest, context: grpc.ServicerContext
    ) -> language_pb2.GetRequiredPackagesResponse:
        """The plugins that the program's packages need."""
        return language_pb2.GetRequiredPackagesResponse(packages=required_packages(python_for(request.info)))

    def GetRequiredPlugins(
        self, request: language_pb2.GetRequiredPluginsRequest, context: grpc.ServicerContext
    ) -> language_pb2.GetRequiredPluginsResponse:
        """The same in the form that older engines request."""
        plugins = [
            plugin_pb2.PluginDependency(name=found.name, kind=found.kind, version=found.version)
            for found in required_packages(python_for(request.info))
        ]
        return language_pb2.GetRequiredPluginsResponse(plugins=plugins)

    def About(
        self, request: language_pb2.AboutRequest, context: grpc.ServicerContext
    ) -> language_pb2.AboutResponse:
        """Interpreter and version for `pulumi about`."""
        python = python_for(request.info)
        self._require(python, context)
        shown = subprocess.run([python.executable, "--version"], capture_output=True, text=True, check=True)
        return language_pb2.AboutResponse(
            executable=str(python.executable), version=shown.stdout.strip().removeprefix("Python ")
        )

    def GetProgramDependencies(
        self, request: language_pb2.GetProgramDependenciesRequest, context: grpc.ServicerContext
    ) -> language_pb2.GetProgramDependenciesResponse:
        """The installed packages, from `pip list`."""
        python = python_for(request.info)
        self._require(python, context)
        command = [str(python.executable), "-m", "pip", "list", "--format", "json"]
        if not request.transitiveDependencies:
            command.append("--not-required")
        listed = subprocess.run(command, capture_output=True, text=True, env=python.environment())
        if listed.returncode:
            context.abort(grpc.StatusCode.UNKNOWN, f"`pip list` failed: {listed.stderr.strip()}")
        return language_pb2.GetProgramDependenciesResponse(
            dependencies=[
                language_pb2.DependencyInfo(name=package["name"], version=package["version"])
                for package in json.loads(listed.stdout)
            ]
        )

    def RuntimeOptionsPrompts(
        self, request: language_pb2.RuntimeOptionsRequest, context: grpc.ServicerContext
    ) -> language_pb2.RuntimeOptionsResponse:
        """Nothing to ask: pip is the only toolchain here."""
        return language_pb2.RuntimeOptionsResponse()

    def Template(
        self, request: language_pb2.TemplateRequest, context: grpc.ServicerContext
    ) -> language_pb2.TemplateResponse:
        """pip projects need no rewriting."""
        return language_pb2.TemplateResponse()

    def InstallDependencies(
        self, request: language_pb2.InstallDependenciesRequest, context: grpc.ServicerContext
    ) -> Iterator[language_pb2.InstallDependenciesResponse]:
        """Create the virtual environment if it does not exist, and install requirements.txt."""
        python = python_for(request.info)
        folder = Path(request.info.program_directory)
        commands = []
        if python.virtualenv and python.problem():
            commands.append([sys.executable, "-m", "venv", str(python.virtualenv)])
        if (folder / "requirements.txt").exists():
            commands.append([str(python.executable), "-m", "pip", "install", "-r", "requirements.txt"])
        for command in commands:
            yield from self._streamed(command, folder, python, context)

    def Run(
        self, request: language_pb2.RunRequest, context: grpc.ServicerContext
    ) -> language_pb2.RunResponse:
        """Run the program to its end. `bail` says that the user has already been told of the failure."""
        python = python_for(request.info)
        self._require(python, context)
        environment = python.environment()
        environment["PULUMI_CONFIG"] = json.dumps(dict(request.config))
        environment["PULUMI_CONFIG_SECRET_KEYS"] = json.dumps(list(request.configSecretKeys))
        command = [
            str(python.executable),
            "-u",
            str(self._exec_script),
            *exec_arguments(request, self._engine),
        ]
        child = subprocess.Popen(command, env=environment, cwd=request.pwd or None, stdin=subprocess.DEVNULL)
        with self._ending_with(context, child):
            code = child.wait()
        if code == 0:
            return language_pb2.RunResponse()
        if code == ALREADY_REPORTED:
            return language_pb2.RunResponse(bail=True)
        if code < 0:
            return language_pb2.RunResponse(error=f"Program was ended by signal {-code}")
        return language_pb2.RunResponse(error=f"Program exited with non-zero exit code: {code}")

    def RunPlugin(
        self, request: language_pb2.RunPluginRequest, context: grpc.ServicerContext
    ) -> Iterator[language_pb2.RunPluginResponse]:
        """Run a policy pack or a component package written in Python until the engine ends it."""
        python = python_for(request.info)
        self._require(python, context)
        environment = dict(entry.split("=", 1) for entry in request.env)
        child = subprocess.Popen(
            plugin_command(python, request),
            cwd=request.pwd or None,
            env=python.environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdout is not None and child.stderr is not None
        pieces: _Pieces = queue.SimpleQueue()
        for stream, wrap in (
            (child.stdout, lambda line: language_pb2.RunPluginResponse(stdout=line)),
            (child.stderr, lambda line: language_pb2.RunPluginResponse(stderr=line)),
        ):
            threading.Thread(target=_forward, args=(stream, wrap, pieces), daemon=True).start()
        with self._ending_with(context, child):
            for _ in range(2):
                yield from iter(pieces.get, None)
            yield language_pb2.RunPluginResponse(exitcode=child.wait())

    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """End running programs."""
        with self._lock:
            children = list(self._children)
        for child in children:
            child.terminate()
        return empty_pb2.Empty()

    @contextmanager
    def _ending_with(self, context: grpc.ServicerContext, child: "subprocess.Popen[bytes]") -> Iterator[None]:
        """Within this context, Cancel and the end of the call terminate the child."""
        with self._lock:
            self._children.add(child)
        context.add_callback(child.terminate)
        try:
            yield
        finally:
            with self._lock:
                self._children.discard(child)

    def _streamed(
        self, command: list[str], folder: Path, python: Python, context: grpc.ServicerContext
    ) -> Iterator[language_pb2.InstallDependenciesResponse]:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=python.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert child.stdout is not None
        with self._ending_with(context, child), child.stdout:
            for line in child.stdout:
                yield language_pb2.InstallDependenciesResponse(stdout=line)
            code = child.wait()
        if code:
            context.abort(grpc.StatusCode.UNKNOWN, f"`{' '.join(command)}` failed, see its output above.")

    @staticmethod
    def _require(python: Python, context: grpc.ServicerContext) -> None:
        problem = python.problem()
        if problem:
            context.abort(grpc.StatusCode.UNKNOWN, problem)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `pulumi-language-python` wrapper; the last argument is the engine's address."""
    parser = argparse.ArgumentParser(prog="pulumi-language-python")
    parser.add_argument(
        "--use-executor", type=Path, required=True, help="path of pulumi-language-python-exec"
    )
    parser.add_argument("engine", nargs="?", default="")
    options, _ = parser.parse_known_args(arguments)
    host = LanguageHost(options.use_executor, options.engine)
    serve(lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server), workers=16)
