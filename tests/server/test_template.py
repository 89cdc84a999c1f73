"""`template/`: a repository of stacks of one's own, made by the real engine, previewed without anything."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import toolchain
from toolchain import wheel_backend

PROJECT = Path(__file__).resolve().parents[2]
TEMPLATE = PROJECT / "template"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ"

pytestmark = pytest.mark.server


def test_a_project_of_it_is_previewed(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        **toolchain.pulumi_environment(),
        "PULUMI_BACKEND_URL": f"file://{tmp_path}",
        "PULUMI_CONFIG_PASSPHRASE": "the stack's own",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_HOME": str(tmp_path / "home"),
        "NO_COLOR": "1",
    }
    environment.pop("SSH_AUTH_SOCK", None)
    project = tmp_path / "photos"
    project.mkdir()

    def pulumi(*arguments: str) -> str:
        command = [str(toolchain.program("pulumi")), *arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pulumi(
        "new", str(TEMPLATE), "--generate-only", "--yes", "--name", "photos", "--description", "Our photos"
    )
    made = yaml.safe_load((project / "Pulumi.yaml").read_text())
    assert (made["name"], made["description"]) == ("photos", "Our photos")
    readme = (project / "README.md").read_text()
    assert readme.startswith("# photos\n\nOur photos.") and "${" not in readme
    for path in TEMPLATE.rglob("*"):
        assert path.name == "__pycache__" or (project / path.relative_to(TEMPLATE)).exists(), path

    venv.create(project / "venv", with_pip=False)
    (site,) = (project / "venv/lib").glob("python*/site-packages")
    wheel = tmp_path / wheel_backend.build_wheel(str(tmp_path))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    example = (project / "stacks/Pulumi.home.yaml.example").read_text()
    (project / "stacks/Pulumi.home.yaml").write_text(re.sub(r"hostKey: .*", f"hostKey: {HOST_KEY}", example))
    pulumi("stack", "init", "home")
    pulumi("config", "set", "--secret", "immich-exposure:keystorePassphrase", "correct horse battery staple")
    shown = pulumi("preview")
    assert "immich-funnel-door" in shown and "phone-anna" in shown and "Traceback" not in shown
    assert "stacks/keystore/home" in shown


def test_its_workflows_run_what_ours_run() -> None:
    """The same actions at the same commits, without credentials that stay, and with no right by default."""
    used = re.compile(r"uses: (\S+@[0-9a-f]{40} # v[\d.]+)")
    ours = {
        use
        for file in (PROJECT / ".github/workflows").glob("*.yml")
        for use in used.findall(file.read_text())
    }
    files = sorted((TEMPLATE / ".github/workflows").glob("*.yml"))
    assert [file.name for file in files] == ["preview.yml", "up.yml"]
    for file in files:
        text = file.read_text()
        assert text.count("uses: ") == len(used.findall(text)) and set(used.findall(text)) <= ours
        assert text.count("actions/checkout@") == text.count("persist-credentials: false")
        assert "\npermissions: {}\n" in text and "pull_request_target" not in text
