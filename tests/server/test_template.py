"""`template/`: a repository of stacks of one's own, made by the real engine, previewed without anything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.server.consumer import HOST_KEY, PASSPHRASE, PROJECT, Consumer, install_wheel

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
