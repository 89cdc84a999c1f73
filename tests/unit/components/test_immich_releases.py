"""The releases of Immich that are known: the surface lets their pages through, and others are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.surface import immich_releases, supported_versions
from components.surface.immich_releases import Line, ReleasesError, line_of, load, unknown_release
from components.surface.supported_versions import parse_version
from components.surface.table import Row, immich_operations
from components.surface.table import load as surface

LINES = load()
VALUES = {"key": "k3y_Of-a-Link", "slug": "summer-2026"}
ID = "0a1b2c3d-0000-4000-8000-0123456789ab"


def row_for(request: str) -> Row | None:
    """Return the row of the surface that lets a request of a page through."""
    method, target = re.sub(r"\{(\w+)\}", lambda match: VALUES.get(match[1], ID), request).split(" ")
    path, _, query = target.partition("?")
    for row in surface().rows:
        keyed = not row.link or re.search(r"(?:^|&)(?:key|slug)=[^&]", query)
        if keyed and method in row.methods and re.fullmatch(row.pattern, path):
            return row
    return None


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line.name))
def test_no_page_of_a_known_release_meets_a_refusal(line: Line) -> None:
    assert [request for request in line.asks if row_for(request) is None] == []


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line.name))
def test_a_page_asks_its_own_api(line: Line) -> None:
    """Below /api it asks for operations of that release, which take a link's key where one is given."""
    known = {operation.name: operation.link for operation in immich_operations()[line.sdk]}
    for request in line.asks:
        row = row_for(request)
        assert row is not None
        if row.operations:
            assert {known.get(name) for name in row.operations} == {row.link}, request


def test_every_row_is_what_some_page_asks_for_or_says_why_not() -> None:
    """A row that no known page needs lets strangers ask for more than there is a reason for."""
    asked = {row_for(request) for line in LINES for request in line.asks}
    assert [row.path for row in surface().rows if row not in asked] == ["/api/public/config"]


def test_the_floor_is_the_first_release_and_the_newest_sdk_the_last() -> None:
    floor = supported_versions.load()["immich"].lowest
    assert LINES[0].first == floor
    assert {line.sdk for line in LINES} == set(immich_operations())
    for line in LINES:
        sdk = parse_version(line.sdk)
        assert sdk is not None and sdk in line


@pytest.mark.parametrize(
    ("version", "counts_as"),
    [
        ("2.7.3", 0),
        ("2.7.5", 0),
        ("2.9.0", 0),
        ("3.0.0", 1),
        ("3.2.2", 1),
        ("3.2.3", 1),
        ("10.0.0", 1),
        ("1.0.0", 0),
    ],
)
def test_an_unknown_release_counts_as_the_one_before_it(version: str, counts_as: int) -> None:
    parsed = parse_version(version)
    assert parsed is not None and line_of(parsed) is LINES[counts_as]


@pytest.mark.parametrize(
    "version", ["2.7.3", "2.7.5", "v3.1.0".removeprefix("v"), "3.2.2", "", None, "unknown"]
)
def test_a_known_release_and_one_that_cannot_be_read_are_not_named(version: str | None) -> None:
    assert unknown_release(version) == []


@pytest.mark.parametrize(("version", "newest"), [("3.3.1", "3.2.2"), ("4.0.0", "3.2.2"), ("2.8.0", "2.7.5")])
def test_an_unknown_release_is_named_with_what_to_do(version: str, newest: str) -> None:
    [sentence] = unknown_release(version)
    assert sentence.startswith(f"Immich {version} is not among") and f"the page of {newest} asks" in sentence
    assert "try one from outside" in sentence


def test_lines_out_of_order_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "releases.toml"
    wrong.write_text(immich_releases.FILE.read_text().replace('first = "3.0.0"', 'first = "2.7.4"'))
    monkeypatch.setattr(immich_releases, "FILE", wrong)
    with pytest.raises(ReleasesError, match="not in the order"):
        load.__wrapped__()
    wrong.write_text(immich_releases.FILE.read_text().replace('last = "2.7.5"', 'last = "2.7"'))
    with pytest.raises(ReleasesError, match="not a version of three numbers"):
        load.__wrapped__()
