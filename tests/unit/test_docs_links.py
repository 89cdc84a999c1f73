"""Documents lead where they say: links, headings, files, make's targets, verbs and settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.unit.documents import anchors, links, name_of, pages, prose
from toolchain.paths import PROJECT

PAGES = pages()
ENDINGS = r"md|py|go|sh|nix|toml|ya?ml|json|html|css|conf|svg|png|txt"
FOLDERS = "docs|tests|components|server|pki|handover|lab|toolchain|policy|examples|plugin|template"

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def verbs() -> set[str]:
    """Return the verbs of the command on the server."""
    script = (PROJECT / "server/scripts/exposure.sh").read_text()
    [listed] = re.findall(r'^VERBS="(.*)"$', script, re.M)
    return set(listed.split())


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M))


def settings() -> set[str]:
    return set(yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())["config"])


@every_page
def test_each_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for target in links(page):
        if re.match(r"https://\S", target):
            continue
        path, _, anchor = target.partition("#")
        assert not re.match(r"\w+:", target), f"{target} is neither https nor a file of this project"
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@every_page
def test_each_file_that_is_named_is_there(page: Path) -> None:
    named = re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./*-]+\.(?:{ENDINGS}))\b", prose(page))
    for path in named:
        assert list(PROJECT.glob(path)), path


@every_page
def test_each_target_of_make_that_is_named_is_one(page: Path) -> None:
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(), re.M))
    assert named <= targets()


@every_page
def test_each_variable_of_make_that_is_named_is_one(page: Path) -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for command in re.findall(r"(?:^    |`)make [^`\n#]*", page.read_text(), re.M):
        for name in re.findall(r"\b([A-Z]+)=", command):
            assert re.search(rf"\$\({name}\)|^{name} \?=", makefile, re.M), command


@every_page
def test_each_verb_on_the_server_that_is_named_is_one(page: Path) -> None:
    named = set(
        re.findall(r"(?:^    (?:sudo )?|`(?:sudo )?)immich-exposure ([a-z-]+)", page.read_text(), re.M)
    )
    assert named <= verbs()


@every_page
def test_each_setting_that_is_named_is_one(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"^\s+immich-exposure:(\w+):", text, re.M))
    named |= set(re.findall(r"pulumi config (?:set|get) (?:--secret )?(?:immich-exposure:)?(\w+)", text))
    assert named <= settings()


@every_page
def test_a_page_that_is_named_is_a_link(page: Path) -> None:
    text = re.sub(r"\]\([^)]*\)|<[^>]+>", "", prose(page))
    own = name_of(page)  # pages that are generated say what generates them
    assert [path for path in re.findall(r"docs/[\w-]+\.md", text) if path != own] == []


def test_every_page_of_the_docs_is_found_from_the_readme() -> None:
    readme = PROJECT / "README.md"
    reached = {path.partition("#")[0] for path in links(readme)}
    assert {name_of(page) for page in PAGES if page != readme} <= reached
