"""The component for programs in other languages, under the real engine: plugin/ and the examples.

The quick tests have a program in Python that knows nothing of the package but the component's type: what any
language's SDK sends. The nightly ones generate the SDKs and look at the programs in `examples/` with them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server.consumer import HOST_KEY, PASSPHRASE, Consumer, install_wheel
from toolchain.paths import PROJECT

GOLDEN = PROJECT / "tests/unit/plugin_schema.json"

pytestmark = pytest.mark.server

PROGRAM = f"""
import pulumi

class Remote(pulumi.ComponentResource):
    url: pulumi.Output[str]
    bundle_passwords: pulumi.Output[dict[str, str]]

    def __init__(self, name, args):
        outputs = {{"url": None, "bundlePasswords": None}}
        super().__init__("immich-exposure:index:ImmichExposure", name, {{**args, **outputs}}, None, True)

home = Remote("home", {{
    "host": "127.0.0.1",
    "hostKey": "{HOST_KEY}",
    "sshPort": 1,
    "keystorePassphrase": pulumi.Config().require_secret("keystorePassphrase"),
    "devices": [{{"name": "phone-anna", "platform": "ios"}}],
    **(pulumi.Config().get_object("more") or {{}}),
}})
"""


OF_OURS = re.compile(r'File ".*/(components|pki)/')
"""A line of our code in a traceback."""


def consumer_of(around: Path, project: str) -> Consumer:
    """Return a project with this file beside the plugin's folder."""
    folder = around / "program"
    folder.mkdir()
    (folder / "Pulumi.yaml").write_text(project)
    return Consumer(folder, around)


def make_stack(consumer: Consumer) -> None:
    """Make the stack, and set what the examples want."""
    consumer.well("stack", "init", "family")
    consumer.well("config", "set", "homeKey", HOST_KEY)
    consumer.well("config", "set", "--secret", "keystorePassphrase", PASSPHRASE)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """Return the plugin's folder as `pulumi install` leaves it, with nothing of this tree in reach."""
    folder = tmp_path / "plugin"
    shutil.copytree(PROJECT / "plugin", folder)
    # From here, instead of from the registry: installing it anew would take a minute.
    (folder / "requirements.txt").write_text("")
    install_wheel(folder, tmp_path)
    return folder


def with_plugin(project: str) -> str:
    """Return a project file with the plugin that lies beside the program."""
    return re.sub(r"immich-exposure: \S+", "immich-exposure: ../plugin", project)


def test_the_engine_gets_the_schema(plugin: Path, tmp_path: Path) -> None:
    consumer = consumer_of(tmp_path, "name: nothing\nruntime: python\n")
    found = json.loads(consumer.well("package", "get-schema", "../plugin"))
    golden = json.loads(GOLDEN.read_text())
    (component,) = found["resources"].values()
    (agreed,) = golden["resources"].values()
    for argument in agreed["inputProperties"].values():
        for inside in (argument.get("items", {}), argument.get("additionalProperties", {})):
            inside.pop("description", None)  # the engine has no place for it
    assert component["inputProperties"] == agreed["inputProperties"]
    assert component["requiredInputs"] == agreed["requiredInputs"]
    assert set(component["properties"]) == set(agreed["properties"])
    assert component["properties"]["bundlePasswords"]["secret"] is True
    assert set(found["types"]) == set(golden["types"])


def test_a_program_that_has_nothing_of_it_but_the_plugin(plugin: Path, tmp_path: Path) -> None:
    """Resources are made, told of and deleted by the plugin: the program's environment lacks their code."""
    consumer = consumer_of(
        tmp_path, "name: photos\nruntime: python\npackages:\n  immich-exposure: ../plugin\n"
    )
    (consumer.folder / "__main__.py").write_text(PROGRAM)
    make_stack(consumer)
    refused = consumer.pulumi("preview", "--config", 'more={"leaseHours": "72"}')
    assert "leaseHours = '72': must be a whole number from 0 to 8784" in refused.stdout
    # On a busy machine Pulumi's SDK adds a traceback of its own: "resource monitor shut down".
    assert OF_OURS.search(refused.stdout) is None
    consumer.well("config", "rm", "more")

    failed = consumer.pulumi("up", "--yes", "--skip-preview")
    assert failed.returncode != 0
    assert "There is no SSH key to log in to the server with" in failed.stdout
    assert "immich-exposure:step:" in failed.stdout and "pulumi-python" not in failed.stdout
    state = consumer.well("stack", "export")
    identities = [
        each for each in json.loads(state)["deployment"]["resources"] if "step:StackIdentity" in each["type"]
    ]
    assert re.fullmatch("[0-9a-f]{32}", identities[0]["id"])
    assert PASSPHRASE not in state and PASSPHRASE not in failed.stdout
    consumer.well("destroy", "--yes", "--skip-preview")
    assert "step:StackIdentity" not in consumer.well("stack", "export")


