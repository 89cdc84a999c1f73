"""The Python language host stand-in runs programs as the official host does, with a fake exec script."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
from google.protobuf import empty_pb2, json_format, struct_pb2  # type: ignore[import-untyped]
from pulumi.runtime.proto import language_pb2, language_pb2_grpc

from toolchain.standins.language_python import LanguageHost, Python, plugin_command, python_for

# Writes down how it was called; what it does next is up to the program's arguments.
FAKE_EXEC = """
import json, os, sys, time
record = {"arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}
open(os.environ["FAKE_RECORD"], "w").write(json.dumps(record))
if sys.argv[-1] == "hang":
    time.sleep(60)
sys.exit(int(sys.argv[-1]))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a virtual environment that is this interpreter, and the fake exec script."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "exec").write_text(FAKE_EXEC)
    monkeypatch.setenv("FAKE_RECORD", str(tmp_path / "record"))
    return tmp_path


@pytest.fixture
def host(project: Path) -> Iterator[language_pb2_grpc.LanguageRuntimeStub]:
    """A client of the language host, after the handshake."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    servicer = LanguageHost(project / "exec", "")
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = language_pb2_grpc.LanguageRuntimeStub(channel)
        stub.Handshake(language_pb2.LanguageHandshakeRequest(engine_address="127.0.0.1:1"))
        yield stub
    server.stop(None).wait()


def info(project: Path, virtualenv: str | None = ".venv") -> language_pb2.ProgramInfo:
    options = struct_pb2.Struct()
    json_format.ParseDict({"toolchain": "pip", **({"virtualenv": virtualenv} if virtualenv else {})}, options)
    return language_pb2.ProgramInfo(
        root_directory=str(project), program_directory=str(project), entry_point=".", options=options
    )


def request(project: Path, *arguments: str) -> language_pb2.RunRequest:
    return language_pb2.RunRequest(
        info=info(project),
        project="exposure",
        stack="lab",
        organization="organization",
        pwd=str(project),
        monitor_address="127.0.0.1:2",
        dryRun=True,
        parallel=16,
        config={"exposure:host": "10.0.0.1"},
        configSecretKeys=["exposure:keystorePassphrase"],
        args=arguments,
    )


def record(project: Path) -> dict[str, object]:
    found = json.loads((project / "record").read_text())
    assert isinstance(found, dict)
    return found


def test_run_gives_the_exec_script_all_it_takes(
    host: language_pb2_grpc.LanguageRuntimeStub, project: Path
) -> None:
    answer = host.Run(request(project, "0"))
    assert (answer.error, answer.bail) == ("", False)
    arguments = record(project)["arguments"]
    assert isinstance(arguments, list)
    flags = dict(zip(arguments[:-2:2], arguments[1:-2:2], strict=True))
    assert flags == {
        "--monitor": "127.0.0.1:2",
        "--engine": "127.0.0.1:1",
        "--project": "exposure",
        "--root_directory": str(project),
        "--stack": "lab",
        "--organization": "organization",
        "--pwd": str(project),
        "--dry_run": "true",
        "--parallel": "16",
    }
    assert arguments[-2:] == [str(project), "0"]


def test_run_activates_the_virtual_environment_and_hands_over_config(
    host: language_pb2_grpc.LanguageRuntimeStub, project: Path
) -> None:
    host.Run(request(project, "0"))
    environment = record(project)["environment"]
    assert isinstance(environment, dict)
    assert environment["VIRTUAL_ENV"] == str(project / ".venv")
    assert environment["PATH"].split(os.pathsep)[0] == str(project / ".venv" / "bin")
    assert json.loads(environment["PULUMI_CONFIG"]) == {"exposure:host": "10.0.0.1"}
    assert json.loads(environment["PULUMI_CONFIG_SECRET_KEYS"]) == ["exposure:keystorePassphrase"]
    assert record(project)["cwd"] == str(project)


@pytest.mark.parametrize(
    ("code", "error", "bail"),
    [("32", "", True), ("1", "Program exited with non-zero exit code: 1", False)],
)
def test_exit_codes(
    host: language_pb2_grpc.LanguageRuntimeStub, project: Path, code: str, error: str, bail: bool
) -> None:
    answer = host.Run(request(project, code))
    assert (answer.error, answer.bail) == (error, bail)


def test_cancel_ends_the_program(host: language_pb2_grpc.LanguageRuntimeStub, project: Path) -> None:
    answers: list[language_pb2.RunResponse] = []
    runner = threading.Thread(target=lambda: answers.append(host.Run(request(project, "hang"))))
    runner.start()
    deadline = time.monotonic() + 30
    while not (project / "record").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    host.Cancel(empty_pb2.Empty())
    runner.join(30)
    assert [answer.error for answer in answers] == ["Program was ended by signal 15"]


def test_a_missing_virtual_environment_says_how_to_make_it(
    host: language_pb2_grpc.LanguageRuntimeStub, project: Path
) -> None:
    missing = request(project, "0")
    missing.info.CopyFrom(info(project, "elsewhere"))
    with pytest.raises(grpc.RpcError, match=r"Make it with `python3 -m venv"):
        host.Run(missing)


def test_required_packages_come_from_the_installed_ones(
    host: language_pb2_grpc.LanguageRuntimeStub, project: Path
) -> None:
    packages = project / ".venv" / "lib" / "python3.11" / "site-packages"
    for name, content in {
        "pulumi_command": {"resource": True, "name": "command", "version": "1.2.1"},
        "pulumi_policy": {"resource": False, "name": "policy", "version": "1.0.0"},
    }.items():
        (packages / name).mkdir(parents=True)
        (packages / name / "pulumi-plugin.json").write_text(json.dumps(content))
    asked = language_pb2.GetRequiredPackagesRequest(info=info(project))
    found = host.GetRequiredPackages(asked).packages
    assert [(entry.name, entry.kind, entry.version) for entry in found] == [("command", "resource", "v1.2.1")]


def test_about_names_the_interpreter(host: language_pb2_grpc.LanguageRuntimeStub, project: Path) -> None:
    answer = host.About(language_pb2.AboutRequest(info=info(project)))
    assert answer.executable == str(project / ".venv" / "bin" / "python")
    assert answer.version.startswith("3.")


def test_install_reports_a_failure_with_its_output(
    host: language_pb2_grpc.LanguageRuntimeStub, project: Path
) -> None:
    (project / "requirements.txt").write_text("not a requirement at all !\n")
    shown = []
    with pytest.raises(grpc.RpcError, match="failed, see its output above"):
        for message in host.InstallDependencies(language_pb2.InstallDependenciesRequest(info=info(project))):
            shown.append(message.stdout)
    assert b"not a requirement" in b"".join(shown)


def test_a_plugin_in_python_runs_to_its_exit_code(
    host: language_pb2_grpc.LanguageRuntimeStub, project: Path
) -> None:
    (project / "__main__.py").write_text(
        "import os, sys; print(os.environ['GIVEN'], sys.argv[1]); print('e', file=sys.stderr); sys.exit(5)"
    )
    asked = language_pb2.RunPluginRequest(
        info=info(project), pwd=str(project), args=["address"], kind="resource", env=["GIVEN=a=b"]
    )
    answers = list(host.RunPlugin(asked))
    assert b"".join(answer.stdout for answer in answers) == b"a=b address\n"
    assert b"".join(answer.stderr for answer in answers) == b"e\n"
    assert answers[-1].exitcode == 5


def test_a_policy_pack_starts_through_the_sdk(project: Path) -> None:
    asked = language_pb2.RunPluginRequest(info=info(project), args=["address"], kind="analyzer")
    assert plugin_command(python_for(asked.info), asked)[1:] == [
        "-u",
        "-m",
        "pulumi.policy",
        "address",
        str(project),
    ]


def test_without_the_option_the_hosts_own_interpreter_is_used(project: Path) -> None:
    assert python_for(info(project, None)) == Python(None)
    assert Python(None).executable == Path(sys.executable)
