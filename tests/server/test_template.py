"""`template/`: a repository of stacks of one's own, made by the real engine, previewed without anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.server.consumer import HOST_KEY, PASSPHRASE, Consumer, install_wheel
from toolchain.paths import PROJECT

TEMPLATE = PROJECT / "template"

pytestmark = pytest.mark.server


def test_a_project_of_it_is_previewed(tmp_path: Path) -> None:
    project = tmp_path / "photos"
    project.mkdir()
    consumer = Consumer(project, tmp_path)
    pulumi = consumer.well
    pulumi(
        "new", str(TEMPLATE), "--generate-only", "--yes", "--name", "photos", "--description", "Our photos"
    )
    made = yaml.safe_load((project / "Pulumi.yaml").read_text())
    assert (made["name"], made["description"]) == ("photos", "Our photos")
    readme = (project / "README.md").read_text()
    assert readme.startswith("# photos\n\nOur photos.") and "${" not in readme
    for path in TEMPLATE.rglob("*"):
        assert path.name == "__pycache__" or (project / path.relative_to(TEMPLATE)).exists(), path

    install_wheel(project, tmp_path)
    example = (project / "stacks/Pulumi.home.yaml.example").read_text()
    (project / "stacks/Pulumi.home.yaml").write_text(re.sub(r"hostKey: .*", f"hostKey: {HOST_KEY}", example))
    pulumi("stack", "init", "home")
    pulumi("config", "set", "--secret", "keystorePassphrase", PASSPHRASE)
    refused = consumer.pulumi("preview").stdout
    assert "photos:keystorePassphrase is not read by immich-exposure" in refused
    assert "unhandled" not in refused and "Traceback" not in refused
    pulumi("config", "rm", "keystorePassphrase")
    pulumi("config", "set", "--secret", "immich-exposure:keystorePassphrase", PASSPHRASE)
    shown = pulumi("preview")
    assert "immich-funnel-close" in shown and "phone-anna" in shown and "Traceback" not in shown
    assert "stacks/keystore/home" in shown


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """Return a job's folder: a base, a change that takes a phone out, and the package in an environment."""
    for name in ("base", "change"):
        shutil.copytree(TEMPLATE, tmp_path / name)
        (tmp_path / name / "stacks/Pulumi.home.yaml").write_text(
            f"config:\n  immich-exposure:host: 192.0.2.1\n  immich-exposure:hostKey: {HOST_KEY}\n"
            "  immich-exposure:keystorePassphrase: {secure: 'v1:a:b'}\n  immich-exposure:devices:\n"
            "    - {name: phone-anna, platform: ios}\n"
            + ("    - {name: phone-ben, platform: ios}\n" if name == "base" else "")
        )
    (tmp_path / "change/immich_exposure.py").write_text("raise SystemExit(66)\n")
    install_wheel(tmp_path, tmp_path)
    (tmp_path / "env").symlink_to("venv")
    return tmp_path


def words_of(runner: Path) -> str:
    workflow = yaml.safe_load((TEMPLATE / ".github/workflows/preview.yml").read_text())
    (step,) = [each for each in workflow["jobs"]["words"]["steps"] if each.get("name") == "Words"]
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(runner / "summary"), "LINKS": ""}
    command = ["bash", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(command, cwd=runner, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (runner / "summary").read_text()


def test_its_pull_requests_are_told_in_words_without_a_secret(runner: Path) -> None:
    """By the package that the base names; nothing of the change is run, and the module is the package's."""
    words = words_of(runner)
    assert "**`phone-ben` loses access for good.**" in words and "Nothing is rebuilt." in words
    assert "`immich_exposure.py` (added)" in words and "**The program itself changes.**" in words
    assert "cannot be read" not in words


def test_another_version_of_the_package_may_rebuild_the_server(runner: Path) -> None:
    (runner / "change/requirements.txt").write_text("immich-exposure==0.2.0\n")
    assert "**The server is rebuilt.**" in words_of(runner)


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