@pytest.fixture
def sdks(tmp_path: Path) -> Path:
    """Return the folder of the SDKs for TypeScript and Go, as `pulumi package add` makes them."""
    folder = tmp_path / "sdks"
    command = ["go", "run", str(PROJECT / "tests/server/sdks/generate.go"), str(GOLDEN), str(folder)]
    subprocess.run(command, cwd=PROJECT / "toolchain/pulumi", check=True, timeout=600)
    return folder


@pytest.mark.nightly
def test_the_example_in_go_is_type_checked(sdks: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copytree(PROJECT / "examples/go", program)
    module = "example.com/pulumi-immich-exposure/sdk/go"
    # The engine's pins, which are at hand; the example's own are for `go mod tidy` to find.
    for name in ("go.mod", "go.sum"):
        shutil.copy(PROJECT / "toolchain/pulumi" / name, program)
    edit = ["-module=family-photos", f"-require={module}@v0.1.0", f"-replace={module}={sdks / 'go'}"]
    subprocess.run(["go", "mod", "edit", *edit], cwd=program, check=True)

    def vet() -> subprocess.CompletedProcess[str]:
        command = ["go", "vet", "-mod=mod", "."]
        return subprocess.run(command, cwd=program, capture_output=True, text=True, timeout=600)

    good = vet()
    assert good.returncode == 0, good.stderr
    source = program / "main.go"
    source.write_text(source.read_text().replace("IntRef(72)", 'StringRef("72")'))
    assert "cannot use pulumi.StringRef" in vet().stderr


@pytest.mark.nightly
def test_the_example_in_typescript_is_type_checked(sdks: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copytree(PROJECT / "examples/typescript", program)
    package = json.loads((program / "package.json").read_text())
    del package["dependencies"]["@pulumi/immich-exposure"]
    (program / "package.json").write_text(json.dumps(package))

    def run(*command: str, folder: Path = program) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)

    installed = run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
    assert installed.returncode == 0, installed.stderr
    (sdks / "nodejs/node_modules").symlink_to(program / "node_modules")
    compiler = str(program / "node_modules/.bin/tsc")
    assert run(compiler, folder=sdks / "nodejs").returncode == 0
    (program / "node_modules/@pulumi/immich-exposure").symlink_to(sdks / "nodejs")
    good = run(compiler, "--noEmit")
    assert good.returncode == 0, good.stdout
    source = program / "index.ts"
    source.write_text(source.read_text().replace("leaseHours: 72", 'leaseHours: "72"'))
    assert "Type 'string' is not assignable to type 'number'" in run(compiler, "--noEmit").stdout


@pytest.mark.nightly
def test_the_example_in_yaml_is_previewed(plugin: Path, tmp_path: Path) -> None:
    """With the language host of YAML, which `make nightly` builds."""
    project = with_plugin((PROJECT / "examples/yaml/Pulumi.yaml").read_text())
    without = re.sub(r"^packages:\n(?:  .*\n)+", "", project, flags=re.MULTILINE)
    consumer = consumer_of(tmp_path, without)
    added = consumer.pulumi("package", "add", "../plugin")
    assert "Successfully generated an SDK for the immich-exposure package" in added.stdout
    # This version of the host ends there, because it has nothing to link in YAML.
    assert added.returncode == 0 or "method Link not implemented" in added.stdout + added.stderr
    shutil.rmtree(consumer.folder / "sdks")
    (consumer.folder / "Pulumi.yaml").write_text(project)
    make_stack(consumer)
    shown = consumer.well("preview")
    assert "home-funnel-close" in shown and "Traceback" not in shown
    assert "immich-exposure:step:ModuleFiles" in shown and "pulumi-python" not in shown
    assert "itself closes the funnel 72 hours after it was opened" in shown

    (consumer.folder / "Pulumi.yaml").write_text(project.replace("leaseHours: 72", "leaseHours: [72]"))
    refused = consumer.pulumi("preview")
    assert refused.returncode and "Cannot assign 'List<number>' to 'integer'" in refused.stdout

    home = project[project.index("  home:") : project.index("outputs:")]
    twice = project.replace("outputs:", home.replace("  home:", "  again:") + "outputs:")
    (consumer.folder / "Pulumi.yaml").write_text(twice)
    refused = consumer.pulumi("preview")
    assert refused.returncode and "both have the server 192.168.1.20, port 22" in refused.stdout
