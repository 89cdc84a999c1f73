"""What lies beside the documents: hooks, issue form, changelog."""

from __future__ import annotations

import json
import re
import tomllib

import yaml

from tests.unit.documents import name_of, pages
from toolchain.paths import PROJECT


def test_hooks_fetch_nothing_and_do_what_lint_does() -> None:
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (PROJECT / "Makefile").read_text()
    lint = makefile.partition("\nlint: ")[2].partition("\n\n")[0].replace("$(VENV)", ".venv/bin")
    assert [repository["repo"] for repository in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        assert hook["language"] == "system"
        program = re.search(
            r"\.venv/bin/(\w+)|(shellcheck|gofmt|nix-instantiate)|\.toolchain/bin/(caddy fmt)", hook["entry"]
        )
        assert program is not None and program[0] in lint, hook["entry"]


def test_every_program_of_lint_has_a_hook() -> None:
    entries = (PROJECT / ".pre-commit-config.yaml").read_text()
    for program in (
        "ruff check",
        "ruff format",
        "mypy",
        "shellcheck",
        "gofmt",
        "caddy fmt",
        "nix-instantiate",
    ):
        assert program in entries


def test_the_issue_form_asks_for_the_status_and_never_for_a_secret() -> None:
    form = yaml.safe_load((PROJECT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    asked = [field for field in form["body"] if field["type"] not in ("markdown", "checkboxes")]
    labels = [field["attributes"]["label"] for field in asked]
    assert "sudo immich-exposure status" in labels
    for label in labels:
        assert not re.search(r"pass|secret|bundle|state|keystore|\.p12|private", label, re.I), label
    [promise] = [field for field in form["body"] if field["type"] == "checkboxes"]
    assert promise["attributes"]["options"][0]["required"] is True
    [warning] = [field["attributes"]["value"] for field in form["body"] if field["type"] == "markdown"]
    assert "Never paste a key" in warning and "SECURITY.md" in warning


def test_pages_end_as_the_editorconfig_says() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        assert text.endswith("\n") and not text.endswith("\n\n"), name_of(page)
        assert not re.search(r"[ \t]$", text, re.M), name_of(page)


def test_the_changelog_has_a_section_for_what_is_not_released_and_one_for_each_version() -> None:
    headings = re.findall(r"^## (.+)$", (PROJECT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"
    for heading in headings[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading), heading


def test_the_readme_asks_for_the_versions_that_are_accepted() -> None:
    asked = (PROJECT / "README.md").read_text().partition("## What you need")[2].partition("\n## ")[0]
    versions = json.loads((PROJECT / "server/versions.json").read_text())
    engine = yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())["requiredPulumiVersion"]
    python = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    refused = " or ".join(versions["tailscale"]["refused"])
    for program, words in {
        "Immich": f"{versions['immich']['lowest']} or newer",
        "Tailscale": f"{versions['tailscale']['lowest']} or newer (not {refused})",
        "Pulumi CLI": f"{engine.removeprefix('>=').removesuffix('.0')} or newer",
        "Python": f"{python.removeprefix('>=')} or newer",
    }.items():
        assert re.search(rf"\[{program}\]\([^)]+\)\s{re.escape(words)}", " ".join(asked.split())), program
    assert f"older ones lack Go {versions['go']['lowest'].removesuffix('.0')}" in asked


def test_the_comparison_is_dated_names_its_sources_and_says_where_others_are_better() -> None:
    text = (PROJECT / "docs/comparison.md").read_text()
    assert re.search(r"^As of [A-Z][a-z]+ 20\d\d, ", text, re.M)
    compared, _, notes = text.partition("## Notes")
    sources = re.findall(r"^(\d+)\. (?:(?!^\d+\. )[\s\S])*?https://", notes, re.M)
    assert sources == list(dict.fromkeys(re.findall(r"\[(\d+)\](?!\()", compared)))
    assert sources == [str(number) for number in range(1, len(sources) + 1)]
    rows = [line.split(" | ") for line in compared.splitlines() if line.startswith("| ")]
    ours = [row[1] for row in rows]
    assert ours[0] == "this project" and sum(cell.startswith("**") for cell in ours) > 3
